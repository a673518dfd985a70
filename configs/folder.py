"""CapsNet on your own pictures, in folders named after their classes or listed in a table.

    python experiments/train.py --config=configs/folder.py --config.data.file=DIR

With --config.data.name=csv the file is a table. docs/own_data.md describes both, and how pictures
are resized. For pictures smaller than about 20x20 make the kernels smaller, as configs/digits.py
does.
"""

from capsjax.config.own_data import make_own_data_config


def get_config(preset: str = "paper,small"):
    return make_own_data_config("folder", preset).lock()
