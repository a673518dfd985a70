"""Presets for a user's own data, of any number of examples and any size of images."""

from ml_collections import ConfigDict

from capsjax.config import make_config

# Initial lengths of class capsules: those of the paper's network, which has 1,152 primary capsules,
# for any number of them and of classes.
VOTES = "unit_votes(1.2)"
# Numbers of an image that the presets' reconstruction loss is a sum over.
PIXELS = 784


def make_own_data_config(source: str, preset: str) -> ConfigDict:
    """Make the config of a preset, with settings that suit small and imbalanced sets too.

    Args:
      source: the source of data, such as "npz".
      preset: as in `make_config`.

    Raises:
      ValueError: for an unknown preset.

    >>> make_own_data_config("npz", "paper,small").name
    'npz-paper-small'
    """
    config = make_config(preset)
    config.name = f"{source}-{preset.replace(',', '-')}"
    config.data.name = source
    config.data.validation_size = 0.15
    config.train.epochs = 20
    config.selection = "best"
    if config.model.name == "capsnet":
        config.model.class_caps.kernel_init = VOTES
        _weigh_pixels(config)
    # Chosen from the number of training examples.
    config.train.batch_size = 0
    return config


def _weigh_pixels(config: ConfigDict) -> None:
    """Make the reconstruction loss a mean, which weighs the same for images of any size."""
    loss, weights = config.reconstruction_loss, config.loss_weights
    if loss.reduction == "batch_sum":
        weights.reconstruction *= config.train.batch_size
    if loss.reduction != "mean":
        weights.reconstruction *= PIXELS
    loss.reduction = "mean"
