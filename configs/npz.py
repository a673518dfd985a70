"""CapsNet on your own images, from a .npz file with `images` and `labels`.

    python experiments/train.py --config=configs/npz.py --config.data.file=my.npz

docs/own_data.md describes the file. For images smaller than about 20x20 make the kernels smaller,
as configs/digits.py does.
"""

from capsjax.config.own_data import make_own_data_config


def get_config(preset: str = "paper,small"):
    return make_own_data_config("npz", preset).lock()
