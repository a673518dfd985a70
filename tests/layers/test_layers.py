"""Capsule layers: how features become capsules, and which parameters a layer declares."""

import dataclasses
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.layers import (
    Conv,
    Decoder,
    DenseCaps,
    Pool,
    PrimaryCaps,
    UpsamplingDecoder,
)
from capsjax.layers.capsules import GROUPINGS, group_channels, group_pixels
from capsjax.layers.norms import NORMS
from capsjax.layers.pooling import make_pooling
from capsjax.notation import Capsules, LearnedArray, Routed
from capsjax.ops import predict_votes, safe_norm, squash
from capsjax.pooling import POOLINGS, capsule_pool
from capsjax.routing import make_routing
from tests.numpy_capsnet import convolve

# The default generator takes longer to compile than all that is tested here.
KEY = jax.random.key(0, impl="rbg")


def normal(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape).astype(np.float32))


def positions_and_channels(y, x, f):
    """Features (1, y, x, f), each of which tells where it stands: 1000 · row + 100 · column + f."""
    rows, columns, channels = np.meshgrid(*map(np.arange, (y, x, f)), indexing="ij")
    return jnp.asarray((1000.0 * rows + 100.0 * columns + channels)[None].astype(np.float32))


def test_channels_are_grouped_at_one_position():
    capsules = np.asarray(group_channels(positions_and_channels(2, 3, 16), 8))
    chex.assert_shape(capsules, (1, 2, 3, 2, 8))
    capsules = capsules.reshape(1, 12, 8)
    first = np.arange(8.0)
    np.testing.assert_array_equal(capsules[0, 0], first)  # row 0, column 0, type 0
    np.testing.assert_array_equal(capsules[0, 1], first + 8)  # the same position, type 1
    np.testing.assert_array_equal(capsules[0, 2], first + 100)  # the next column
    np.testing.assert_array_equal(capsules[0, 11], first + 1208)  # last position and type


def test_pixels_are_grouped_within_one_channel():
    capsules = np.asarray(group_pixels(positions_and_channels(2, 3, 4), 6))
    chex.assert_shape(capsules, (1, 4, 6))
    pixels = np.array([0.0, 100, 200, 1000, 1100, 1200])  # row by row
    for channel in range(4):
        np.testing.assert_array_equal(capsules[0, channel], pixels + channel)


def test_pixels_go_on_in_the_next_channel():
    capsules = np.asarray(group_pixels(positions_and_channels(2, 3, 4), 4))
    np.testing.assert_array_equal(capsules[0, 1], [1100, 1200, 1, 101])


@pytest.mark.parametrize(("group", "straddling"), [(group_channels, 1152), (group_pixels, 128)])
def test_capsules_of_the_paper_that_mix_channels(group, straddling):
    channel = jnp.broadcast_to(jnp.arange(256.0).reshape(1, 1, 1, -1), (1, 6, 6, 256))
    capsules = np.asarray(group(channel, 8)).reshape(-1, 8)
    assert len(capsules) == 1152
    assert sum(len(set(capsule)) > 1 for capsule in capsules) == straddling


@pytest.mark.parametrize(("group", "positions"), [(group_channels, 1), (group_pixels, 8)])
def test_capsules_of_the_paper_by_the_positions_they_mix(group, positions):
    position = jnp.broadcast_to(jnp.arange(36.0).reshape(1, 6, 6, 1), (1, 6, 6, 256))
    capsules = np.asarray(group(position, 8)).reshape(-1, 8)
    assert {len(set(capsule)) for capsule in capsules} == {positions}


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_examples_of_a_batch_are_grouped_apart(grouping):
    features = normal(3, 5, 5, 8)
    together = GROUPINGS[grouping](features, 4)
    apart = jnp.concatenate([GROUPINGS[grouping](features[n : n + 1], 4) for n in range(3)])
    np.testing.assert_array_equal(together, apart)


def test_unknown_grouping_names_the_nearest():
    layer = PrimaryCaps(types=1, pose_size=2, kernel_size=1, grouping="chanels")
    with pytest.raises(ValueError, match="did you mean 'channels'"):
        layer.init(KEY, jnp.zeros((1, 2, 2, 1)))


def test_convolution_has_no_padding():
    # Flax pads by default, and the paper's 6x6 positions would be 14x14.
    layer = PrimaryCaps(types=32, pose_size=8)
    image = jax.ShapeDtypeStruct((2, 20, 20, 4), jnp.float32)
    capsules, _ = jax.eval_shape(layer.init_with_output, KEY, image)
    chex.assert_shape(capsules.poses, (2, 6, 6, 32, 8))
    chex.assert_shape(capsules.activations, (2, 6, 6, 32))


def test_conv_is_scaled_before_its_bias():
    layer = Conv(features=1, kernel_size=2, scale=0.25)
    params = {"kernel": jnp.ones((2, 2, 1, 1)), "bias": jnp.array([3.0])}
    out = layer.apply({"params": params}, jnp.full((1, 2, 3, 1), 2.0))
    np.testing.assert_allclose(out, np.full((1, 1, 2, 1), 0.25 * 8 + 3))


@pytest.mark.parametrize("name", POOLINGS)
def test_pool_has_no_parameters_and_takes_any_pooling(name):
    x, where = normal(2, 7, 8, 4), ((2, 3), (1, 2), "VALID")
    layer = Pool(make_pooling(name), *where)
    out, variables = jax.jit(layer.init_with_output)(KEY, x)
    assert not variables
    plain = jax.jit(lambda x: POOLINGS[name](x, *where))
    chex.assert_trees_all_close(out, plain(x), atol=1e-6)


def test_pool_of_windows_side_by_side_is_the_default():
    x = normal(1, 8, 8, 2)
    chex.assert_trees_all_close(jax.jit(Pool().apply)({}, x), jax.jit(capsule_pool)(x), atol=1e-6)
    chex.assert_shape(Pool(make_pooling("max")).apply({}, x), (1, 3, 3, 2))


@pytest.mark.slow
def test_pool_hands_every_setting_to_capsule_pooling():
    x = normal(1, 7, 7, 4)
    plain = jax.jit(Pool().apply)({}, x)
    for setting, value in {
        "num_steps": 3,
        "temperature": 0.5,
        "num_capsules": 2,
        "eps": 0.5,
        "upsample": "corner",
    }.items():
        layer = Pool(make_pooling("capsule", **{setting: value}))
        pool = functools.partial(capsule_pool, **{setting: value})
        out = jax.jit(layer.apply)({}, x)
        chex.assert_trees_all_close(out, jax.jit(pool)(x), atol=1e-6)
        assert float(jnp.abs(out - plain).max()) > 1e-3, setting


def test_unknown_pooling_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'average'"):
        make_pooling("avarage")


def capsules_of(u):
    return Capsules(u, safe_norm(u))


def primary_of_ones(**settings):
    """Poses of an image of ones: each feature is 2 by the convolution and 1 by the bias."""
    layer = PrimaryCaps(types=4, pose_size=2, kernel_size=1, stride=1, **settings)
    params = {"conv": {"kernel": jnp.full((1, 1, 1, 8), 2.0), "bias": jnp.ones(8)}}
    return layer.apply({"params": params}, jnp.ones((1, 1, 1, 1))).poses.reshape(1, 4, 2)


@pytest.mark.slow
def test_division_by_types_spares_the_bias():
    plain, divided = primary_of_ones(), primary_of_ones(divide_by_types=True)
    np.testing.assert_allclose(plain, squash(jnp.full((1, 4, 2), 2 + 1.0)), rtol=1e-6)
    np.testing.assert_allclose(divided, squash(jnp.full((1, 4, 2), 2 / 4 + 1)), rtol=1e-6)


@pytest.mark.slow
def test_relu_clips_before_the_squash():
    layer = PrimaryCaps(types=1, pose_size=2, kernel_size=1, relu=True)
    params = {"conv": {"kernel": jnp.array([[[[-3.0, 1.0]]]]), "bias": jnp.zeros(2)}}
    u = layer.apply({"params": params}, jnp.ones((1, 1, 1, 1))).poses
    np.testing.assert_allclose(u.reshape(2), [0.0, 0.5], atol=1e-6)


def test_primary_capsules_are_shorter_than_one():
    layer = PrimaryCaps(types=2, pose_size=4, kernel_size=3, kernel_init="normal(10)")
    (u, activations), _ = jax.jit(layer.init_with_output)(KEY, normal(2, 6, 6, 3))
    assert float(safe_norm(u).max()) < 1
    assert float(safe_norm(u).min()) > 0.5  # and not crushed either: the features are large
    np.testing.assert_array_equal(activations, safe_norm(u))


@dataclasses.dataclass(frozen=True)
class Weighted:
    """A routing of the test's own: learned couplings, scaled by the lower activations."""

    start: float = 2.0

    def learned_arrays(self, i, j, p, d):
        constant = jax.nn.initializers.constant
        return {
            "c": LearnedArray((i, j), constant(self.start)),
            "shift": LearnedArray((d,), constant(1.0)),
        }

    def __call__(self, votes, activations, learned):
        c = activations[..., None] * learned["c"][None]
        v = jnp.einsum("nij,nijd->njd", c, votes) + learned["shift"].reshape(1, 1, -1)
        return Routed(v=v, a=safe_norm(v), c=c)


@pytest.mark.slow
def test_dense_caps_takes_any_routing_and_declares_what_it_learns():
    u = normal(2, 5, 3)
    layer = DenseCaps(num_capsules=4, pose_size=6, routing=Weighted())
    params = jax.jit(layer.init)(KEY, capsules_of(u))["params"]
    (capsules, _), shown = layer.apply(
        {"params": params}, capsules_of(u), mutable=["intermediates"]
    )
    u_hat = shown["intermediates"]["votes"]
    assert {name: array.shape for name, array in params.items()} == {
        "W": (5, 4, 6, 3),
        "c": (5, 4),
        "shift": (6,),
    }
    np.testing.assert_array_equal(params["c"], np.full((5, 4), 2.0))
    np.testing.assert_allclose(u_hat, predict_votes(u, params["W"]), rtol=1e-6)
    # The routing is called with the votes, the lengths of u, and its arrays.
    routed = Weighted()(u_hat, safe_norm(u), params)
    chex.assert_trees_all_close(capsules, Capsules(routed.v, routed.a), rtol=1e-6)
    np.testing.assert_allclose(shown["intermediates"]["couplings"], routed.c, rtol=1e-6)


def test_dense_caps_hands_the_arrays_that_are_there_to_the_routing():
    u = capsules_of(jnp.ones((1, 5, 3)))
    layer = DenseCaps(num_capsules=4, pose_size=6, routing=Weighted())
    params = {"W": jnp.zeros((5, 4, 6, 3)), "c": jnp.ones((5, 4)), "shift": jnp.full(6, 7.0)}
    capsules, _ = layer.apply({"params": params}, u)
    np.testing.assert_array_equal(capsules.poses, np.full((1, 4, 6), 7.0))


@pytest.mark.slow
@pytest.mark.parametrize(("use_bias", "expected"), [(False, {"W"}), (True, {"W", "bias"})])
def test_dense_caps_has_a_bias_only_if_routing_wants_one(use_bias, expected):
    routing = make_routing("dynamic", use_bias=use_bias, bias_init=0.3)
    layer = DenseCaps(num_capsules=4, pose_size=6, routing=routing)
    params = layer.init(KEY, capsules_of(jnp.ones((1, 5, 3))))["params"]
    assert set(params) == expected
    if use_bias:
        np.testing.assert_allclose(params["bias"], np.full((4, 6), 0.3))


@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 7, 3)])
def test_decoder_makes_images_between_0_and_1(shape):
    decoder = Decoder(shape, hidden=(6, 9), kernel_init="normal(2)")
    images, variables = jax.jit(decoder.init_with_output)(KEY, normal(4, 3, 5))
    chex.assert_shape(images, (4, *shape))
    assert 0 <= float(images.min()) < 0.1
    assert 0.9 < float(images.max()) <= 1
    shapes = {name: layer["kernel"].shape for name, layer in variables["params"].items()}
    pixels = shape[0] * shape[1] * shape[2]
    assert shapes == {"hidden_0": (15, 6), "hidden_1": (6, 9), "pixels": (9, pixels)}


def test_decoder_of_zero_poses_and_zero_bias_is_grey():
    image, _ = Decoder((4, 4, 1), hidden=(3,)).init_with_output(KEY, jnp.zeros((1, 2, 3)))
    np.testing.assert_array_equal(image, np.full((1, 4, 4, 1), 0.5))


def test_the_last_layer_of_a_decoder_may_have_initial_values_of_its_own():
    decoder = Decoder((2, 2, 1), (3,), kernel_init="constant(1.0)", pixels_init="constant(0.5)")
    params = decoder.init(KEY, jnp.zeros((1, 2, 3)))["params"]
    np.testing.assert_array_equal(params["hidden_0"]["kernel"], 1.0)
    np.testing.assert_array_equal(params["pixels"]["kernel"], 0.5)


def test_upsampling_decoder_against_numpy():
    # 4 rows and 5 columns -> 8x10 -> 6x8 -> 4x6.
    decoder = UpsamplingDecoder((4, 6, 2), (3,), bias_init="constant(0.1)")
    masked = normal(2, 2, 3)
    images, variables = jax.jit(decoder.init_with_output)(KEY, masked)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    x = np.asarray(masked).reshape(2, 6) @ params["map"]["kernel"] + params["map"]["bias"]
    x = twice_as_large(twice_as_large(x.reshape(2, 4, 5, 1), 1), 2)
    x = convolve(x, params["conv_0"]["kernel"], 1) + params["conv_0"]["bias"]
    x = convolve(np.where(x > 0, x, 0.2 * x), params["pixels"]["kernel"], 1)
    expected = 1 / (1 + np.exp(-x - params["pixels"]["bias"]))
    np.testing.assert_allclose(images, expected, atol=1e-5)


def twice_as_large(x, axis):
    """Linear interpolation at a quarter and three quarters of each pixel, edges repeated."""
    before = np.roll(x, 1, axis)
    after = np.roll(x, -1, axis)
    x, before, after = (np.moveaxis(each, axis, 0) for each in (x, before, after))
    before[0], after[-1] = x[0], x[-1]
    both = np.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis=1)
    return np.moveaxis(both.reshape(-1, *x.shape[1:]), 0, axis)


def test_decoder_clips_its_hidden_layers_at_zero():
    decoder = Decoder((1, 1, 1), hidden=(1,))
    one = {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}
    params = {"hidden_0": one, "pixels": one}
    images = decoder.apply({"params": params}, jnp.array([-5.0, 0.0, 2.0]).reshape(3, 1, 1))
    np.testing.assert_allclose(images.ravel(), [0.5, 0.5, 1 / (1 + np.exp(-2))], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["dynamic", "uniform", "em"])
def test_layers_with_forms_of_their_own_choice_are_exported_for_any_number_of_images(algorithm):
    class Network(nn.Module):
        @nn.compact
        def __call__(self, images):
            capsules = PrimaryCaps(types=4, pose_size=4, kernel_size=3)(images)
            capsules, _ = DenseCaps(3, 6, make_routing(algorithm))(capsules)
            return capsules.poses

    network, images = Network(), normal(5, 9, 9, 1)
    poses, variables = jax.jit(network.init_with_output)(KEY, images)
    (n,) = jax.export.symbolic_shape("n")
    program = jax.export.export(
        jax.jit(functools.partial(network.apply, variables)), platforms=("cpu", "cuda", "tpu")
    )(jax.ShapeDtypeStruct((n, 9, 9, 1), jnp.float32))
    np.testing.assert_allclose(program.call(images), poses, rtol=1e-4, atol=1e-6)
    assert program.call(images[:2]).shape == (2, 3, 6)


def test_layer_norm_leaves_poses_of_one_dimension_as_they_are():
    poses = normal(2, 4, 4, 3, 1)
    found, variables = NORMS["layer"]().init_with_output(KEY, poses)
    np.testing.assert_array_equal(found, poses)
    assert not variables


def test_a_norm_takes_the_place_of_the_squash_of_primary_capsules():
    images = normal(2, 4, 4, 3)
    layer = PrimaryCaps(types=2, pose_size=4, kernel_size=1, stride=1, norm="layer", use_bias=False)
    (poses, activations), variables = jax.jit(layer.init_with_output)(KEY, images)
    params = variables["params"]
    assert jax.tree.map(jnp.shape, params) == {
        "conv": {"kernel": (1, 1, 3, 8)},
        "norm": {"LayerNorm_0": {"scale": (4,), "bias": (4,)}},
    }
    features = (images @ params["conv"]["kernel"][0, 0]).reshape(2, 4, 4, 2, 4)
    centred = features - features.mean(-1, keepdims=True)
    expected = centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(poses, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(activations, np.ones((2, 4, 4, 2)))
