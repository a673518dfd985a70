"""Models: exact numbers of parameters, any size of image, masks, batches, gradients."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from capsjax.config import FAMILIES, load_config, make_config
from capsjax.config.capsnet import PRESETS
from capsjax.models import MODELS, look_inside
from capsjax.training.build import build
from tests.tiny import ROOT

CONFIGS = ROOT / "configs"
MNIST, DIGITS = (28, 28, 1), (8, 8, 1)

# By model and preset: image, then parameters by part.
COUNTS = {
    ("capsnet", "paper"): (MNIST, [20_992, 5_308_672, 1_474_560, 1_411_344], 8_215_568),
    # A bias of 10 x 16 for the class capsules.
    ("capsnet", "authors"): (MNIST, [20_992, 5_308_672, 1_474_720, 1_411_344], 8_215_728),
    ("capsnet", "keras"): (MNIST, [20_992, 5_308_672, 1_474_560, 1_411_344], 8_215_568),
    ("capsnet", "notebook"): (MNIST, [20_992, 5_308_672, 1_474_560, 1_411_344], 8_215_568),
    ("capsnet", "pytorch"): (MNIST, [20_992, 5_308_672, 1_474_560, 1_411_344], 8_215_568),
    ("capsnet", "paper,small"): (MNIST, [5_248, 331_840, 368_640, 1_411_344], 2_117_072),
    ("capsnet", "authors,small"): (MNIST, [5_248, 331_840, 368_800, 1_411_344], 2_117_232),
    ("capsnet", "digits"): (DIGITS, [640, 36_928, 163_840, 673_344], 874_752),
}
# Networks without capsules: convolutions, batch norm, its statistics, dense layers, scores.
CONVNETS = {
    "capsule_pooling": ([535_424, 384, 384, 32_896, 1_290], 570_378),
    "capsule_pooling,max": ([535_424, 384, 384, 32_896, 1_290], 570_378),
    "capsule_pooling,average": ([535_424, 384, 384, 32_896, 1_290], 570_378),
    # Padded, 28 x 28 x 128 = 100,352 features; the paper says 35.4 million.
    "cnn": ([2_464_640, 0, 0, 32_978_952, 1_930], 35_445_522),
    "cnn,small": ([155_360, 0, 0, 2_061_282, 490], 2_217_132),
}
PARTS = ("conv_layer", "primary_layer", "class_layer", "decoder_layer")

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
each_preset = pytest.mark.parametrize("preset", PRESETS)


def model_of(config, image_shape=MNIST, num_classes=10):
    return build(config, image_shape, num_classes, 1000).model


def count(params):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def shapes_of(model, batch=1):
    """Output and parameters as shapes, without computing anything."""
    images = jax.ShapeDtypeStruct((batch, *model.image_shape), jnp.float32)
    output, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    return output, variables["params"]


def inside_of(model, batch):
    """What the layers let out, as shapes."""
    images = jnp.zeros((batch, *model.image_shape))
    labels = jnp.zeros(batch, jnp.int32)

    def look(images, labels):
        variables = model.init(jax.random.key(0), images, labels)
        return look_inside(model, variables, images, labels)[1]

    return jax.eval_shape(look, images, labels)


@pytest.mark.parametrize(("name", "preset"), COUNTS)
def test_number_of_parameters(name, preset):
    image_shape, parts, total = COUNTS[name, preset]
    config = load_config(CONFIGS / "digits.py") if preset == "digits" else make_config(preset)
    assert config.model.name == name
    _, params = shapes_of(model_of(config, image_shape))
    assert {part: count(params[part]) for part in params} == dict(zip(PARTS, parts, strict=True))
    assert count(params) == total


@pytest.mark.parametrize("preset", CONVNETS)
def test_number_of_parameters_without_capsules(preset):
    *parts, total = *CONVNETS[preset][0], CONVNETS[preset][1]
    config = make_config(preset)
    assert config.model.name == "convnet"
    model = model_of(config)
    images = jax.ShapeDtypeStruct((1, *MNIST), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    params = variables["params"]
    counts = [
        sum(count(params[name]) for name in params if name.startswith(start))
        for start in ("conv", "norm", "dense", "scores")
    ]
    counts.insert(2, count(variables.get("batch_stats", {})))
    assert counts == parts
    assert sum(counts) == total == count(variables)


def test_encoder_and_decoder_of_the_paper():
    config = make_config()
    config.model.use_decoder = False
    _, encoder = shapes_of(model_of(config))
    assert count(encoder) == 6_804_224
    assert count(encoder) + 1_411_344 == COUNTS["capsnet", "paper"][-1]
    chex.assert_shape(encoder["class_layer"]["W"], (1152, 10, 16, 8))


def test_every_model_and_preset_is_in_the_table():
    assert set(MODELS) == set(FAMILIES)
    assert {model for model, _ in COUNTS} == {"capsnet"}
    assert set(FAMILIES["capsnet"].presets) <= {preset for _, preset in COUNTS}
    assert set(FAMILIES["convnet"].presets) <= set(CONVNETS)


def test_a_model_of_another_config_is_named():
    config = make_config()
    config.model.name = "deepcaps"
    with pytest.raises(ValueError, match=r"not those of model.name=deepcaps \(.*'stem'\): start"):
        model_of(config)


def test_unknown_model_names_the_nearest():
    config = make_config()
    config.model.name = "capsnett"
    with pytest.raises(ValueError, match="did you mean 'capsnet'"):
        model_of(config)


@each_preset
def test_paper_has_1152_primary_capsules(preset):
    model = model_of(make_config(preset))
    output, _ = shapes_of(model, batch=3)
    inside = inside_of(model, batch=3)
    grid = (1152,) if preset == "pytorch" else (6, 6, 32)
    chex.assert_shape(inside["primary_layer"]["poses"], (3, *grid, 8))
    chex.assert_shape(inside["class_layer"]["votes"], (3, 1152, 10, 16))
    chex.assert_shape(inside["class_layer"]["couplings"], (3, 1152, 10))
    chex.assert_shape(output.scores, (3, 10))
    chex.assert_shape(output.poses, (3, 10, 16))
    chex.assert_shape(output.reconstruction, (3, 28, 28, 1))


@pytest.mark.parametrize(
    ("image_shape", "num_classes", "capsules"),
    [
        ((28, 28, 1), 10, 6 * 6 * 32),
        ((32, 32, 3), 10, 8 * 8 * 32),
        ((20, 24, 2), 7, 2 * 4 * 32),
        ((17, 17, 1), 2, 32),  # the smallest that fits
        ((18, 40, 5), 100, 1 * 12 * 32),
    ],
)
@pytest.mark.parametrize("preset", ["paper", "pytorch"])  # the two groupings
def test_images_of_any_size(preset, image_shape, num_classes, capsules):
    output, params = shapes_of(model_of(make_config(preset), image_shape, num_classes), batch=2)
    chex.assert_shape(params["class_layer"]["W"], (capsules, num_classes, 16, 8))
    chex.assert_shape(output.scores, (2, num_classes))
    chex.assert_shape(output.reconstruction, (2, *image_shape))


@pytest.mark.parametrize(
    ("image_shape", "message"),
    [
        ((8, 28, 1), r"model\.conv needs at least 9x9 pixels .* gets 8x28"),
        ((28, 16, 1), r"model\.primary_caps needs at least 9x9 pixels .* gets 20x8"),
    ],
)
def test_image_that_is_too_small(image_shape, message):
    with pytest.raises(ValueError, match=message):
        shapes_of(model_of(make_config(), image_shape))


def tiny_config(preset="paper", **model):
    """Fast enough to run: 10x11x2 images, 4x4 positions x 2 types."""
    config = make_config(preset)
    config.model.conv.update(features=4, kernel_size=2)
    config.model.primary_caps.update(types=2, pose_size=3, kernel_size=3)
    config.model.class_caps.pose_size = 4
    config.model.decoder.hidden = (5, 6)
    config.model.update(model)
    return config


TINY = (10, 11, 2)
CAPSULES = 4 * 4 * 2


@functools.cache
def tiny(preset="paper", use_decoder=True):
    """A small network with parameters at which the classes' lengths differ."""
    model = model_of(tiny_config(preset, use_decoder=use_decoder), TINY, 3)
    rng = np.random.default_rng(0)
    shapes = shapes_of(model)[1]
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.5, x.shape), x.dtype), shapes)
    apply = jit(model.apply)
    return model, params, lambda *inputs: apply({"params": params}, *inputs)


@functools.cache
def decoder():
    model, params, _ = tiny()
    decode = jit(functools.partial(model.apply, method="decode"))
    return lambda poses, mask: decode({"params": params}, poses, mask)


def decoded(poses, classes):
    return decoder()(poses, np.eye(3, dtype=np.float32)[classes])


def some_images(n):
    return np.random.default_rng(1).uniform(size=(n, *TINY)).astype(np.float32)


@pytest.mark.parametrize("shape", [(2, 11, 10, 2), (2, 10, 11, 1), (2, 12, 12, 2)])
def test_images_of_the_wrong_shape(shape):
    model, params, _ = tiny()
    with pytest.raises(ValueError, match=r"network of \(10, 11, 2\)"):
        model.apply({"params": params}, jnp.zeros(shape))


def test_a_single_image_without_its_batch_axis():
    model, params, _ = tiny()
    with pytest.raises((ValueError, jaxtyping.TypeCheckError)):
        model.apply({"params": params}, jnp.zeros(TINY))


@pytest.mark.slow
def test_a_batch_of_one_is_an_example_of_many():
    _, _, apply = tiny()
    images, labels = some_images(4), np.array([0, 2, 1, 1], np.int32)
    together = apply(images, labels)
    for n in range(4):
        alone = apply(images[n : n + 1], labels[n : n + 1])
        one_of_many = jax.tree.map(lambda x, n=n: x[n : n + 1], together)
        chex.assert_trees_all_equal_shapes(alone, one_of_many)
        chex.assert_trees_all_close(alone, one_of_many, atol=1e-6)


def test_a_batch_of_one_keeps_its_axes():
    _, _, apply = tiny()
    output = apply(some_images(1))
    chex.assert_shape(output.scores, (1, 3))
    chex.assert_shape(output.poses, (1, 3, 4))
    chex.assert_shape(output.reconstruction, (1, *TINY))
    inside = inside_of(tiny()[0], batch=1)["class_layer"]
    chex.assert_shape(inside["votes"], (1, CAPSULES, 3, 4))
    chex.assert_shape(inside["couplings"], (1, CAPSULES, 3))


@each_preset
def test_couplings_of_each_lower_capsule_sum_to_one(preset):
    model, params, _ = tiny(preset)
    _, inside = jit(functools.partial(look_inside, model))({"params": params}, some_images(4))
    c = inside["class_layer"]["couplings"]
    np.testing.assert_allclose(c.sum(axis=-1), np.ones((4, CAPSULES)), rtol=1e-6)
    assert float(c.std()) > 1e-3  # and routing has moved them
    # A softmax over the lower capsules would give these sums of one.
    assert np.abs(c.sum(axis=-2) - 1).min() > 1


@each_preset
def test_lengths_are_those_of_the_poses(preset):
    _, _, apply = tiny(preset)
    output = apply(some_images(4))
    np.testing.assert_allclose(output.scores, jnp.linalg.norm(output.poses, axis=-1), atol=1e-4)
    assert float(output.scores.max()) < 1


def test_the_labelled_capsule_is_decoded_where_there_are_labels():
    _, _, apply = tiny()
    images, labels = some_images(4), np.array([0, 1, 2, 0], np.int32)
    output = apply(images, labels)
    expected = decoded(output.poses, labels)
    np.testing.assert_allclose(output.reconstruction, expected, atol=1e-6)
    other = decoded(output.poses, (labels + 1) % 3)
    assert float(jnp.abs(expected - other).max()) > 1e-3


def test_the_longest_capsule_is_decoded_where_there_are_none():
    _, _, apply = tiny()
    images = some_images(4)
    output = apply(images)
    longest = np.argmax(output.scores, axis=-1)
    expected = decoded(output.poses, longest)
    np.testing.assert_allclose(output.reconstruction, expected, atol=1e-6)
    labelled = apply(images, (longest + 1).astype(np.int32) % 3)
    chex.assert_trees_all_close(labelled.scores, output.scores, atol=1e-6)
    assert float(jnp.abs(labelled.reconstruction - output.reconstruction).max()) > 1e-3


def test_a_mask_leaves_nothing_of_the_other_capsules():
    _, _, apply = tiny()
    poses = apply(some_images(2)).poses
    classes = np.array([1, 2])
    elsewhere = 1 - np.eye(3, dtype=np.float32)[classes][..., None]
    moved = poses + 100.0 * elsewhere
    np.testing.assert_array_equal(decoded(poses, classes), decoded(moved, classes))


def test_without_a_decoder():
    model, params, apply = tiny(use_decoder=False)
    assert set(params) == {"conv_layer", "primary_layer", "class_layer"}
    output = apply(some_images(2), np.array([0, 1], np.int32))
    assert output.reconstruction is None
    chex.assert_shape(output.scores, (2, 3))
    with pytest.raises(ValueError, match="no decoder"):
        model.apply({"params": params}, output.poses, jnp.zeros((2, 3)), method="decode")


def test_without_a_decoder_the_loss_is_the_margin_loss_alone():
    built = build(tiny_config(use_decoder=False), TINY, 3, 1000)
    _, _, apply = tiny(use_decoder=False)
    images, labels = some_images(2), np.array([0, 1], np.int32)
    parts = built.objective.parts(apply(images, labels), jnp.asarray(images), jnp.asarray(labels))
    assert float(parts["reconstruction"]) == 0
    assert float(built.objective.total(parts)) == float(parts["margin"]) > 0


@pytest.mark.ci
def test_jit_computes_what_eager_does():
    model, params, apply = tiny()
    images, labels = jnp.asarray(some_images(2)), jnp.array([2, 0])
    eager = model.apply({"params": params}, images, labels)
    chex.assert_trees_all_close(apply(images, labels), eager, atol=1e-6)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="another device allocates by itself")
def test_a_batch_of_the_small_network_fits_memory_that_stays_in_the_process():
    # glibc takes blocks above 32 MiB fresh from the system each time, and their pages are cleared.
    model = model_of(make_config("paper,small"))
    images = jax.ShapeDtypeStruct((128, *MNIST), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    compiled = jit(model.apply).lower(variables, images).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 30 * 2**20


@pytest.mark.ci
@each_preset
def test_gradients_are_finite_for_zero_images_and_zero_poses(preset):
    built = build(tiny_config(preset), TINY, 3, 1000)
    _, params, _ = tiny(preset)

    def loss_of(params, images):
        labels = jnp.array([0, 2])
        output, inside = look_inside(built.model, {"params": params}, images, labels)
        u = inside["primary_layer"]["poses"]
        return built.objective.total(built.objective.parts(output, images, labels)), u

    gradient = jit(jax.grad(loss_of, argnums=(0, 1), has_aux=True))
    zeros = np.zeros((2, *TINY), np.float32)
    without_bias = jax.tree.map(lambda x: x if x.ndim > 1 else np.zeros_like(x), params)
    nothing = jax.tree.map(np.zeros_like, params)
    for case in (params, without_bias, nothing):
        gradients, u = gradient(case, zeros)
        chex.assert_tree_all_finite(gradients)
        # Without biases all poses are zero, where a bare norm has no gradient.
        assert bool((u == 0).all()) == (case is not params)
