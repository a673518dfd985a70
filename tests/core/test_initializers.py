"""Initial values: bounds, deviations and errors."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.initializers import make_initializer
from capsjax.layers import Conv, ConvCaps, Decoder, DenseCaps
from capsjax.notation import Capsules
from capsjax.routing import make_routing

OF_MATRICES = (
    "unit_votes(1.0)", "fan_in_votes(1.0)", "glorot_votes(9)",
    "he_normal_votes", "he_normal_child", "he_uniform_child",
)  # fmt: skip


def draw(spec, shape, **settings):
    values = make_initializer(spec, **settings)(jax.random.key(0), shape, jnp.float32)
    assert values.shape == shape
    return np.asarray(values)


def assert_uniform(values, bound):
    assert np.abs(values).max() <= bound
    assert np.abs(values).max() > 0.99 * bound
    np.testing.assert_allclose(values.std(), bound / 3**0.5, rtol=0.02)
    assert abs(values.mean()) < 0.02 * bound


def test_zeros_and_constant():
    np.testing.assert_array_equal(draw("zeros", (3, 2)), 0.0)
    np.testing.assert_array_equal(draw("constant(0.1)", (3, 2)), np.float32(0.1))
    np.testing.assert_array_equal(draw("constant(-1e-3)", (2,)), np.float32(-1e-3))


def test_normal():
    values = draw("normal(0.01)", (200, 200))
    np.testing.assert_allclose(values.std(), 0.01, rtol=0.02)
    assert abs(values.mean()) < 2e-4
    # 4.6 % of a normal distribution lies beyond two deviations: this one is not cut.
    np.testing.assert_allclose((np.abs(values) > 0.02).mean(), 0.0455, atol=0.004)


def test_uniform():
    assert_uniform(draw("uniform(0.05)", (200, 200)), 0.05)
    with pytest.raises(ValueError, match=r"-1 in the initializer 'uniform\(-1\)' is not a bound"):
        make_initializer("uniform(-1)")


def test_he_and_glorot_make_up_for_the_cut():
    for spec, deviation in (("he_normal", (2 / 36) ** 0.5), ("glorot_normal", (2 / 936) ** 0.5)):
        values = draw(spec, (3, 3, 4, 100))
        np.testing.assert_allclose(values.std(), deviation, rtol=0.03)
        assert np.abs(values).max() <= 2 * deviation / 0.8796 + 1e-6


def test_glorot_of_matrices_in_windows():
    # 9 places of 8 types below and 16 types above: 16 · 9 · 8 and 16 · 9 · 16 weights.
    bound = (6 / (16 * 9 * 8 + 16 * 9 * 16)) ** 0.5
    assert_uniform(draw("glorot_votes(9)", (72, 16, 4, 4), matrices=True), bound)
    assert_uniform(draw("he_uniform", (5, 5, 8, 200)), (6 / 200) ** 0.5)


def test_he_normal_of_the_transformation_matrices():
    # Keras counts 10 · 16 · 8 = 1280 weights into a unit of an array (10, 16, 8, 16).
    values = draw("he_normal_votes", (16, 10, 16, 8), matrices=True)
    np.testing.assert_allclose(values.std(), (2 / 1280) ** 0.5, rtol=0.02)


def test_glorot_by_the_number_of_weights():
    # Keras makes sqrt(6 / (n^0.5 + n^0.5)) of an array of six axes, whatever they are.
    n = 3 * 3 * 8 * 4 * 8 * 4
    assert_uniform(draw("glorot_size", (3, 3, 32, 32)), (6 / (2 * n**0.5)) ** 0.5)


def test_he_of_all_weights_of_a_child():
    # PyTorch counts 10 · 16 · 8 = 1280 weights of an array (i, 10 · 16, 8).
    assert_uniform(draw("he_uniform_child", (40, 10, 16, 8), matrices=True), (6 / 1280) ** 0.5)
    values = draw("he_normal_child", (40, 10, 16, 8), matrices=True)
    np.testing.assert_allclose(values.std(), (2 / 1280) ** 0.5, rtol=0.02)
    assert np.abs(values).max() > 3 * (2 / 1280) ** 0.5, "not cut"


@pytest.mark.parametrize("shape", [(72, 8, 4, 4), (36, 5, 6, 16)])
def test_fan_in_votes_give_sums_of_votes_a_variance_of_one_in_the_number_of_parents(shape):
    i, j, _, p = shape
    W = draw("fan_in_votes(2.0)", shape, matrices=True)
    np.testing.assert_allclose(W.std(), 2 * (j / (i * p)) ** 0.5, rtol=0.03)
    poses = np.random.default_rng(0).normal(size=(200, i, p))
    sums = np.einsum("nip,ijdp->njd", poses, W) / j
    np.testing.assert_allclose(sums.var(), 4 / j, rtol=0.1)


@pytest.mark.parametrize("spec", OF_MATRICES)
def test_what_is_for_matrices_is_refused_for_another_array(spec):
    layers = (Conv(4, 3, kernel_init=spec), Decoder((2, 2, 1), kernel_init=spec))
    refusal = re.escape(f"{spec!r} is for the matrices W of capsules")
    for layer, shape in zip(layers, [(1, 5, 5, 2), (1, 3, 4)], strict=True):
        with pytest.raises(ValueError, match=refusal):
            layer.init(jax.random.key(0), jnp.ones(shape))


@pytest.mark.parametrize("spec", OF_MATRICES)
def test_layers_of_matrices_take_what_is_for_them(spec):
    settings = {"pose_size": 4, "routing": make_routing("uniform"), "kernel_init": spec}
    below = Capsules(jnp.ones((1, 3, 3, 2, 4)), jnp.ones((1, 3, 3, 2)))
    for layer in (DenseCaps(num_capsules=2, **settings), ConvCaps(types=2, **settings)):
        W = layer.init(jax.random.key(0), below)["params"]["W"]
        assert W.shape == (18, 2, 4, 4)
        assert (W != 0).all()


def test_truncated_normal_is_cut_at_two_deviations():
    values = draw("truncated_normal(0.1)", (200, 200))
    assert np.abs(values).max() <= 0.2
    assert np.abs(values).max() > 0.198
    # A normal distribution cut at ±2 has 0.8796 of its deviation, and nothing makes up for it.
    np.testing.assert_allclose(values.std(), 0.08796, rtol=0.02)


def test_glorot_uniform_of_a_matrix():
    assert_uniform(draw("glorot_uniform", (100, 300)), (6 / 400) ** 0.5)


def test_glorot_uniform_of_a_convolution():
    assert_uniform(draw("glorot_uniform", (9, 9, 4, 16)), (6 / (81 * 20)) ** 0.5)


def test_glorot_uniform_of_the_transformation_matrices():
    # √(6 / (1152 · 10 · (16 + 8))) = 0.00466
    values = draw("glorot_uniform", (1152, 10, 16, 8))
    assert_uniform(values, (6 / (1152 * 10 * 24)) ** 0.5)
    assert round(float(np.abs(values).max()), 5) == 0.00466


def test_fan_in_uniform_of_a_kernel():
    assert_uniform(draw("fan_in_uniform", (9, 9, 4, 16)), (9 * 9 * 4) ** -0.5)


def test_fan_in_uniform_of_a_bias_is_told_its_fan_in():
    assert_uniform(draw("fan_in_uniform", (10_000,), fan_in=16), 0.25)


def test_spaces_do_not_matter():
    np.testing.assert_array_equal(draw(" normal ( 0.1 ) ", (5,)), draw("normal(0.1)", (5,)))


def test_the_type_is_kept():
    for spec in ("zeros", "constant(1)", "normal(1)", "glorot_uniform", "fan_in_uniform"):
        values = make_initializer(spec)(jax.random.key(0), (4, 4), jnp.bfloat16)
        assert values.dtype == jnp.bfloat16, spec
    values = make_initializer("fan_in_uniform", fan_in=4)(jax.random.key(0), (4,), jnp.bfloat16)
    assert values.dtype == jnp.bfloat16


def test_unknown_name_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'glorot_uniform'"):
        make_initializer("glorot_unifrom")


@pytest.mark.parametrize(
    ("spec", "like"),
    [
        ("normal", r"normal\(0.1\)"),
        ("constant", r"constant\(0.1\)"),
        ("truncated_normal", r"truncated_normal\(0.1\)"),
        ("zeros(0.1)", "'zeros'"),
        ("glorot_uniform(0.1)", "'glorot_uniform'"),
        ("glorot_uniform()", "'glorot_uniform'"),
        ("fan_in_uniform(3)", "'fan_in_uniform'"),
    ],
)
def test_a_number_that_is_missing_or_too_many(spec, like):
    with pytest.raises(ValueError, match=f"like {like}|like '{like}'"):
        make_initializer(spec)


@pytest.mark.parametrize("spec", ["normal(x)", "normal()", "normal(0.1, 0.2)"])
def test_a_number_that_is_none(spec):
    with pytest.raises(ValueError, match="is not a number"):
        make_initializer(spec)


@pytest.mark.parametrize("spec", ["", "normal(0.1", "normal 0.1", "normal(0.1)(0.2)"])
def test_a_specification_that_cannot_be_read(spec):
    with pytest.raises(ValueError, match="is written like"):
        make_initializer(spec)


@pytest.mark.parametrize("name", ["normal", "truncated_normal", "unit_votes"])
@pytest.mark.parametrize("number", ["-0.1", "nan", "inf"])
def test_a_deviation_is_a_finite_number_of_at_least_zero(name, number):
    with pytest.raises(ValueError, match="is not a standard deviation"):
        make_initializer(f"{name}({number})", matrices=True)


def test_unit_votes_begin_with_sums_of_unit_length():
    # 200 children of unit length, whose votes for 5 parents are weighted by a fifth.
    W = make_initializer("unit_votes(0.5)", matrices=True)(jax.random.key(0), (200, 5, 8, 4))
    u = jnp.full((200, 4), 0.5)
    s = jnp.einsum("ip,ijdp->jd", u, W) / 5
    lengths = jnp.linalg.norm(s, axis=-1)
    assert float(lengths.mean()) == pytest.approx(0.5, rel=0.25)
    assert float(W.std()) == pytest.approx(0.5 * 5 / math.sqrt(200 * 8), rel=0.02)
