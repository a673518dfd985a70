"""The five published variants: what they compute, and what their configs say."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.config import make_config
from capsjax.config.capsnet import PRESETS
from capsjax.layers import DenseCaps
from capsjax.models import look_inside
from capsjax.notation import Capsules
from capsjax.routing import make_routing
from capsjax.training import make_evaluate
from capsjax.training.build import build
from tests import numpy_capsnet

IMAGE_SHAPE, NUM_CLASSES, BATCH = (12, 12, 2), 3, 4

# The columns of the table of published variants, as arguments of the numpy network.
PAPER = {
    "relu": False,
    "divide_by_types": False,
    "grouping": "channels",
    "rounds": 3,
    "eps": 1e-7,
    "eps_at": "root",
}
NETWORK = {
    "paper": PAPER,
    # The authors have no eps. Ours is inside the root and small enough to make no difference.
    "authors": PAPER | {"divide_by_types": True, "eps": 0.0},
    "keras": PAPER | {"rounds": 2},
    "notebook": PAPER | {"rounds": 2, "relu": True},
    "pytorch": PAPER | {"grouping": "pixels", "eps": 1e-8, "eps_at": "norm"},
}
PAPER_LOSS = {
    "margin_weight": 1.0,
    "margin_over_classes": "sum",
    "reconstruction_weight": 0.0005,
    "reconstruction_over_pixels": "sum",
    "reconstruction_over_batch": "mean",
}
LOSS = {
    "paper": PAPER_LOSS,
    "authors": PAPER_LOSS | {"margin_weight": 0.5, "margin_over_classes": "mean"},
    "keras": PAPER_LOSS | {"reconstruction_over_pixels": "mean"},
    "notebook": PAPER_LOSS | {"reconstruction_over_batch": "sum"},
    "pytorch": PAPER_LOSS | {"reconstruction_weight": 0.392, "reconstruction_over_pixels": "mean"},
}
FULL_GRADIENT = {"paper": False, "authors": True, "keras": True, "notebook": True, "pytorch": False}
CAPSULE_BIAS = {name: name == "authors" for name in NETWORK}

# Most of the time here is compilation, and these networks run in no time however they are compiled.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

each_preset = pytest.mark.parametrize("preset", NETWORK)


def tiny_config(preset):
    """The preset with a network that plain loops can follow.

    12x12 -> 11x11 -> 5x5 positions x 3 types: 25 pixels are no multiple of 4, so that with the
    grouping "pixels" capsules straddle two channels, as in the full network.
    """
    config = make_config(preset)
    config.model.conv.update(features=6, kernel_size=2)
    config.model.primary_caps.update(types=3, pose_size=4, kernel_size=3)
    config.model.class_caps.pose_size = 5
    config.model.decoder.hidden = (6, 7)
    config.train.batch_size = BATCH
    return config


def tiny_build(config):
    return build(config, IMAGE_SHAPE, NUM_CLASSES, BATCH)


def batch():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, *IMAGE_SHAPE), np.uint8)
    return images, np.array([2, 0, 1, 1], np.int32)


def float_batch():
    images, labels = batch()
    return (images / 255.0).astype(np.float32), labels


def random_params(model, seed=0):
    """Parameters at which squash, routing and losses are far from their trivial ends."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *IMAGE_SHAPE)))["params"]
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name == "bias":
            return rng.normal(0.1, 0.2, leaf.shape).astype(np.float32)
        scale = 0.3 if name == "W" else 1.5 / math.sqrt(math.prod(leaf.shape[:-1]))
        return rng.normal(0.0, scale, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def for_numpy(params):
    """The same numbers under the names of the reference, in float64."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    decoder = params["decoder_layer"]
    W = params["class_layer"]["W"]
    return {
        "conv": pair(params["conv_layer"]),
        "primary": pair(params["primary_layer"]["conv"]),
        "W": W,
        "capsule_bias": params["class_layer"].get("bias", np.zeros(W.shape[1:3])),
        "decoder": [pair(decoder[name]) for name in ("hidden_0", "hidden_1", "pixels")],
    }


def pair(layer):
    return layer["kernel"], layer["bias"]


def reference(preset, params, labels, **changes):
    images, _ = float_batch()
    settings = NETWORK[preset] | {"stride": 2} | changes
    return numpy_capsnet.forward(for_numpy(params), images.astype(np.float64), labels, **settings)


def reference_losses(preset, params, labelled=True, changes=(), **network_changes):
    images, labels = float_batch()
    output = reference(preset, params, labels if labelled else None, **network_changes)
    return numpy_capsnet.loss(output, images, labels, **LOSS[preset] | dict(changes))


@functools.cache
def results(preset):
    """Parameters, output, weighted losses and gradient of the library, compiled once a preset."""
    built = tiny_build(tiny_config(preset))
    params = random_params(built.model)

    def loss_of(params, images, labels):
        output, inside = look_inside(built.model, {"params": params}, images, labels)
        parts = built.objective.parts(output, images, labels)
        weighted = [built.objective.total({name: parts[name]}) for name in parts]
        outputs = {**output._asdict(), "c": inside["class_layer"]["couplings"]}
        return built.objective.total(parts), (outputs, dict(zip(parts, weighted, strict=True)))

    (total, (output, losses)), gradient = jit(jax.value_and_grad(loss_of, has_aux=True))(
        params, *float_batch()
    )
    return params, output, losses | {"total": total}, gradient


def test_every_preset_is_in_the_tables():
    assert set(PRESETS) == set(NETWORK) == set(LOSS) == set(FULL_GRADIENT) == set(CELLS)
    assert set(PRESETS) == set(INITIAL) == set(LEARNING_RATES)


@each_preset
def test_forward_pass_is_that_of_the_numpy_network(preset):
    params, output, _, _ = results(preset)
    expected = reference(preset, params, float_batch()[1])
    names = {"scores": "lengths", "poses": "poses", "c": "c", "reconstruction": "reconstruction"}
    for name, of_reference in names.items():
        np.testing.assert_allclose(output[name], expected[of_reference], atol=1e-4)


@each_preset
def test_losses_are_those_of_the_numpy_network(preset):
    params, _, losses, _ = results(preset)
    margin, reconstruction = reference_losses(preset, params)
    np.testing.assert_allclose(losses["margin"], margin, rtol=1e-4)
    np.testing.assert_allclose(losses["reconstruction"], reconstruction, rtol=1e-4)
    np.testing.assert_allclose(losses["total"], margin + reconstruction, rtol=1e-4)


@pytest.mark.ci
@each_preset
def test_validation_loss_is_that_of_a_training_batch_that_decodes_the_longest_capsule(preset):
    config = tiny_config(preset)
    built = tiny_build(config)
    params = random_params(built.model)
    evaluate = make_evaluate(built.model, built.objective, batch_size=3, train_batch_size=BATCH)
    sums = jit(evaluate)({"params": params}, *batch()).sums
    expected = sum(reference_losses(preset, params, labelled=False))
    np.testing.assert_allclose(sums.totals["loss"] / sums.count, expected, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper", "pytorch"])
def test_eps_stands_where_the_column_says(preset):
    # With the true eps the places differ by less than the tolerance; with this one they do not.
    config = tiny_config(preset)
    config.model.squash.eps = 0.1
    model = tiny_build(config).model
    params = random_params(model)
    poses = jit(model.apply)({"params": params}, float_batch()[0]).poses
    at = NETWORK[preset]["eps_at"]
    other = {"root": "norm", "norm": "root"}[at]
    right, wrong = (
        reference(preset, params, None, eps=0.1, eps_at=x)["poses"] for x in (at, other)
    )
    np.testing.assert_allclose(poses, right, atol=1e-4)
    assert np.abs(right - wrong).max() > 1e-2


@each_preset
def test_gradient_flows_through_the_rounds_that_the_column_says(preset):
    params, output, _, gradient = results(preset)
    rng = np.random.default_rng(1)
    direction = jax.tree.map(lambda x: rng.normal(0.0, 1.0, x.shape) * np.abs(x).mean(), params)
    slope = sum(
        np.vdot(g, d)
        for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    )

    def finite_difference(**changes):
        step = 1e-5
        ahead, behind = (
            jax.tree.map(lambda x, d, s=s: np.asarray(x, np.float64) + s * d, params, direction)
            for s in (step, -step)
        )
        rise = np.subtract(*(reference_losses(preset, x, **changes) for x in (ahead, behind)))
        return rise.sum() / (2 * step)

    full = finite_difference()
    stopped = finite_difference(couplings=np.asarray(output["c"], np.float64))
    right, wrong = (full, stopped) if FULL_GRADIENT[preset] else (stopped, full)
    np.testing.assert_allclose(slope, right, rtol=2e-3)
    assert abs(slope - wrong) > 2e-2 * abs(right)


@each_preset
@pytest.mark.parametrize("choice", ["relu", "divide_by_types", "grouping", "rounds"])
def test_a_wrong_choice_in_the_network_would_be_noticed(preset, choice):
    right = NETWORK[preset][choice]
    other = {"channels": "pixels", "pixels": "channels", 3: 2, 2: 3}
    wrong = not right if isinstance(right, bool) else other[right]
    params, output, _, _ = results(preset)
    poses = reference(preset, params, float_batch()[1], **{choice: wrong})["poses"]
    assert np.abs(poses - output["poses"]).max() > 3e-3  # 30 times the tolerance


@each_preset
@pytest.mark.parametrize("choice", sorted(PAPER_LOSS))
def test_a_wrong_choice_in_the_loss_would_be_noticed(preset, choice):
    right = LOSS[preset][choice]
    wrong = {"sum": "mean", "mean": "sum"}.get(right) or 1.01 * right
    params, _, losses, _ = results(preset)
    part = choice.split("_")[0]
    margin, reconstruction = reference_losses(preset, params, changes={choice: wrong})
    value = {"margin": margin, "reconstruction": reconstruction}[part]
    assert value != pytest.approx(float(losses[part]), rel=5e-3)


def test_a_missing_capsule_bias_would_be_noticed():
    params, output, _, _ = results("authors")
    class_layer = {**params["class_layer"], "bias": np.zeros((NUM_CLASSES, 5))}
    wrong = reference("authors", {**params, "class_layer": class_layer}, float_batch()[1])
    assert np.abs(wrong["poses"] - output["poses"]).max() > 3e-3


# Cells that are read off the config. What the paper does not state is ours, and pinned too.
PAPER_CELLS = {
    "model.conv.features": 256,
    "model.conv.kernel_size": 9,
    "model.conv.stride": 1,
    "model.conv.kernel_init": "fan_in_uniform",
    "model.conv.bias_init": "zeros",
    "model.primary_caps.types": 32,
    "model.primary_caps.pose_size": 8,
    "model.primary_caps.kernel_size": 9,
    "model.primary_caps.stride": 2,
    "model.primary_caps.grouping": "channels",
    "model.primary_caps.divide_by_types": False,
    "model.primary_caps.relu": False,
    "model.primary_caps.kernel_init": "fan_in_uniform",
    "model.primary_caps.bias_init": "zeros",
    "model.class_caps.pose_size": 16,
    "model.class_caps.kernel_init": "truncated_normal(0.1)",
    "model.routing.name": "dynamic",
    "model.routing.dynamic.num_iterations": 3,
    "model.routing.dynamic.gradient": "stop",
    "model.routing.dynamic.leaky": False,
    "model.routing.dynamic.use_bias": False,
    "model.squash.eps": 1e-7,
    "model.squash.eps_at": "root",
    "model.decoder.hidden": (512, 1024),
    "model.decoder.kernel_init": "glorot_uniform",
    "model.decoder.bias_init": "zeros",
    "margin_loss.m_plus": 0.9,
    "margin_loss.m_minus": 0.1,
    "margin_loss.down_weight": 0.5,
    "margin_loss.reduction": "sum",
    "reconstruction_loss.reduction": "sum",
    "loss_weights.margin": 1.0,
    "loss_weights.reconstruction": 0.0005,
    "schedule.name": "exponential",
    "schedule.learning_rate": 1e-3,
    "train.batch_size": 128,
    "augment.max_shift": 2,
    "selection": "last",
}
CELLS = {
    "paper": PAPER_CELLS,
    "authors": PAPER_CELLS
    | {
        "model.conv.kernel_init": "truncated_normal(0.05)",
        "model.conv.bias_init": "constant(0.1)",
        "model.primary_caps.kernel_init": "truncated_normal(0.1)",
        "model.primary_caps.bias_init": "constant(0.1)",
        "model.primary_caps.divide_by_types": True,
        "model.class_caps.kernel_init": "truncated_normal(0.1)",
        "model.routing.dynamic.gradient": "full",
        "model.routing.dynamic.use_bias": True,
        "model.routing.dynamic.bias_init": 0.1,
        "model.decoder.kernel_init": "truncated_normal(0.1)",
        "model.decoder.bias_init": "constant(0.1)",
        "margin_loss.reduction": "mean",
        "loss_weights.margin": 0.5,
        "schedule.floor": 1e-6,
        "train.epochs": 640,
        "data.validation_size": 0,
    },
    "keras": PAPER_CELLS
    | {
        "model.conv.kernel_init": "glorot_uniform",
        "model.primary_caps.kernel_init": "glorot_uniform",
        "model.class_caps.kernel_init": "glorot_uniform",
        "model.routing.dynamic.num_iterations": 2,
        "model.routing.dynamic.gradient": "full",
        "reconstruction_loss.reduction": "mean",
        "schedule.name": "constant",
        "data.validation_size": 0,
        "train.epochs": 10,
        "augment.max_shift": 0,
    },
    "notebook": PAPER_CELLS
    | {
        "model.conv.kernel_init": "glorot_uniform",
        "model.primary_caps.kernel_init": "glorot_uniform",
        "model.primary_caps.relu": True,
        "model.class_caps.kernel_init": "normal(0.01)",
        "model.routing.dynamic.num_iterations": 2,
        "model.routing.dynamic.gradient": "full",
        "reconstruction_loss.reduction": "batch_sum",
        "schedule.name": "constant",
        "train.batch_size": 50,
        "train.epochs": 10,
        "augment.max_shift": 0,
        "selection": "best",
        "data.validation_size": 5000,
    },
    "pytorch": PAPER_CELLS
    | {
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
        "loss_weights.reconstruction": 0.392,
        "data.validation_size": 0,
        "train.batch_size": 100,
        "train.epochs": 50,
    },
}


@each_preset
def test_config_says_what_the_column_says(preset):
    config = make_config(preset)
    assert {name: config[name] for name in CELLS[preset]} == CELLS[preset]


# Steps of 60,000 training images, and the rate there.
LEARNING_RATES = {
    # 0.96 each 2,000 steps, smoothly; without a floor.
    "paper": {0: 1e-3, 1000: 9.797959e-4, 2000: 9.6e-4, 20000: 6.648326e-4, 400000: 2.846e-7},
    "authors": {0: 1e-3, 1000: 9.797959e-4, 2000: 9.6e-4, 300000: 2.1912e-6, 400000: 1e-6},
    "keras": {0: 1e-3, 4679: 1e-3},
    "notebook": {0: 1e-3, 11999: 1e-3},
    # 600 steps an epoch.
    "pytorch": {0: 1e-3, 599: 1e-3, 600: 9e-4, 1199: 9e-4, 1200: 8.1e-4, 29999: 5.726e-6},
}


@each_preset
def test_learning_rate_over_the_steps(preset):
    schedule = build(make_config(preset), (28, 28, 1), 10, 60000).schedule
    rates = {step: float(schedule(step)) for step in LEARNING_RATES[preset]}
    assert rates == pytest.approx(LEARNING_RATES[preset], rel=2e-4)


def test_authors_640_epochs_are_their_300_000_steps():
    config = make_config("authors")
    steps = build(config, (28, 28, 1), 10, 60000).steps_per_epoch * config.train.epochs
    assert steps == pytest.approx(300_000, rel=0.01)


# Initial values by layer: kernel and bias. Uniform ones by their bound, with fans by hand for 64
# channels, 8 types, kernels 3x3 and 12x12x1 images: conv1 9 -> 64·9, conv2 64·9 -> 64·9,
# W 128·10·8 -> 128·10·16, decoder 160 -> 128 -> 256 -> 144.
def glorot(fan_in, fan_out):
    return ("uniform", math.sqrt(6 / (fan_in + fan_out)))


ZERO, TENTH = ("constant", 0.0), ("constant", 0.1)
GLOROT = {
    "conv": (glorot(9, 64 * 9), ZERO),
    "primary": (glorot(64 * 9, 64 * 9), ZERO),
    "hidden_0": (glorot(160, 128), ZERO),
    "hidden_1": (glorot(128, 256), ZERO),
    "pixels": (glorot(256, 144), ZERO),
}
FAN_IN = {"conv": 9, "primary": 64 * 9, "hidden_0": 160, "hidden_1": 128, "pixels": 256}
INITIAL = {
    "paper": GLOROT
    | {
        "conv": (("uniform", FAN_IN["conv"] ** -0.5), ZERO),
        "primary": (("uniform", FAN_IN["primary"] ** -0.5), ZERO),
        "W": ("truncated", 0.1),
    },
    "authors": {
        "conv": (("truncated", 0.05), TENTH),
        "W": ("truncated", 0.1),
        "capsule_bias": TENTH,
        **dict.fromkeys(("primary", "hidden_0", "hidden_1", "pixels"), (("truncated", 0.1), TENTH)),
    },
    "keras": GLOROT | {"W": glorot(128 * 10 * 8, 128 * 10 * 16)},
    "notebook": GLOROT | {"W": ("normal", 0.01)},
    "pytorch": {
        **{name: (("uniform", n**-0.5), ("uniform", n**-0.5)) for name, n in FAN_IN.items()},
        "W": ("normal", 0.01),
    },
}


def assert_drawn_from(values, distribution, parameter):
    values = np.asarray(values, np.float64)
    if distribution == "constant":
        np.testing.assert_allclose(values, parameter)
        return
    largest, deviation = np.abs(values).max(), values.std()
    # Small arrays (a bias of 64) have less to go by: five standard errors of each statistic.
    error = 5 / math.sqrt(values.size)
    if distribution == "uniform":
        assert largest <= parameter * (1 + 1e-6)
        assert largest > parameter * (1 - 2 * error)
        expected = parameter / math.sqrt(3)
    elif distribution == "truncated":
        assert 1.8 * parameter < largest <= 2 * parameter * (1 + 1e-6)
        expected = 0.87962566 * parameter  # of the normal distribution cut at ±2
    else:
        assert largest > 4 * parameter
        expected = parameter
    assert deviation == pytest.approx(expected, rel=error)
    assert abs(values.mean()) < error * expected


@pytest.mark.ci
@each_preset
def test_initial_parameters(preset):
    config = make_config(f"{preset},small")
    config.model.conv.kernel_size = config.model.primary_caps.kernel_size = 3
    config.model.decoder.hidden = (128, 256)
    model = build(config, (12, 12, 1), 10, 60000).model
    # The default generator takes seconds to compile for so many shapes.
    key = jax.random.key(0, impl="rbg")
    params = jit(model.init)(key, jnp.zeros((1, 12, 12, 1)))["params"]
    layers = {
        "conv": params["conv_layer"],
        "primary": params["primary_layer"]["conv"],
        **params["decoder_layer"],
    }
    expected = INITIAL[preset]
    assert_drawn_from(params["class_layer"]["W"], *expected["W"])
    assert ("bias" in params["class_layer"]) == CAPSULE_BIAS[preset]
    if CAPSULE_BIAS[preset]:
        assert_drawn_from(params["class_layer"]["bias"], *expected["capsule_bias"])
    for name, layer in layers.items():
        kernel, bias = expected[name]
        assert_drawn_from(layer["kernel"], *kernel)
        assert_drawn_from(layer["bias"], *bias)


def test_keras_draws_the_full_W_within_0_00466():
    init = make_config("keras").model.class_caps.kernel_init
    caps = DenseCaps(10, 16, make_routing("dynamic"), kernel_init=init)
    key = jax.random.key(0, impl="rbg")
    W = jit(caps.init)(key, Capsules(jnp.zeros((1, 1152, 8)), jnp.zeros((1, 1152))))["params"]["W"]
    chex.assert_shape(W, (1152, 10, 16, 8))
    assert float(jnp.abs(W).max()) == pytest.approx(0.00466, abs=5e-6)


@each_preset
def test_small_has_64_channels_and_8_types_and_changes_nothing_else(preset):
    whole, small = make_config(preset), make_config(f"{preset},small")
    assert small.model.conv.features == 64
    assert small.model.primary_caps.types == 8
    whole.model.conv.features, whole.model.primary_caps.types = 64, 8
    assert small.to_dict() == whole.to_dict()
