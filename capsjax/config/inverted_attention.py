"""The networks of inverted dot-product attention routing.

`--config.model.routing.inverted_attention.num_iterations=1` is the control: couplings held at
their start, uniform, in the same network. (`--config.model.routing.name=uniform` differs from it by
a squash in place of the layer norm.)
"""

from typing import Any

from ml_collections import ConfigDict

from capsjax.config.sections import add_compute
from capsjax.config.tagged import add_components
from capsjax.config.training import add_training_fields


def make_cifar10() -> ConfigDict:
    """Make the config of the network for CIFAR-10: model, loss and all fields of training."""
    config = ConfigDict()
    add_training_fields(config)
    config.name = "inverted_attention"
    config.data.name = "cifar10"
    config.augment.max_shift = 4
    config.augment.flip_horizontal = 0.5

    model = config.model = ConfigDict()
    # Network: a name of `capsjax.models.MODELS`.
    model.name = "inverted_attention"
    # Whether a layer makes all its updates before the next one begins ("sequential"), or all layers
    # one update at a time ("concurrent").
    model.stack = "concurrent"
    # What makes the class scores: a name of `capsjax.layers.readout.READOUTS`, or "auto".
    model.readout = "linear"

    backbone = model.backbone = ConfigDict()
    # Channels of each stage of residual blocks; the convolution before them has those of the first.
    backbone.features = (64, 128)
    # Residual blocks of each stage.
    backbone.blocks = (3, 4)
    # Stride of the first block of each stage.
    backbone.stride = (1, 2)
    # Initial values of the weights of its convolutions.
    backbone.kernel_init = "fan_in_uniform"

    batch_norm = model.batch_norm = ConfigDict()
    # Share of the running means and variances that is kept at each step.
    batch_norm.momentum = 0.9
    # Small number added to variances.
    batch_norm.epsilon = 1e-5

    capsules = model.capsules = ConfigDict()
    # Dimensions of the poses of all capsules; a square number for matrix votes.
    capsules.pose_size = 16
    # Votes by a "matrix" of the size of a pose, or by a "full" matrix.
    capsules.votes = "matrix"
    # Initial values of the matrices of all layers.
    capsules.kernel_init = "fan_in_votes(1.0)"

    primary_caps = model.primary_caps = ConfigDict()
    # Types of primary capsules at each position.
    primary_caps.types = 32
    # Initial values of the weights of their convolution.
    primary_caps.kernel_init = "fan_in_uniform"

    conv_caps = model.conv_caps = ConfigDict()
    # Types of capsules of each convolution of capsules.
    conv_caps.types = (32, 32)
    # Rows and columns of the windows of each.
    conv_caps.kernel_size = (3, 3)
    # Stride of each.
    conv_caps.stride = (2, 1)
    # Children of a window vote each for itself ("gathered"), or with the numbers of their poses
    # mixed as in the code released first ("scrambled"); see `capsjax.layers.ConvCaps`.
    conv_caps.windows = "gathered"
    # What a child divides itself among: "types", "all" or "positions".
    conv_caps.over = "types"

    dense_caps = model.dense_caps = ConfigDict()
    # Capsules of each dense layer before the class capsules.
    dense_caps.num_capsules = ()

    # Routing algorithm: a name of `capsjax.routing.ROUTING`, and the settings of each, the fields
    # of its dataclass there.
    model.routing = ConfigDict()
    add_components(model.routing, "model.routing", "inverted_attention")

    add_compute(model)

    loss_weights = config.loss_weights = ConfigDict()
    # Weight of the cross-entropy.
    loss_weights.cross_entropy = 1.0

    config.optimizer.name = "sgd"
    config.optimizer.weight_decay = 5e-4
    config.schedule.name = "staged"
    config.schedule.learning_rate = 0.1
    config.schedule.stage_factors = (1.0, 0.1, 0.01)
    config.schedule.stage_ends = (150, 250)
    config.train.epochs = 350
    return config


PRESETS: dict[str, dict[str, Any]] = {"inverted_attention": {}}

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "inverted_attention": {
        "cifar100": {
            "data.name": "cifar100",
            "model.capsules.pose_size": 36,
            "model.dense_caps.num_capsules": (20,),
        },
        # No recipe is published for MNIST: a tenth of the epochs, and images are shifted less.
        "mnist": {
            "data.name": "mnist",
            "augment.max_shift": 2,
            "augment.flip_horizontal": 0.0,
            "schedule.stage_ends": (15, 25),
            "train.epochs": 35,
        },
        # For laptops: a quarter of the channels, types and positions, and two blocks, not seven.
        "small": {
            "model.backbone.features": (16, 32),
            "model.backbone.blocks": (1, 1),
            "model.backbone.stride": (2, 2),
            "model.primary_caps.types": 8,
            "model.conv_caps.types": (8, 8),
        },
        # The first released code, with which the published accuracies were computed.
        "released": {"model.conv_caps.windows": "scrambled"},
    }
}
