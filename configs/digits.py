"""A small CapsNet on the 1,797 digits that come with scikit-learn: no download.

python experiments/train.py --config=configs/digits.py
"""

from capsjax.config import make_config


def get_config(preset: str = "paper"):
    config = make_config(preset)
    if config.model.name not in ("capsnet", "convnet"):
        raise ValueError(
            "configs/digits.py has kernels for 8x8 pixels of the networks capsnet and convnet, not "
            f"of {config.model.name}: use the config file of that network"
        )
    config.name = f"digits-{preset.replace(',', '-')}"
    config.data.name = "digits"
    config.data.validation_size = 180

    # Kernels for 8x8 pixels.
    config.model.conv.kernel_size = 3
    if config.model.name == "capsnet":
        # 8x8 -> 6x6 -> 4x4 positions x 8 types = 128 primary capsules.
        config.model.conv.features = 64
        config.model.primary_caps.types = 8
        config.model.primary_caps.kernel_size = 3
        config.model.primary_caps.stride = 1
        # The presets' weights are for 784 pixels. A sum over 64 weighs less, a mean does not.
        if config.reconstruction_loss.reduction != "mean":
            config.loss_weights.reconstruction *= 784 / 64
    elif len(config.model.pool.after) == 2:
        # 8x8 -> 6x6 -> 4x4 -> 2x2 -> 1x1: the last convolution keeps the single pixel.
        config.model.conv.padded = (*config.model.conv.padded[:-1], True)

    config.augment.max_shift = 1
    config.schedule.learning_rate = 3e-3
    config.train.epochs = 40
    config.train.batch_size = 32
    config.selection = "best"
    config.log.every_steps = 39
    return config.lock()
