"""Networks without capsules: the pooling document's, and the paper's baseline."""

from typing import Any

from ml_collections import ConfigDict

from capsjax.config.sections import add_compute
from capsjax.config.tagged import add_components
from capsjax.config.training import add_training_fields


def make_capsule_pooling() -> ConfigDict:
    """Make the config of the network that compares poolings, trained as in its document."""
    config = ConfigDict()
    add_training_fields(config)
    config.data.validation_size = 0
    config.augment.max_shift = 0

    model = config.model = ConfigDict()
    # Network: a name of `capsjax.models.MODELS`.
    model.name = "convnet"

    conv = model.conv = ConfigDict()
    # Channels of each convolution.
    conv.features = (32, 64, 128, 128, 256)
    # Whether each convolution is padded with zeros, to keep the size of its image.
    conv.padded = (False, False, True, True, False)
    # Rows and columns of all kernels, in pixels.
    conv.kernel_size = 3
    # Initial values of their weights, see `capsjax.initializers`.
    conv.kernel_init = "glorot_uniform"
    # Initial values of their biases.
    conv.bias_init = "zeros"

    pool = model.pool = ConfigDict()
    # Numbers, from 1, of the convolutions that batch norm, pooling and dropout follow.
    pool.after = (2, 4)
    # Rows and columns of a window, and from one window to the next.
    pool.window = (3, 3)
    # Padding of the windows: "SAME" or "VALID".
    pool.padding = "SAME"
    # Pooling: a name of `capsjax.layers.pooling.POOLINGS`, and the settings of each with any.
    add_components(pool, "model.pool", "capsule")

    batch_norm = model.batch_norm = ConfigDict()
    # Share of the running means and variances that is kept at each step.
    batch_norm.momentum = 0.99
    # Small number added to variances.
    batch_norm.epsilon = 1e-3

    dense = model.dense = ConfigDict()
    # Widths of the dense layers before the scores.
    dense.features = (128,)
    # Initial values of their weights.
    dense.kernel_init = "glorot_uniform"
    # Initial values of their biases.
    dense.bias_init = "zeros"

    dropout = model.dropout = ConfigDict()
    # Dropout rate after each pooling.
    dropout.pool = 0.4
    # Dropout rate after each dense layer.
    dropout.dense = (0.3,)

    add_compute(model, dtype="auto")

    loss_weights = config.loss_weights = ConfigDict()
    # Weight of the cross-entropy.
    loss_weights.cross_entropy = 1.0

    # Three stages of 15 epochs, each with a new Adam state.
    config.schedule.name = "staged"
    config.schedule.stage_factors = (1.0, 0.1, 0.01)
    config.schedule.stage_ends = (15, 30)
    config.optimizer.fresh_epochs = (15, 30)
    config.optimizer.eps = 1e-7
    config.train.epochs = 45
    return config


PRESETS: dict[str, dict[str, Any]] = {
    # A notebook that compares capsule pooling with max pooling.
    "capsule_pooling": {},
    # The baseline of the CapsNet paper, which states neither its padding (this one makes its
    # 35.4 million parameters) nor its dropout rate. Trained as `paper` is.
    "cnn": {
        "data.validation_size": 5000,
        "augment.max_shift": 2,
        "model.conv.features": (256, 256, 128),
        "model.conv.padded": (True, True, True),
        "model.conv.kernel_size": 5,
        "model.pool.after": (),
        "model.dense.features": (328, 192),
        "model.dropout.dense": (0.0, 0.5),
        "schedule.name": "exponential",
        "optimizer.fresh_epochs": (),
        "optimizer.eps": 1e-8,
        "train.epochs": 50,
    },
}

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "capsule_pooling": {
        pooling: {"model.pool.name": pooling} for pooling in ("capsule", "max", "average")
    },
    # A quarter of the channels and widths: about as many parameters as the small CapsNet.
    "cnn": {"small": {"model.conv.features": (64, 64, 32), "model.dense.features": (82, 48)}},
}
