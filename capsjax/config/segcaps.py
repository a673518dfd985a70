"""SegCaps: the values of the released code for maps of one class, and smaller networks."""

from typing import Any

from ml_collections import ConfigDict

from capsjax.config.sections import add_compute, add_margin_loss
from capsjax.config.tagged import add_components
from capsjax.config.training import add_training_fields


def make_segcaps() -> ConfigDict:
    """Make the config of SegCaps, for shapes of 64x64 pixels."""
    config = ConfigDict()
    add_training_fields(config)
    config.name = "segcaps"
    add_shapes(config)

    model = config.model = ConfigDict()
    # Network: a name of `capsjax.models.MODELS`.
    model.name = "segcaps"
    # Whether there is a decoder, and with it a reconstruction loss.
    model.use_decoder = True
    # Layers that take all rounds of routing, the others one: "all" but the first (R3), or those
    # that are "resized" (R1).
    model.routed = "all"
    # What makes the scores of pixels: "length" or "activation" of the class capsules, or "auto".
    model.readout = "length"

    conv = model.conv = ConfigDict()
    # Channels of the first convolution, which are read as one capsule.
    conv.features = 16
    # Rows and columns of its kernel, in pixels.
    conv.kernel_size = 5
    # Initial values of its weights, see `capsjax.initializers`.
    conv.kernel_init = "glorot_uniform"
    # Initial values of its biases.
    conv.bias_init = "zeros"

    capsules = model.capsules = ConfigDict()
    # Initial values of the kernels of all capsule layers.
    capsules.kernel_init = "he_normal"

    down_caps = model.down_caps = ConfigDict()
    # Types of capsules of each layer on the way down, see `capsjax.layers.LocalConvCaps`. Fields
    # that are no tuples are for all of them.
    down_caps.types = (2, 4, 4, 8, 8, 8)
    # Dimensions of their poses.
    down_caps.pose_size = (16, 16, 32, 32, 64, 32)
    # Rows and columns of their kernels.
    down_caps.kernel_size = 5
    # Stride of each.
    down_caps.stride = (2, 1, 2, 1, 2, 1)

    up_caps = model.up_caps = ConfigDict()
    # Types of each layer that goes back up, see `capsjax.layers.LocalDeconvCaps`.
    up_caps.types = (8, 4, 2)
    # Dimensions of their poses: those of the capsules that they join.
    up_caps.pose_size = (32, 16, 16)
    # Rows and columns of their kernels.
    up_caps.kernel_size = 4
    # Factor by which each makes rows and columns grow.
    up_caps.stride = 2

    merge_caps = model.merge_caps = ConfigDict()
    # Types of the layer after each of those but the last.
    merge_caps.types = (4, 4)
    # Dimensions of their poses.
    merge_caps.pose_size = (32, 16)
    # Rows and columns of their kernels.
    merge_caps.kernel_size = 5

    class_caps = model.class_caps = ConfigDict()
    # Dimensions of the poses of the last layer, which has a type for each class but the background.
    class_caps.pose_size = 16
    # Rows and columns of its kernel.
    class_caps.kernel_size = 1

    # Routing algorithm: a name of `capsjax.routing.ROUTING`, and the settings of each, the fields
    # of its dataclass there. The control is "uniform": couplings stay at their start.
    model.routing = ConfigDict()
    add_components(model.routing, "model.routing", "dynamic")
    model.routing.dynamic.gradient = "full"
    for name in ("dynamic", "uniform", "random"):
        model.routing[name].use_bias = True

    decoder = model.decoder = ConfigDict()
    # Channels of the 1x1 convolutions before the last.
    decoder.hidden = (64, 128)
    # Initial values of their weights.
    decoder.kernel_init = "he_normal"
    # Initial values of their biases.
    decoder.bias_init = "zeros"

    add_compute(model, votes=True)
    add_map_losses(config)

    reconstruction_loss = config.reconstruction_loss = ConfigDict()
    # Reduction over pixels, then the batch: the same names.
    reconstruction_loss.reduction = "mean"
    # Whether the background of the image is to be black.
    reconstruction_loss.foreground = True
    # Weight of the reconstruction loss: 0.0005 times the number of pixels.
    config.loss_weights.reconstruction = 2.048

    config.schedule.learning_rate = 1e-3
    return config


def add_shapes(config: ConfigDict) -> None:
    """Set what a network for maps is trained on, and for how long, by default."""
    config.data.name = "shapes"
    config.data.validation_size = 100
    config.task.name = "segmentation"
    config.augment.max_shift = 0
    config.schedule.name = "constant"
    config.train.epochs = 20
    config.train.batch_size = 10
    config.evaluate.batch_size = 10


def add_map_losses(config: ConfigDict) -> None:
    """Add the losses of the scores of pixels, of which the cross-entropy has a weight above 0."""
    binary_cross_entropy_loss = config.binary_cross_entropy_loss = ConfigDict()
    # Weight of the pixels of a class against those of others, which are more.
    binary_cross_entropy_loss.positive_weight = 5.0

    soft_dice_loss = config.soft_dice_loss = ConfigDict()
    # Small number in the numerator and denominator of the Dice coefficient.
    soft_dice_loss.smooth = 1e-5

    add_margin_loss(config)
    # Whether the score of the background, which follows from the others, costs anything.
    config.margin_loss.background = False

    loss_weights = config.loss_weights = ConfigDict()
    # Weight of the weighted binary cross-entropy.
    loss_weights.binary_cross_entropy = 1.0
    # Weight of 1 - the Dice coefficient of the scores.
    loss_weights.soft_dice = 0.0
    # Weight of the margin loss.
    loss_weights.margin = 0.0


PRESETS: dict[str, dict[str, Any]] = {"segcaps": {}}

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "segcaps": {
        # The published recipe, on as many pixels.
        "paper": {
            "augment.flip_horizontal": 0.1,
            "augment.flip_vertical": 0.1,
            # alpha 1000 in their code, see `capsjax.data.augment.draw_displacements`.
            "augment.elastic": 2.0,
            "augment.elastic_sigma": 80.0,
            "data.shapes.height": 512,
            "data.shapes.width": 512,
            "data.shapes.count": 100,
            "data.shapes.test_count": 20,
            "data.validation_size": 10,
            "loss_weights.reconstruction": 131.072,
            "schedule.name": "plateau",
            "schedule.learning_rate": 1e-4,
            "schedule.plateau.factor": 0.05,
            "schedule.plateau.patience": 5,
            "schedule.plateau.min_improvement": 1e-4,
            "schedule.plateau.decay": 1e-6,
            "selection": "best",
            "selection_metric": "dice",
            "optimizer.b1": 0.99,
            "optimizer.eps": 1e-7,
            "train.epochs": 200,
            "train.patience": 25,
            "train.batch_size": 1,
            "evaluate.batch_size": 1,
        },
        # Routing only where the resolution changes.
        "r1": {"model.routed": "resized"},
        # Half of the types and dimensions, a twentieth of the parameters.
        "small": {
            "model.conv.features": 8,
            "model.down_caps.types": (2, 2, 2, 4, 4, 4),
            "model.down_caps.pose_size": (8, 8, 16, 16, 16, 16),
            "model.down_caps.kernel_size": 3,
            "model.up_caps.types": (4, 2, 2),
            "model.up_caps.pose_size": (16, 8, 8),
            "model.merge_caps.types": (2, 2),
            "model.merge_caps.pose_size": (16, 8),
            "model.merge_caps.kernel_size": 3,
            "model.class_caps.pose_size": 8,
            "data.shapes.height": 32,
            "data.shapes.width": 32,
            "loss_weights.reconstruction": 0.512,
            "schedule.learning_rate": 3e-3,
        },
    }
}
