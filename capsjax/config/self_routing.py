"""The networks of self-routing.

`--config.model.routing.self.uniform=True` is the control: couplings held at their start, uniform,
in the same network. All activations are then equal, so that it needs the variant `poses`, which
reads the classes from poses; the network to compare it with is the same variant.
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
    config.name = "self_routing"
    config.data.name = "cifar10"
    config.augment.max_shift = 4
    config.augment.flip_horizontal = 0.5

    model = config.model = ConfigDict()
    # Network: a name of `capsjax.models.MODELS`.
    model.name = "self_routing"
    # What makes the class scores: a name of `capsjax.layers.readout.READOUTS`, or "auto".
    model.readout = "log_activation"

    backbone = model.backbone = ConfigDict()
    # Backbone: "residual" (`capsjax.layers.residual.ResidualNet`) or "plain", convolutions alone
    # (`capsjax.layers.plain.PlainNet`).
    backbone.name = "residual"
    # Channels of each stage of residual blocks, or of each plain convolution.
    backbone.features = (16, 32, 64)
    # Stride of the first block of each stage, or of each plain convolution.
    backbone.stride = (1, 2, 2)
    # Residual blocks of each stage.
    backbone.blocks = (3, 3, 3)
    # Shortcut of a residual block that changes the size: "padded" with zeros, or a "convolution".
    backbone.shortcut = "padded"
    # Initial values of the weights of convolutions, those of primary capsules included.
    backbone.kernel_init = "he_uniform"

    batch_norm = model.batch_norm = ConfigDict()
    # Share of the running means and variances that is kept at each step.
    batch_norm.momentum = 0.9
    # Small number added to variances.
    batch_norm.epsilon = 1e-5

    capsules = model.capsules = ConfigDict()
    # Types of primary capsules at each position.
    capsules.types = 32
    # Dimensions of the poses of all capsules but those of the classes.
    capsules.pose_size = 16
    # Initial values of the matrices of all layers.
    capsules.kernel_init = "he_uniform_child"

    conv_caps = model.conv_caps = ConfigDict()
    # Types of capsules of each convolution of capsules.
    conv_caps.types = ()
    # Rows and columns of the windows of each.
    conv_caps.kernel_size = ()
    # Stride of each.
    conv_caps.stride = ()
    # Padding of all: "SAME" or "VALID".
    conv_caps.padding = "SAME"
    # What a child divides itself among: "types", "all" or "positions".
    conv_caps.over = "types"

    class_caps = model.class_caps = ConfigDict()
    # Dimensions of class poses; 0 for class capsules that have activations alone.
    class_caps.pose_size = 0

    # Routing algorithm: a name of `capsjax.routing.ROUTING`, and the settings of each, the fields
    # of its dataclass there.
    model.routing = ConfigDict()
    add_components(model.routing, "model.routing", "self")

    add_compute(model)

    loss_weights = config.loss_weights = ConfigDict()
    # Weight of the cross-entropy.
    loss_weights.cross_entropy = 1.0

    config.optimizer.name = "sgd"
    config.optimizer.weight_decay = 1e-4
    config.schedule.name = "staged"
    config.schedule.learning_rate = 0.1
    config.schedule.stage_factors = (1.0, 0.1, 0.01)
    config.schedule.stage_ends = (150, 250)
    config.train.batch_size = 64
    config.train.epochs = 350
    config.selection = "best"
    config.selection_metric = "accuracy"
    return config


PRESETS: dict[str, dict[str, Any]] = {"self_routing": {}}

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "self_routing": {
        "svhn": {
            "data.name": "svhn_cropped",
            "augment.flip_horizontal": 0.0,
            # A tenth of the training images, as for CIFAR-10.
            "data.validation_size": 7325,
            "schedule.stage_ends": (100, 150),
            "train.epochs": 200,
        },
        # Images of one channel, of 32x32 pixels.
        "smallnorb": {
            "data.name": "npz",
            "data.validation_size": 0.1,
            "augment.max_shift": 0,
            "augment.flip_horizontal": 0.0,
            "model.backbone.name": "plain",
            "model.backbone.features": (16, 32, 32, 64, 64, 128),
            "model.backbone.stride": (1, 2, 1, 2, 1, 2),
            "schedule.stage_ends": (100, 150),
            "train.epochs": 200,
        },
        # No recipe is published for MNIST: a tenth of the epochs, and images are shifted less.
        "mnist": {
            "data.name": "mnist",
            "augment.max_shift": 2,
            "augment.flip_horizontal": 0.0,
            "schedule.stage_ends": (15, 25),
            "selection": "last",
            "selection_metric": "loss",
            "train.epochs": 35,
        },
        # For laptops: three plain convolutions, and a quarter of the types of capsules.
        "small": {
            "model.backbone.name": "plain",
            "model.backbone.features": (8, 16, 32),
            "model.backbone.stride": (2, 2, 1),
            "model.capsules.types": 8,
            "model.capsules.pose_size": 8,
        },
        # Classes are read from poses, so that held couplings have something to read too.
        "poses": {"model.class_caps.pose_size": 16, "model.readout": "linear"},
    }
}
