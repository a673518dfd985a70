"""DeepCaps: exact numbers of parameters, and what it computes, against numpy."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.config import load_config, make_config
from capsjax.models import look_inside
from capsjax.training.build import build, build_train_steps
from tests import numpy_deepcaps
from tests.twenty_digits import fit_twenty_digits

# By variant: image; running means and variances included, numbers of stem and its norm, each cell,
# class capsules and decoder.
COUNTS = {
    "deepcaps": (
        (28, 28, 1),
        (1_280 + 512, 589_824, 2_064_384, 2_359_296, 1_769_472 + 18_688, 1_638_720),
        8_442_176,
        58_449,
    ),
    "deepcaps,large": (
        (64, 64, 3),
        (3_584 + 512, 589_824, 2_064_384, 2_359_296, 1_769_472 + 18_688, 6_553_920),
        13_359_680,
        67_603,
    ),
    "deepcaps,small": (
        (28, 28, 1),
        (320 + 128, 36_864, 129_024, 147_456, 110_592 + 4_672, 204_960),
        634_016,
        45_905,
    ),
}
PARTS = (("stem", "norm"), ("cell_0",), ("cell_1",), ("cell_2",), ("cell_3",), ("class",))

# 6x10 -> 3x5 -> 2x3 -> 1x2 positions.
TINY, CLASSES = (6, 10, 2), 3
POSES, STRIDES = (2, 4, 4), (2, 2, 2)
SMALL_PARTS = {
    "model.stem.features": 3,
    "model.cells.types": (2, 2, 3),
    "model.cells.pose_size": POSES,
    "model.cells.kernel_size": (3, 3, 3),
    "model.cells.stride": STRIDES,
    "model.cells.routed": (False, False, True),
    "model.class_caps.pose_size": 5,
    "model.decoder.map_features": 2,
    "model.decoder.features": (3, 2),
    "model.decoder.stride": (1, 2),
    "model.compute.conv": "lax",
    "train.batch_size": 4,
}
CONTROL = {"model.routing.agreement_3d.num_iterations": 1}


def tiny_config(changes=None):
    config = make_config("deepcaps")
    config.update_from_flattened_dict({**SMALL_PARTS, **(changes or {})})
    return config


def tiny_build(changes=None):
    return build(tiny_config(changes), TINY, CLASSES, 4)


@functools.cache
def tiny_variables():
    """Variables at which nothing is at its trivial end."""
    model = tiny_build().model
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *TINY)))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        values = rng.normal(0.1, 0.5, leaf.shape)
        return np.asarray(abs(values) + 0.5 if path[-1].key == "var" else values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, dict(shapes))


@functools.cache
def look(rounds):
    """Output and values inside, compiled for any number of images."""
    changes = {"model.routing.agreement_3d.num_iterations": rounds}
    return jax.jit(functools.partial(look_inside, tiny_build(changes).model))


def some_images(n):
    return np.random.default_rng(1).uniform(size=(n, *TINY)).astype(np.float32)


def wide(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    "variant",
    ["deepcaps", "deepcaps,large", pytest.param("deepcaps,small", marks=pytest.mark.ci)],
)
def test_number_of_parameters(variant):
    image_shape, parts, encoder, decoder = COUNTS[variant]
    model = build(make_config(variant), image_shape, 10, 256).model
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    output, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    counts = {}
    for tree in (variables["params"], variables["batch_stats"]):
        for layer in tree:
            counts[layer] = counts.get(layer, 0) + count(tree[layer])
    found = [sum(counts[name] for name in counts if name.startswith(part)) for part in PARTS]
    assert tuple(found) == parts
    assert sum(found) == encoder
    assert counts["decoder_layer"] == decoder
    assert sum(counts.values()) == encoder + decoder
    d = 16 if variant == "deepcaps,small" else 32
    chex.assert_shape(output.scores, (2, 10))
    chex.assert_shape(output.poses, (2, 10, d))
    chex.assert_shape(output.reconstruction, (2, *image_shape))


def test_forms_are_named_as_the_convolutions_are_and_have_their_sizes():
    config = make_config("deepcaps")
    config.train.batch_size = 8
    config.model.compute.conv = "stem:lax,cell_3_skip:fourier,deconv_1:strips"
    model = build(config, (28, 28, 1), 10, 8).model
    forms = model.chosen_forms(8)
    cells = {f"cell_{k}_{part}" for k in range(4) for part in ("down", "first", "second", "skip")}
    grown = {"deconv_0", "deconv_1", "deconv_2", "pixels"}
    assert forms.keys() == {"stem", *cells, *grown, "votes", "dtype"}
    assert [forms[name] for name in ("stem", "cell_3_skip", "deconv_1")] == [
        "lax",
        "fourier",
        "strips",
    ]
    sizes = {name: (maps, *image) for name, maps, image, *_ in model._convolutions()}
    assert sizes["cell_0_down"] == (1, 29, 29, 128)
    assert sizes["cell_2_down"] == (1, 9, 9, 256)
    assert sizes["cell_3_skip"] == (32, 4, 4, 8)
    assert sizes["deconv_1"] == (1, 9, 9, 64)
    assert sizes["pixels"] == (1, 31, 31, 16)


@pytest.mark.parametrize("rounds", [1, 3])
def test_forward_pass_is_that_of_the_numpy_network(rounds):
    images = some_images(2)
    expected, of_skip, of_classes = numpy_deepcaps.forward(
        wide(tiny_variables()), images, pose_sizes=POSES, strides=STRIDES, rounds=rounds
    )
    output, inside = look(rounds)(tiny_variables(), images)
    np.testing.assert_allclose(output.poses, expected, atol=1e-4)
    lengths = np.sqrt(np.sum(expected**2, axis=-1) + 1e-7)
    np.testing.assert_allclose(output.scores, lengths, atol=1e-4)
    np.testing.assert_allclose(inside["cell_2_skip"]["couplings"], of_skip, atol=1e-4)
    np.testing.assert_allclose(inside["class_layer"]["couplings"], of_classes, atol=1e-4)
    # A wrong number of rounds changes more than the tolerance.
    wrong = numpy_deepcaps.forward(
        wide(tiny_variables()), images, pose_sizes=POSES, strides=STRIDES, rounds=2
    )
    assert np.abs(wrong[0] - expected).max() > 1e-3


def test_couplings_sum_to_one_over_the_volume():
    _, inside = look(3)(tiny_variables(), some_images(2))
    c = inside["cell_2_skip"]["couplings"]
    chex.assert_shape(c, (2, 2, 3, 3))  # two positions, three child types, three types
    np.testing.assert_allclose(c.sum((1, 3)), 1, rtol=1e-5)
    assert float(c.std()) > 0.01
    # Children of the class capsules: 1x2 positions of 3 types, then 2x3 of 2.
    chex.assert_shape(inside["class_layer"]["couplings"], (2, 18, CLASSES))


def test_the_control_has_couplings_that_stay_at_their_start_in_both_layers():
    _, inside = look(1)(tiny_variables(), some_images(2))
    np.testing.assert_allclose(inside["cell_2_skip"]["couplings"], 1 / 6, rtol=1e-6)
    np.testing.assert_allclose(inside["class_layer"]["couplings"], 1 / 3, rtol=1e-6)
    shapes = [
        jax.eval_shape(lambda changes=changes: tiny_build(changes).init_state(0).params)
        for changes in ({}, CONTROL)
    ]
    chex.assert_trees_all_equal_shapes(*shapes)


@pytest.mark.ci
def test_a_batch_of_one_is_an_example_of_many():
    images = some_images(2)
    together, _ = look(3)(tiny_variables(), images)
    alone, _ = look(3)(tiny_variables(), images[1:])
    one_of_many = jax.tree.map(lambda x: x[1:], together)
    chex.assert_trees_all_equal_shapes(alone, one_of_many)
    chex.assert_trees_all_close(alone, one_of_many, atol=1e-5)


def test_the_chosen_pose_alone_is_decoded_whatever_its_class_is():
    model, variables = tiny_build().model, tiny_variables()
    output, _ = look(3)(variables, some_images(2))
    decode = jax.jit(functools.partial(model.apply, method="decode"))
    pose = np.asarray(output.poses[:, 1])
    expected = numpy_deepcaps.decode(pose, wide(variables), (3, 5, 2), (1, 2))
    of_class = np.eye(CLASSES, dtype=np.float32)[[1, 1]]
    found = decode(variables, output.poses, of_class)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert expected.max() > 0
    # As another class, and with other poses beside it.
    moved = jnp.roll(output.poses, 1, axis=1)
    moved = moved.at[:, 0].add(10)
    as_class = np.eye(CLASSES, dtype=np.float32)[[2, 2]]
    np.testing.assert_array_equal(decode(variables, moved, as_class), found)
    longest = np.eye(CLASSES, dtype=np.float32)[np.argmax(output.scores, -1)]
    expected = decode(variables, output.poses, longest)
    np.testing.assert_allclose(output.reconstruction, expected, atol=1e-6)


def assert_initial_values_are_those_of_the_released_code(params):
    kernel = np.asarray(params["cell_1_first"]["conv"]["kernel"])
    bound = (3 / (9 * 8 * 8) ** 0.5) ** 0.5
    assert 0.95 * bound < np.abs(kernel).max() <= bound
    np.testing.assert_array_equal(params["cell_2_skip"]["bias"], np.float32(0.1))
    bias = np.asarray(params["class_layer"]["bias"])
    assert 0.5 * (6 / 8) ** 0.5 < np.abs(bias).max() <= (6 / 8) ** 0.5


@pytest.mark.ci
def test_one_step_changes_every_parameter_and_the_statistics():
    config = tiny_config()
    built = tiny_build()
    state = jax.jit(built.init_state)(0)
    assert_initial_values_are_those_of_the_released_code(state.params)
    images = np.random.default_rng(2).integers(0, 256, (4, *TINY), np.uint8)
    labels = np.array([0, 1, 2, 0], np.int32)
    after, health = jax.jit(build_train_steps(config, built))(state, images, labels, np.int32(1))
    assert bool(health.finite)
    before = {"params": state.params, **state.statistics}
    changed = jax.tree.map(
        lambda x, y: bool(np.any(x != y)), before, {"params": after.params, **after.statistics}
    )
    assert all(jax.tree.leaves(changed)), changed


def test_without_a_decoder():
    model = tiny_build({"model.use_decoder": False}).model
    output, variables = jax.eval_shape(
        model.init_with_output, jax.random.key(0), jnp.zeros((1, *TINY))
    )
    assert output.reconstruction is None
    assert "decoder_layer" not in variables["params"]
    with pytest.raises(ValueError, match="no decoder"):
        model.apply(variables, jnp.zeros((1, 3, 5)), jnp.zeros((1, 3)), method="decode")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.cells.pose_size": (2, 2, 4)}, r"one size: model.cells.pose_size is \(2, 2, 4\)"),
        ({"model.cells.stride": (2, 2)}, "a value for each layer, not kernel_size 3, .*stride 2"),
        ({"model.decoder.stride": (2, 2)}, "are multiples of 4, not 6x10: .*use_decoder=False"),
        ({"model.decoder.stride": (2,)}, "a value for each transposed convolution"),
        ({"model.routed_caps.over": "types"}, "use over='all'"),
        ({"model.routing.name": "dynamik"}, "did you mean 'dynamic'"),
    ],
)
def test_settings_that_do_not_work(changes, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: tiny_build(changes).init_state(0))


def test_the_recipe_is_that_of_the_released_code():
    config = load_config("deepcaps", "hard")
    assert config.name == "deepcaps-hard"
    margins = [config.margin_loss[name] for name in ("m_plus", "m_minus", "down_weight")]
    assert margins == [0.95, 0.05, 0.8]
    schedule = build(config, (28, 28, 1), 10, 512).schedule  # two steps an epoch
    rates = [float(schedule(2 * epoch)) for epoch in (0, 9, 10, 99)]
    np.testing.assert_allclose(rates, [1e-3, 1e-3, 5e-4, 1e-3 / 2**9], rtol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("changes", [{}, CONTROL], ids=["routing", "control"])
def test_fits_20_images_at_published_width(changes):
    config = make_config("deepcaps")
    config.update_from_flattened_dict(
        {
            **changes,
            # An epoch is one step here, and ten of them halve the published rate.
            "schedule.name": "constant",
            # The published 0.99 takes hundreds of steps to forget its first running statistics.
            "model.norm.momentum": 0.9,
        }
    )
    fit_twenty_digits(config, steps=60)
