"""DeepCaps: the released code's values for images of 28x28 pixels, and its network for larger ones.

`--config.model.routing.agreement_3d.num_iterations=1` is the control: the couplings of both routed
layers, the skip of the last cell and the class capsules, stay at their start, uniform, with the
same biases and squash. (`--config.model.routing.name=uniform` differs from it by having no bias,
unless `--config.model.routing.uniform.use_bias=True`.)
"""

from typing import Any

from ml_collections import ConfigDict

from capsjax.config.sections import add_compute, add_margin_loss
from capsjax.config.tagged import add_components
from capsjax.config.training import add_training_fields


def make_deepcaps() -> ConfigDict:
    """Make the config of DeepCaps on MNIST."""
    config = ConfigDict()
    add_training_fields(config)
    config.name = "deepcaps"

    model = config.model = ConfigDict()
    # Network: a name of `capsjax.models.MODELS`.
    model.name = "deepcaps"
    # Whether there is a decoder, and with it a reconstruction loss.
    model.use_decoder = True

    stem = model.stem = ConfigDict()
    # Channels of the first convolution.
    stem.features = 128
    # Rows and columns of its kernel, in pixels.
    stem.kernel_size = 3
    # Initial values of its weights, see `capsjax.initializers`.
    stem.kernel_init = "glorot_uniform"
    # Initial values of its biases.
    stem.bias_init = "zeros"

    norm = model.norm = ConfigDict()
    # Batch norm after its ReLU: share of the running means and variances kept at each step.
    norm.momentum = 0.99
    # Small number added to variances.
    norm.epsilon = 1e-3

    cells = model.cells = ConfigDict()
    # Types of capsules of each cell. Fields that are no tuples are for all of them.
    cells.types = (32, 32, 32, 32)
    # Dimensions of the poses of each; the last two are equal, as class capsules see both.
    cells.pose_size = (4, 8, 8, 8)
    # Rows and columns of the windows of each.
    cells.kernel_size = (3, 3, 3, 3)
    # Stride of the first convolution of each; the others have 1.
    cells.stride = (2, 2, 2, 2)
    # Whether the skip of each is routed.
    cells.routed = (False, False, False, True)
    # Initial values of the weights of all convolutions that are not routed.
    cells.kernel_init = "glorot_size"

    routed_caps = model.routed_caps = ConfigDict()
    # What a child type divides itself among in a routed skip: "all" types and positions, or the
    # "types" at one position.
    routed_caps.over = "all"
    # Initial values of the kernel, which all child types share.
    routed_caps.kernel_init = "he_normal"

    class_caps = model.class_caps = ConfigDict()
    # Dimensions of the poses of the class capsules.
    class_caps.pose_size = 32
    # Norm of the incoming poses: a name of `capsjax.layers.norms.NORMS`.
    class_caps.norm = "none"
    # Initial values of the transformation matrices W.
    class_caps.kernel_init = "glorot_uniform"
    # Initial values of the bias, if the routing algorithm learns one.
    class_caps.bias_init = "glorot_uniform"

    # What makes the class scores: a name of `capsjax.layers.readout.READOUTS`, or "auto".
    model.readout = "auto"

    # Routing algorithm of routed skips and class capsules: a name of `capsjax.routing.ROUTING`, and
    # the settings of each, the fields of its dataclass there.
    model.routing = ConfigDict()
    add_components(model.routing, "model.routing", "agreement_3d")

    decoder = model.decoder = ConfigDict()
    # Channels of the small map that a pose becomes.
    decoder.map_features = 16
    # Channels of each transposed convolution but the last.
    decoder.features = (64, 32, 16)
    # The factor by which rows and columns grow in each.
    decoder.stride = (1, 2, 2)
    # Batch norm of the map: share of the running means and variances kept at each step.
    decoder.momentum = 0.8
    # Small number added to variances.
    decoder.epsilon = 1e-3
    # Initial values of its weights.
    decoder.kernel_init = "glorot_uniform"
    # Initial values of its biases.
    decoder.bias_init = "zeros"

    add_compute(model, votes=True)

    add_margin_loss(config)

    reconstruction_loss = config.reconstruction_loss = ConfigDict()
    # Reduction over pixels, then the batch: the same names.
    reconstruction_loss.reduction = "mean"

    loss_weights = config.loss_weights = ConfigDict()
    # Weight of the margin loss.
    loss_weights.margin = 1.0
    # Weight of the reconstruction loss.
    loss_weights.reconstruction = 0.4

    # All of MNIST's training images, and no selection: theirs was on the test set.
    config.data.validation_size = 0
    # Digits are mirrored too, as in the released code.
    config.augment.flip_horizontal = 0.5
    config.augment.rotation = 0.1
    config.augment.scale = 0.1
    config.schedule.decay_rate = 0.5
    config.schedule.decay_every = 10
    config.schedule.decay_unit = "epoch"
    config.schedule.staircase = True
    config.optimizer.eps = 1e-7
    config.train.batch_size = 256
    config.train.epochs = 100
    return config


PRESETS: dict[str, dict[str, Any]] = {"deepcaps": {}}

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "deepcaps": {
        # Images of 64x64: CIFAR-10 and SVHN, enlarged.
        "large": {
            "data.name": "npz",
            "augment.max_shift": 6,
            "model.decoder.features": (64, 32, 16, 8),
            "model.decoder.stride": (1, 2, 2, 2),
        },
        # The margin loss of the second hundred epochs.
        "hard": {
            "margin_loss.m_plus": 0.95,
            "margin_loss.m_minus": 0.05,
            "margin_loss.down_weight": 0.8,
        },
        # For laptops: a quarter of the channels and types, which is a sixteenth of the work.
        "small": {
            "model.stem.features": 32,
            "model.cells.types": (8, 8, 8, 8),
            "model.class_caps.pose_size": 16,
            "train.batch_size": 128,
        },
    }
}
