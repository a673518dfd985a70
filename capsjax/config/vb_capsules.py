"""Matrix capsules with variational Bayes routing.

`--config.model.routing.vb.num_iterations=1` is the control: couplings held at their start, in the
same network with the same activations.
"""

from typing import Any

from ml_collections import ConfigDict

from capsjax.config.em_capsules import add_matrix_capsules
from capsjax.config.tagged import add_components
from capsjax.config.training import add_training_fields


def make_vb_capsules() -> ConfigDict:
    """Make the config of matrix capsules with VB routing: model, loss, all fields of training."""
    config = ConfigDict()
    add_training_fields(config)
    config.name = "vb_capsules"

    model = config.model = ConfigDict()
    # Network: a name of `capsjax.models.MODELS`.
    model.name = "vb_capsules"
    # What makes the class scores: a name of `capsjax.layers.readout.READOUTS`, or "auto".
    model.readout = "activation"
    add_matrix_capsules(model)
    model.conv.features = 64
    # Whether the convolution has a bias; the batch norm after it makes one useless.
    model.conv.use_bias = False
    model.primary_caps.types = 8
    model.conv_caps.types = (16, 16)
    model.conv_caps.start = "types"

    batch_norm = model.batch_norm = ConfigDict()
    # Share of the running means and variances that is kept at each step.
    batch_norm.momentum = 0.9
    # Small number added to variances.
    batch_norm.epsilon = 1e-5

    # Routing algorithm: a name of `capsjax.routing.ROUTING`, and the settings of each, the fields
    # of its dataclass there.
    model.routing = ConfigDict()
    add_components(model.routing, "model.routing", "vb")
    model.routing.vb.activation = "logit"

    loss_weights = config.loss_weights = ConfigDict()
    # Weight of the cross-entropy.
    loss_weights.cross_entropy = 1.0

    config.schedule.name = "constant"
    config.train.epochs = 30
    config.evaluate.batch_size = 50
    return config


PRESETS: dict[str, dict[str, Any]] = {"vb_capsules": {}}

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "vb_capsules": {
        # Stereo pairs: the recipe of the released code, on all training images.
        "smallnorb": {
            "data.name": "smallnorb",
            "data.validation_size": 0,
            "augment.max_shift": 0,
            "model.input.crop": 32,
            "model.input.standardize": "channel",
            "train.epochs": 300,
        },
    }
}
