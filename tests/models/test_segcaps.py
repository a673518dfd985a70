"""SegCaps and the U-Net beside it: exact numbers of parameters, and what they compute."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.config import load_config, make_config
from capsjax.data import load_part, source_of
from capsjax.models import look_inside
from capsjax.training.build import build, build_evaluate, build_train_steps

# The rows of the table of layers, in the order of the forward pass.
ROWS = {
    "conv_layer": 416,
    "down_0": 12_832,
    "down_1": 25_664,
    "down_2": 51_328,
    "down_3": 205_056,
    "down_4": 410_112,
    "down_5": 409_856,
    "up_0": 131_328,
    "merge_0": 102_528,
    "up_1": 32_832,
    "merge_1": 25_664,
    "up_2": 8_224,
    "class_layer": 272,
    "decoder_layer": 9_537,
}
TINY = (6, 7, 1)
SMALL_PARTS = {
    "model.conv.features": 2,
    "model.conv.kernel_size": 3,
    "model.down_caps.types": (2, 2),
    "model.down_caps.pose_size": (2, 3),
    "model.down_caps.kernel_size": 3,
    "model.down_caps.stride": (2, 1),
    "model.up_caps.types": (2,),
    "model.up_caps.pose_size": (2,),
    "model.merge_caps.types": (),
    "model.merge_caps.pose_size": (),
    "model.class_caps.pose_size": 3,
    "model.decoder.hidden": (3,),
    "model.compute.conv": "lax",
    "train.batch_size": 2,
}
CLASSES = 3


def tiny_config(**changes):
    config = make_config("segcaps")
    config.update_from_flattened_dict({**SMALL_PARTS, **changes})
    return config


def count(params):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def shapes_of(preset, image_shape, num_classes=2):
    model = build(make_config(preset), image_shape, num_classes, 16).model
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    labels = jax.ShapeDtypeStruct((2, *image_shape[:2]), jnp.int32)
    output, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images, labels)
    return model, output, variables["params"]


@pytest.mark.slow
def test_number_of_parameters():
    model, output, params = shapes_of("segcaps", (64, 64, 1))
    assert {name: count(params[name]) for name in ROWS} == ROWS
    assert count(params) == sum(ROWS.values()) == 1_425_649
    chex.assert_shape(output.scores, (2, 64, 64, 2))
    chex.assert_shape(output.poses, (2, 64, 64, 1, 16))
    chex.assert_shape(output.reconstruction, (2, 64, 64, 1))
    assert set(model.chosen_forms(2)) == {
        *(name for name in ROWS if name[:2] in ("do", "up", "me") and name != "decoder_layer"),
        *("conv", "class_caps", "votes", "dtype"),
    }


@pytest.mark.parametrize(
    ("preset", "number"),
    [pytest.param("segcaps,small", 70_249, marks=pytest.mark.ci), ("unet", 1_370_710)],
)
def test_number_of_parameters_of_others(preset, number):
    model, output, params = shapes_of(preset, (30, 35, 1))
    assert count(params) == number
    chex.assert_shape(output.scores, (2, 30, 35, 2))
    assert {"segcaps": "votes", "unet": "scores"}[preset.split(",")[0]] in model.chosen_forms(2)


def test_rounds_of_the_layers():
    """All layers but the first take three rounds, or those alone that change the resolution."""
    rounds = {}
    for variant in ("segcaps", "segcaps,r1"):
        model = build(make_config(variant), (16, 16, 1), 2, 16).model
        bound = model.bind({})
        layers = [*bound.down_layers, *bound.up_layers, *bound.merge_layers, bound.class_layer]
        rounds[variant] = [layer.routing.num_iterations for layer in layers]
    assert rounds["segcaps"] == [1, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3]
    assert rounds["segcaps,r1"] == [1, 1, 3, 1, 3, 1, 3, 3, 3, 1, 1, 1]


@functools.cache
def tiny(routing="dynamic"):
    config = tiny_config(**{"model.routing.name": routing})
    built = build(config, TINY, CLASSES, 4)
    return config, built, jax.jit(built.init_state)(0)


@functools.cache
def forward():
    _, built, state = tiny()
    labels = some_labels()
    apply = jax.jit(functools.partial(look_inside, built.model))
    return apply(state.variables, some_images(), labels), apply(state.variables, some_images())


def some_images():
    return np.random.default_rng(0).uniform(size=(2, *TINY)).astype(np.float32)


def some_labels():
    return np.random.default_rng(1).integers(0, CLASSES, (2, *TINY[:2]), np.int32)


@pytest.mark.ci
def test_scores_are_lengths_and_the_background_what_they_leave():
    (output, inside), _ = forward()
    lengths = np.sqrt(np.sum(np.square(output.poses), axis=-1) + 1e-7)
    np.testing.assert_allclose(output.scores[..., 1:], lengths, rtol=1e-5)
    np.testing.assert_allclose(output.scores[..., 0], 1 - lengths.max(axis=-1), rtol=1e-5)
    # Two types from below and the one of the first convolution.
    chex.assert_shape(inside["class_layer"]["couplings"], (2, 6, 7, 3, 2))
    # One column more than the image has, which is cut off.
    chex.assert_shape(inside["up_0"]["votes"], (2, 6, 8, 2, 2, 2))


def test_the_labelled_pixels_are_decoded_and_no_others():
    _, built, state = tiny()
    (output, _), (unlabelled, _) = forward()
    decode = jax.jit(functools.partial(built.model.apply, method="decode"))
    mask = np.eye(CLASSES, dtype=np.float32)[some_labels()]
    expected = decode(state.variables, output.poses, mask)
    np.testing.assert_allclose(output.reconstruction, expected, rtol=1e-5)
    moved = output.poses + 10 * (1 - mask[..., 1:, None])
    np.testing.assert_array_equal(decode(state.variables, moved, mask), expected)
    predicted = np.eye(CLASSES, dtype=np.float32)[np.argmax(unlabelled.scores, axis=-1)]
    expected = decode(state.variables, unlabelled.poses, predicted)
    np.testing.assert_allclose(unlabelled.reconstruction, expected, rtol=1e-5)


@pytest.mark.ci
@pytest.mark.parametrize("routing", ["dynamic", "uniform"])
def test_one_step_changes_every_parameter(routing):
    config, built, state = tiny(routing)
    images = (255 * some_images()).astype(np.uint8)
    steps = jax.jit(build_train_steps(config, built))
    after, health = steps(state, images, some_labels(), np.int32(1))
    assert bool(health.finite)
    changed = jax.tree.map(lambda x, y: bool(np.any(x != y)), state.params, after.params)
    assert all(jax.tree.leaves(changed)), changed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task.name": "classification"}, "segcaps labels each pixel.*task.name=segmentation"),
        ({"model.up_caps.stride": 3}, r"strides are \[2\] and, backwards, \[3\]"),
        ({"model.merge_caps.types": (2,), "model.merge_caps.pose_size": (2,)}, "goes back what"),
        ({"model.up_caps.pose_size": (3,)}, "3 dimensions .* join those of 2 of the same size"),
        ({"model.readout": "linear"}, "'length', 'activation' or 'auto', not 'linear'"),
        ({"model.routing.name": "inverted_attention"}, "one length and no activations.*another al"),
        ({"model.routing.name": "self"}, "votes are a convolution .*use another algorithm"),
        ({"model.routed": "some"}, "unknown choice of routed layers .* 'some'; known: all, res"),
    ],
)
def test_settings_that_do_not_work(changes, message):
    config = tiny_config().unlock()
    with config.ignore_type():
        config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: build(config, TINY, CLASSES, 4).init_state(0))


def test_the_unet_labels_pixels_alone():
    config = make_config("unet,small")
    config.task.name = "multilabel"
    with pytest.raises(ValueError, match="unet labels each pixel"):
        build(config, TINY, CLASSES, 10)


def test_configs_are_named_after_their_variants():
    assert load_config("segcaps", "small,r1").name == "segcaps-small-r1"
    for config in (load_config("segcaps", "paper"), load_config("unet", "paper")):
        assert (config.selection, config.selection_metric) == ("best", "dice")
    assert load_config("unet").name == "unet"


# The published loss weighs the pixels of shapes by five, and so makes them larger.
BY_DICE = {
    "loss_weights.soft_dice": 1.0,
    "loss_weights.binary_cross_entropy": 0.0,
    "train.batch_size": 5,
    "train.epochs": 375,
    "schedule.name": "linear",
}


@pytest.mark.long
@pytest.mark.parametrize(
    ("preset", "changes"), [("segcaps", BY_DICE), ("unet", {"train.batch_size": 20})]
)
def test_fits_20_images_at_published_width(preset, changes):
    config = make_config(preset)
    config.data.shapes.update(height=32, width=32, count=20, most=2)
    config.update_from_flattened_dict(changes)
    data = load_part(part="train", **source_of(config.data))
    built = build(config, data.image_shape, data.num_classes, 20)
    state = jax.jit(built.init_state)(0)
    steps = jax.jit(build_train_steps(config, built))
    evaluate = jax.jit(build_evaluate(config, built))
    dice = 0.0
    for step in range(1500):
        state, health = steps(state, data.images, data.labels, np.int32(1))
        assert bool(health.finite)
        if step % 100 == 99:
            totals = evaluate(state.variables, data.images, data.labels).sums.totals
            dice = float(totals["dice"]) / 20
            if dice > 0.95:
                break
    assert dice > 0.95
