"""Matrix capsules with EM routing.

`--config.model.routing.em.num_iterations=1` is the control: couplings held at their start, in the
same network with the same activations.
"""

from typing import Any

from ml_collections import ConfigDict

from capsjax.config.sections import add_compute
from capsjax.config.tagged import add_components
from capsjax.config.training import add_training_fields


def make_em_capsules() -> ConfigDict:
    """Make the config of matrix capsules with EM routing: model, loss, all fields of training."""
    config = ConfigDict()
    add_training_fields(config)
    config.name = "em_capsules"

    model = config.model = ConfigDict()
    # Network: a name of `capsjax.models.MODELS`.
    model.name = "em_capsules"
    # What makes the class scores: a name of `capsjax.layers.readout.READOUTS`, or "auto".
    model.readout = "activation"
    add_matrix_capsules(model)
    model.conv.kernel_init = "truncated_normal(0.05)"
    # Initial values of the convolution's biases.
    model.conv.bias_init = "constant(0.1)"
    model.primary_caps.kernel_init = "truncated_normal(0.5)"
    model.primary_caps.activation_init = "truncated_normal(3.0)"
    model.conv_caps.kernel_init = "truncated_normal(0.3)"

    class_caps = model.class_caps
    class_caps.kernel_init = "truncated_normal(0.01)"
    class_caps.coordinates = "pixels"
    # In place of the values of `model.routing.em`: see `capsjax.routing.em_routing`.
    class_caps.final_lambda = 0.005
    class_caps.min_mass = 1e-7
    class_caps.beta_u_init = 2.838
    class_caps.beta_a_init = -2500.0

    # Routing algorithm: a name of `capsjax.routing.ROUTING`, and the settings of each, the fields
    # of its dataclass there.
    model.routing = ConfigDict()
    add_components(model.routing, "model.routing", "em")

    spread_loss = config.spread_loss = ConfigDict()
    # How the margin rises: "linear", or along a "sigmoid" (see `capsjax.losses.spread_margin`).
    spread_loss.schedule = "linear"
    # First margin.
    spread_loss.margin_start = 0.2
    # Last margin, which evaluation takes at every step.
    spread_loss.margin_end = 0.9
    # Steps until the last margin; for "sigmoid" the unit of steps.
    spread_loss.margin_steps = 20_000
    # Reduction over classes, then the batch: "sum", "mean" or "batch_sum" (see `capsjax.losses`).
    spread_loss.reduction = "sum"

    loss_weights = config.loss_weights = ConfigDict()
    # Weight of the spread loss.
    loss_weights.spread = 1.0

    config.optimizer.weight_decay = 2e-7
    config.schedule.learning_rate = 3e-3
    config.schedule.decay_every = 20_000
    config.train.epochs = 30
    config.train.batch_size = 64
    config.evaluate.batch_size = 50
    return config


def add_matrix_capsules(model: ConfigDict) -> None:
    """Add the sections that all networks of matrix capsules have."""
    image_input = model.input = ConfigDict()
    # Rows and columns of a square that is cropped out of each image, in pixels: at random in
    # training, the central one in testing. 0 takes whole images.
    image_input.crop = 0
    # Squares that are cropped in testing, whose scores are averaged: 1, the central one, or 13.
    image_input.crops = 1
    # What is standardised to mean 0 and variance 1: each "image", each "channel" of it, or "none".
    image_input.standardize = "none"
    # Whether whole images are standardised, before the crop; otherwise crops are, after brightness
    # and contrast, which that undoes, as it does `augment.brightness` and `augment.contrast`.
    image_input.standardize_first = False
    # Training: largest number that is added to all pixels or taken from them, in standard
    # deviations of an image that was standardised first.
    image_input.brightness = 0.0
    # Training: deviations from the mean change by a factor between 1 - and 1 + contrast.
    image_input.contrast = 0.0

    conv = model.conv = ConfigDict()
    # Channels of the first convolution.
    conv.features = 32
    # Rows and columns of its kernel, in pixels.
    conv.kernel_size = 5
    # Its stride, in pixels.
    conv.stride = 2
    # Initial values of its weights, see `capsjax.initializers`.
    conv.kernel_init = "he_uniform"

    capsules = model.capsules = ConfigDict()
    # Dimensions of the poses of all capsules; a square number for matrix votes.
    capsules.pose_size = 16
    # Votes by a "matrix" of the size of a pose, or by a "full" matrix.
    capsules.votes = "matrix"

    primary_caps = model.primary_caps = ConfigDict()
    # Types of primary capsules at each position.
    primary_caps.types = 32
    # Initial values of the weights of the convolution to poses.
    primary_caps.kernel_init = "glorot_uniform"
    # Initial values of the weights of the convolution to activations.
    primary_caps.activation_init = "glorot_uniform"
    # Added to the logits of the activations.
    primary_caps.activation_offset = 0.0

    conv_caps = model.conv_caps = ConfigDict()
    # Types of capsules of each convolution of capsules.
    conv_caps.types = (32, 32)
    # Rows and columns of the windows of each.
    conv_caps.kernel_size = (3, 3)
    # Stride of each.
    conv_caps.stride = (2, 1)
    # What a child divides itself among: "types", "all", "positions" or "released" (see
    # `capsjax.routing.competition.window_competition`).
    conv_caps.over = "all"
    # Its first couplings are 1 / the size of that "set", or 1 / the number of "types".
    conv_caps.start = "set"
    # Initial values of their matrices.
    conv_caps.kernel_init = "glorot_votes(9)"

    class_caps = model.class_caps = ConfigDict()
    # Initial values of their matrices, which all positions share.
    class_caps.kernel_init = "glorot_votes(1)"
    # Scale of the coordinates that are added to votes: "share", "tenths", "pixels" or "none" (see
    # `capsjax.layers.coordinates.make_coordinates`).
    class_caps.coordinates = "tenths"
    # Entries of a vote that the coordinates of row and column are added to.
    class_caps.entries = (3, 7)

    add_compute(model)


PRESETS: dict[str, dict[str, Any]] = {"em_capsules": {}}

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "em_capsules": {
        # The smaller network of the paper: a fifth of the parameters.
        "small": {
            "model.conv.features": 64,
            "model.primary_caps.types": 8,
            "model.conv_caps.types": (16, 16),
        },
        # Stereo pairs. The paper standardises, crops, and then changes brightness and contrast; it
        # does not say by how much: as the released code does. That code takes up to 2 million
        # steps of 64 images, and the paper gives no number; these are 57,000.
        "smallnorb": {
            "data.name": "smallnorb",
            "data.validation_size": 0,
            "augment.max_shift": 0,
            "model.input.crop": 32,
            "model.input.standardize": "image",
            "model.input.standardize_first": True,
            "model.input.brightness": 63 / 255,
            "model.input.contrast": 0.8,
            "train.epochs": 150,
        },
        # The code that the paper's authors released.
        "released": {
            "model.input.standardize_first": False,
            "model.primary_caps.activation_offset": -1.0,
            "model.conv_caps.over": "released",
            "model.conv_caps.start": "types",
            "model.class_caps.entries": (1, 0),
            "model.class_caps.min_mass": 1e-5,
            "model.routing.em.damping": 0.1,
            "spread_loss.schedule": "sigmoid",
            "spread_loss.margin_end": 0.99,
            "spread_loss.margin_steps": 50_000,
            "spread_loss.reduction": "mean",
            "schedule.learning_rate": 0.01,
            # 300,000 steps of MNIST, after which the margin is 0.9.
            "train.epochs": 350,
        },
    }
}
