"""Efficient-CapsNet: the released code's values for MNIST, and its networks for other data."""

from typing import Any

from ml_collections import ConfigDict

from capsjax.config.sections import add_compute, add_margin_loss
from capsjax.config.tagged import add_components
from capsjax.config.training import add_training_fields


def make_efficient_capsnet() -> ConfigDict:
    """Make the config of Efficient-CapsNet on MNIST."""
    config = ConfigDict()
    add_training_fields(config)

    model = config.model = ConfigDict()
    # Network: a name of `capsjax.models.MODELS`.
    model.name = "efficient_capsnet"
    # Whether there is a decoder, and with it a reconstruction loss.
    model.use_decoder = True

    conv = model.conv = ConfigDict()
    # Channels of each convolution. Fields that are no tuples are for all of them.
    conv.features = (32, 64, 64, 128)
    # Rows and columns of each kernel, in pixels.
    conv.kernel_size = (5, 3, 3, 3)
    # Stride of each, in pixels.
    conv.stride = (1, 1, 1, 2)
    # Initial values of their weights, see `capsjax.initializers`.
    conv.kernel_init = "he_normal"
    # Initial values of their biases.
    conv.bias_init = "zeros"

    # Slope below zero of the leaky ReLU after each convolution; 0 is the ReLU.
    model.negative_slope = 0.0

    norm = model.norm = ConfigDict()
    # Norm after each ReLU: "batch", or "instance" for the pixels of each image.
    norm.kind = "batch"
    # Batch: share of the running means and variances that is kept at each step.
    norm.momentum = 0.99
    # Small number added to variances.
    norm.epsilon = 1e-3
    # Initial values of the learned scales.
    norm.scale_init = "constant(1.0)"
    # Initial values of the learned biases.
    norm.bias_init = "zeros"

    primary_caps = model.primary_caps = ConfigDict()
    # Dimensions of the poses: neighbouring channels of the depthwise convolution.
    primary_caps.pose_size = 8
    # Rows and columns of its kernels: those of the whole map.
    primary_caps.kernel_size = 9
    # Its stride.
    primary_caps.stride = 1
    # Initial values of its weights.
    primary_caps.kernel_init = "glorot_uniform"
    # Initial values of its biases.
    primary_caps.bias_init = "zeros"

    class_caps = model.class_caps = ConfigDict()
    # Dimensions of the poses of the class capsules.
    class_caps.pose_size = 16
    # Norm of the incoming poses: a name of `capsjax.layers.norms.NORMS`.
    class_caps.norm = "none"
    # Initial values of the transformation matrices W.
    class_caps.kernel_init = "he_normal_votes"

    # What makes the class scores: "activation" or "length" of the class capsules, a "linear"
    # function of their poses (logits), or "auto" for what the routing algorithm is published with.
    model.readout = "auto"

    # Routing algorithm: a name of `capsjax.routing.ROUTING`, and the settings of each, the fields
    # of its dataclass there. The control is "uniform": couplings stay at their start, with the same
    # squash; its 160 biases fewer change nothing that the matrices cannot express.
    model.routing = ConfigDict()
    add_components(model.routing, "model.routing", "self_attention")

    decoder = model.decoder = ConfigDict()
    # Decoder: "dense" layers, or "upsampling" of a small map.
    decoder.name = "dense"
    # Dense: widths of the hidden layers.
    decoder.hidden = (512, 1024)
    # Upsampling: channels of the convolutions but the last.
    decoder.features = (64, 128, 128)
    # Initial values of its weights.
    decoder.kernel_init = "he_normal"
    # Dense: those of the last layer.
    decoder.pixels_init = "glorot_normal"
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
    loss_weights.reconstruction = 0.392

    # All of MNIST's training images, and no selection: theirs was on the test set.
    config.data.validation_size = 0
    config.schedule.learning_rate = 5e-4
    config.schedule.decay_rate = 0.97
    config.schedule.decay_every = 1
    config.schedule.decay_unit = "epoch"
    config.schedule.staircase = True
    config.schedule.floor = 5e-5
    config.optimizer.eps = 1e-7
    config.train.batch_size = 16
    config.train.epochs = 150
    return config


PRESETS: dict[str, dict[str, Any]] = {"efficient_capsnet": {}}

# The networks for other data, and a smaller one.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "efficient_capsnet": {
        "mnist": {},
        # Two digits in an image of 36x36.
        "multimnist": {
            "data.name": "npz",
            "task.name": "multilabel",
            "task.multilabel.count": 2,
            "augment.max_shift": 0,
            "model.conv.stride": (1, 1, 2, 2),
            "model.primary_caps.kernel_size": 5,
            "model.primary_caps.stride": 2,
        },
        # Stereo pairs as the two channels of an image of 48x48.
        "smallnorb": {
            "data.name": "npz",
            "augment.max_shift": 0,
            "model.conv.kernel_size": (7, 3, 3, 3),
            "model.conv.stride": (2, 1, 1, 2),
            "model.negative_slope": 0.3,
            "model.norm.kind": "instance",
            "model.norm.scale_init": "uniform(0.05)",
            "model.norm.bias_init": "uniform(0.05)",
            "model.primary_caps.kernel_size": 8,
            "model.decoder.name": "upsampling",
            "model.decoder.kernel_init": "glorot_uniform",
        },
        # Half of the channels: a quarter of the work.
        "small": {"model.conv.features": (16, 32, 32, 64)},
    }
}
