"""CapsNet on your own images, from a .npz file with `images` and `labels`.

    python experiments/train.py --config=configs/npz.py --config.data.file=my.npz

README.md ("Your own data") describes the file. For images smaller than about 20x20 make the
kernels smaller, as configs/digits.py does.
"""

from capsjax.config import make_config


def get_config(preset: str = "paper,small"):
    config = make_config(preset)
    config.name = f"npz-{preset.replace(',', '-')}"
    config.data.name = "npz"
    config.data.validation_size = 100
    config.train.epochs = 20
    config.selection = "best"
    return config.lock()
