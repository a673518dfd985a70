"""A plain U-Net, in the frame of SegCaps: the same data, losses and scores."""

from typing import Any

from ml_collections import ConfigDict

from capsjax.config.sections import add_compute
from capsjax.config.segcaps import VARIANTS as SEGCAPS
from capsjax.config.segcaps import add_map_losses, add_shapes
from capsjax.config.training import add_training_fields


def make_unet() -> ConfigDict:
    """Make the config of a U-Net of about as many parameters as SegCaps."""
    config = ConfigDict()
    add_training_fields(config)
    config.name = "unet"
    add_shapes(config)

    model = config.model = ConfigDict()
    # Network: a name of `capsjax.models.MODELS`.
    model.name = "unet"

    conv = model.conv = ConfigDict()
    # Channels of each level, from the size of the image down.
    conv.features = (27, 54, 108, 216)
    # Rows and columns of all kernels, in pixels.
    conv.kernel_size = 3
    # Initial values of their weights, see `capsjax.initializers`.
    conv.kernel_init = "he_normal"
    # Initial values of their biases.
    conv.bias_init = "zeros"

    up = model.up = ConfigDict()
    # Rows and columns of the kernels of the transposed convolutions, of stride 2.
    up.kernel_size = 2
    # Initial values of their weights.
    up.kernel_init = "he_normal"
    # Initial values of their biases.
    up.bias_init = "zeros"

    add_compute(model)
    add_map_losses(config)
    config.schedule.learning_rate = 1e-3
    return config


PRESETS: dict[str, dict[str, Any]] = {"unet": {}}

# Data and recipe of each are those of SegCaps.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "unet": {
        name: {
            field: value
            for field, value in SEGCAPS["segcaps"][name].items()
            if not field.startswith("model.") and field != "loss_weights.reconstruction"
        }
        for name in ("paper", "small")
    }
}
VARIANTS["unet"]["small"]["model.conv.features"] = (6, 12, 24, 48)
