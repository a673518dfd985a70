"""CapsNet: the paper's values, and the published variants as presets."""

from typing import Any

from ml_collections import ConfigDict

from capsjax.config.sections import add_compute, add_margin_loss
from capsjax.config.tagged import add_components
from capsjax.config.training import add_training_fields


def make_paper() -> ConfigDict:
    """Make the config of the paper's CapsNet: model, losses and all fields of training."""
    config = ConfigDict()
    add_training_fields(config)

    model = config.model = ConfigDict()
    # Network: a name of `capsjax.models.MODELS`.
    model.name = "capsnet"
    # Whether there is a decoder, and with it a reconstruction loss.
    model.use_decoder = True

    conv = model.conv = ConfigDict()
    # Channels of the first convolution.
    conv.features = 256
    # Rows and columns of its kernel, in pixels.
    conv.kernel_size = 9
    # Its stride, in pixels.
    conv.stride = 1
    # Initial values of its weights, see `capsjax.initializers`. Not stated in the paper. Glorot,
    # which also counts the 20,736 weights out of a pixel, makes the 81 into a channel too small.
    conv.kernel_init = "fan_in_uniform"
    # Initial values of its biases.
    conv.bias_init = "zeros"

    primary_caps = model.primary_caps = ConfigDict()
    # Types of primary capsules at each position.
    primary_caps.types = 32
    # Dimensions of their poses.
    primary_caps.pose_size = 8
    # Rows and columns of the kernel of their convolution.
    primary_caps.kernel_size = 9
    # Stride of their convolution.
    primary_caps.stride = 2
    # What makes a capsule: neighbouring "channels", or neighbouring "pixels" of a channel.
    primary_caps.grouping = "channels"
    # Whether to divide the convolution by the number of types before the bias is added.
    primary_caps.divide_by_types = False
    # Whether a ReLU comes before the squash.
    primary_caps.relu = False
    # Initial values of its weights. Not stated in the paper.
    primary_caps.kernel_init = "fan_in_uniform"
    # Initial values of its biases.
    primary_caps.bias_init = "zeros"

    conv_caps = model.conv_caps = ConfigDict()
    # Types of capsules of each layer between the primary and the class capsules, see
    # `capsjax.layers.ConvCaps`; the paper's network has no such layer.
    conv_caps.types = ()
    # Dimensions of the poses of each layer.
    conv_caps.pose_size = ()
    # Rows and columns of the windows of each layer.
    conv_caps.kernel_size = ()
    # Stride of each layer.
    conv_caps.stride = ()
    # Padding of all of these layers: "VALID" or "SAME".
    conv_caps.padding = "VALID"
    # Children of a window vote each for itself ("gathered"), or "summed" over it by type.
    conv_caps.windows = "gathered"
    # What a child divides itself among: "types", "all" or "positions".
    conv_caps.over = "all"
    # Its first couplings are 1 / the size of that "set", or 1 / the number of "types".
    conv_caps.start = "set"
    # Norm of the incoming poses: a name of `capsjax.layers.norms.NORMS`.
    conv_caps.norm = "rms"
    # Initial values of their matrices.
    conv_caps.kernel_init = "unit_votes(1.0)"

    class_caps = model.class_caps = ConfigDict()
    # Dimensions of the poses of the class capsules.
    class_caps.pose_size = 16
    # Norm of the incoming poses: a name of `capsjax.layers.norms.NORMS`.
    class_caps.norm = "none"
    # Initial values of the transformation matrices W.
    class_caps.kernel_init = "truncated_normal(0.1)"

    # What makes the class scores: "activation" or "length" of the class capsules; as logits, their
    # "log_activation" or a "linear" function of poses; or "auto", as the algorithm is published.
    model.readout = "auto"

    # Routing algorithm: a name of `capsjax.routing.ROUTING`, and the settings of each, the fields
    # of its dataclass there.
    model.routing = ConfigDict()
    add_components(model.routing, "model.routing", "dynamic")

    squash = model.squash = ConfigDict()
    # Small number in squash and in lengths, for all capsules.
    squash.eps = 1e-7
    # Where squash adds it: "root" divides by sqrt(|s|² + eps), "norm" by |s| + eps.
    squash.eps_at = "root"

    decoder = model.decoder = ConfigDict()
    # Widths of the hidden layers.
    decoder.hidden = (512, 1024)
    # Initial values of its weights. Not stated in the paper.
    decoder.kernel_init = "glorot_uniform"
    # Initial values of its biases.
    decoder.bias_init = "zeros"

    add_compute(model, dtype="auto", votes=True)

    add_margin_loss(config)

    reconstruction_loss = config.reconstruction_loss = ConfigDict()
    # Reduction over pixels, then the batch: the same names.
    reconstruction_loss.reduction = "sum"

    loss_weights = config.loss_weights = ConfigDict()
    # Weight of the margin loss.
    loss_weights.margin = 1.0
    # Weight of the reconstruction loss; its scale depends on the reduction.
    loss_weights.reconstruction = 0.0005
    return config


# The published variants: the fields that each changes from the paper's values above.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    # The code that the paper's authors released.
    "authors": {
        "data.validation_size": 0,
        "model.conv.kernel_init": "truncated_normal(0.05)",
        "model.conv.bias_init": "constant(0.1)",
        "model.primary_caps.kernel_init": "truncated_normal(0.1)",
        "model.primary_caps.bias_init": "constant(0.1)",
        "model.primary_caps.divide_by_types": True,
        "model.class_caps.kernel_init": "truncated_normal(0.1)",
        "model.routing.dynamic.gradient": "full",
        "model.routing.dynamic.use_bias": True,
        "model.decoder.kernel_init": "truncated_normal(0.1)",
        "model.decoder.bias_init": "constant(0.1)",
        "margin_loss.reduction": "mean",
        "loss_weights.margin": 0.5,
        "schedule.floor": 1e-6,
        # 300,000 steps of 128 images are 640 passes over 60,000.
        "train.epochs": 640,
    },
    # A Keras tutorial, whose loop runs one round fewer than stated, and whose MSE makes the
    # reconstruction loss 784 times weaker than the paper's.
    "keras": {
        "data.validation_size": 0,
        "augment.max_shift": 0,
        "model.conv.kernel_init": "glorot_uniform",
        "model.primary_caps.kernel_init": "glorot_uniform",
        "model.class_caps.kernel_init": "glorot_uniform",
        "model.routing.dynamic.num_iterations": 2,
        "model.routing.dynamic.gradient": "full",
        "reconstruction_loss.reduction": "mean",
        "schedule.name": "constant",
        "optimizer.eps": 1e-7,
        "train.epochs": 10,
    },
    # A TensorFlow notebook.
    "notebook": {
        "augment.max_shift": 0,
        "model.conv.kernel_init": "glorot_uniform",
        "model.primary_caps.kernel_init": "glorot_uniform",
        "model.primary_caps.relu": True,
        "model.class_caps.kernel_init": "normal(0.01)",
        "model.routing.dynamic.num_iterations": 2,
        "model.routing.dynamic.gradient": "full",
        "reconstruction_loss.reduction": "batch_sum",
        "schedule.name": "constant",
        "train.epochs": 10,
        "train.batch_size": 50,
        "selection": "best",
    },
    # A PyTorch tutorial, whose primary capsules are pixels.
    "pytorch": {
        "data.validation_size": 0,
        "model.conv.kernel_init": "fan_in_uniform",
        "model.conv.bias_init": "fan_in_uniform",
        "model.primary_caps.kernel_init": "fan_in_uniform",
        "model.primary_caps.bias_init": "fan_in_uniform",
        "model.primary_caps.grouping": "pixels",
        "model.class_caps.kernel_init": "normal(0.01)",
        "model.squash.eps": 1e-8,
        "model.squash.eps_at": "norm",
        "model.decoder.kernel_init": "fan_in_uniform",
        "model.decoder.bias_init": "fan_in_uniform",
        "reconstruction_loss.reduction": "mean",
        # 0.0005 x 784 pixels.
        "loss_weights.reconstruction": 0.392,
        "schedule.decay_rate": 0.9,
        "schedule.decay_every": 1,
        "schedule.decay_unit": "epoch",
        "schedule.staircase": True,
        "train.batch_size": 100,
    },
}

# About a thirtieth of the work: a minute per epoch of MNIST on two cores.
SMALL = {"model.conv.features": 64, "model.primary_caps.types": 8}

VARIANTS = {preset: {"small": SMALL} for preset in PRESETS}
