"""Poolings: hand-worked values, slow references, borders of the image, invariants, gradients."""

import functools
import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import capsjax
from capsjax.pooling import POOLINGS, capsule_pool
from capsjax.windows import cut_windows, make_grid, pixels_inside
from tests import numpy_pooling as slow

# Image, window and stride: windows that divide the image, that hang over its border by one pixel,
# by two, by more than the image; narrow and wide ones; overlaps, gaps, and both.
CASES = [
    ((6, 6), (3, 3), None),
    ((8, 5), (3, 3), None),
    ((7, 10), (3, 3), None),
    ((5, 9), (2, 4), None),
    ((4, 5), (1, 5), None),
    ((7, 8), (3, 3), (2, 2)),
    ((8, 9), (2, 3), (3, 5)),
    ((6, 7), (3, 2), (3, 1)),
    ((4, 5), (3, 4), (1, 1)),
]
PADDINGS = ("SAME", "VALID")
STATIC = ("window", "stride", "padding", "num_steps", "num_capsules", "eps", "upsample")
# What is called as it is would be compiled operation by operation.
pool_compiled = jax.jit(capsule_pool, static_argnames=STATIC)
average_pool, max_pool = (
    jax.jit(POOLINGS[name], static_argnames=STATIC[:3]) for name in ("average", "max")
)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def row(*pixels):
    """An image of one row and one channel."""
    return jnp.asarray(np.array(pixels, np.float32).reshape(1, 1, -1, 1))


def test_capsule_pool_hand_values():
    # The mean of 0 and 3 is 1.5, and 1.5 / (1 + 1.5) = 0.6: scores 0 and 3 · 0.6 = 1.8.
    # With this temperature e = 1/3 and 1, whose mean is 2/3: weights 1/2 and 3/2.
    pool = functools.partial(pool_compiled, row(0, 3), (1, 2), temperature=1.8 / math.log(3))
    np.testing.assert_allclose(pool(num_steps=1).ravel(), [1.5])
    np.testing.assert_allclose(pool(num_steps=2).ravel(), [9 / 4], rtol=1e-6)
    # 2.25 / 3.25 = 9/13, and the scores add up: 0 and 1.8 + 27/13.
    e = math.exp(-(1.8 + 27 / 13) / 1.8 * math.log(3))
    np.testing.assert_allclose(pool(num_steps=3).ravel(), [3 / (1 + e)], rtol=1e-6)


def test_capsule_pool_hand_values_of_vectors():
    # The mean of (3, 4) and (0, 0) is (1.5, 2), as long as 2.5; divided by 3.5 it is (3, 4) / 7.
    # Scores 25/7 and 0; with this temperature e = 1 and 1/3, weights 3/2 and 1/2.
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]]).reshape(1, 2, 1, 2)
    out = pool_compiled(x, (2, 1), temperature=25 / 7 / math.log(3))
    np.testing.assert_allclose(out.ravel(), [9 / 4, 3], rtol=1e-6)


def test_capsule_pool_hand_values_at_a_border():
    # Four pixels and windows of three: one pixel of padding at each end.
    # Windows (0 3) and (1 1): as above, and equal weights.
    out = pool_compiled(row(0, 3, 1, 1), (1, 3), temperature=1.8 / math.log(3))
    np.testing.assert_allclose(out.ravel(), [9 / 4, 1], rtol=1e-6)


def test_each_capsule_has_weights_of_its_own():
    # One channel each: the first as above, the second with equal pixels, the third mirrored.
    x = jnp.array([[0.0, 5.0, 3.0], [3.0, 5.0, 0.0]]).reshape(1, 1, 2, 3)
    out = pool_compiled(x, (1, 2), temperature=1.8 / math.log(3), num_capsules=3)
    np.testing.assert_allclose(out.ravel(), [9 / 4, 5, 9 / 4], rtol=1e-6)


def test_eps_stands_in_both_divisions():
    # Mean 1, 1 / (1 + 1 + 0.5) = 0.4: scores 0 and 0.8, e = 1/3 and 1, whose mean is 2/3.
    # The weight of the second is 1 / (2/3 + 0.5) = 6/7, and the mean of 0 and 12/7 is 6/7.
    out = pool_compiled(row(0, 2), (1, 2), temperature=0.8 / math.log(3), eps=0.5)
    np.testing.assert_allclose(out.ravel(), [6 / 7], rtol=1e-6)


def test_average_and_max_pool_hand_values():
    # Windows (· 0 1), (2 3 4), (5 6 ·) of padded images, and (0 1 2), (3 4 5) without padding.
    x = row(*range(7))
    np.testing.assert_allclose(average_pool(x, (1, 3)).ravel(), [0.5, 3, 5.5])
    np.testing.assert_allclose(max_pool(-x, (1, 3)).ravel(), [0, -2, -5])
    np.testing.assert_allclose(average_pool(x, (1, 3), padding="VALID").ravel(), [1, 4])
    np.testing.assert_allclose(max_pool(-x, (1, 3), padding="VALID").ravel(), [0, -3])
    # Windows that start at -1, 1, 3 and 5; 0, 2 and 4; and with gaps 0 and 4.
    np.testing.assert_allclose(average_pool(x, (1, 3), (1, 2)).ravel(), [0.5, 2, 4, 5.5])
    np.testing.assert_allclose(average_pool(x, (1, 3), (1, 2), "VALID").ravel(), [1, 3, 5])
    np.testing.assert_allclose(average_pool(x, (1, 2), (1, 4)).ravel(), [0.5, 4.5])


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("image", "window", "stride"), CASES)
def test_poolings_against_loops(image, window, stride, padding):
    x = normal(2, *image, 6)
    where = (window, stride, padding)
    settings = [(steps, 2.0, 1) for steps in (1, 2, 3)] + [(2, 0.7, 3), (3, 5.0, 2)]

    @jax.jit
    def fast(x):
        capsules = [capsule_pool(x, *where, *setting) for setting in settings]
        return [average_pool(x, *where), max_pool(x, *where), *capsules]

    expected = [slow.average_pool(x, *where), slow.max_pool(x, *where)]
    expected += [slow.capsule_pool(x, *where, *setting) for setting in settings]
    for got, right in zip(fast(x), expected, strict=True):
        assert got.shape == right.shape
        np.testing.assert_allclose(got, right, atol=2e-5)


@pytest.mark.parametrize("window", [(3, 3), (2, 4), (5, 2)])
@pytest.mark.parametrize("image", [(6, 8), (7, 10), (8, 5), (3, 9)])
def test_corner_is_the_published_algorithm(image, window):
    x = normal(2, *image, 3)

    @jax.jit
    def fast(x):
        return [capsule_pool(x, window, num_steps=r, upsample="corner") for r in (1, 2, 3)]

    for steps, got in enumerate(fast(x), start=1):
        expected = slow.capsule_pool_of_whole_images(np.asarray(x, np.float64), window, steps)
        np.testing.assert_allclose(got, expected, atol=2e-5)


def test_padding_is_no_pixel_where_all_others_disagree():
    # Windows (· 0 1), (2 3 4), (5 6 ·), laid over (0 1 2), (3 4 5), (6). So pixel 5 is compared
    # with the second window and pixel 6 with the third, whose mean is -1: both scores are below
    # zero, which is the score of padding. A window's own mean always agrees with one of its pixels.
    x = row(2, 2, 2, 2, 2, -3, 1)
    pool = functools.partial(pool_compiled, window=(1, 3), upsample="corner")
    expected = slow.capsule_pool_of_whole_images(np.asarray(x, np.float64), (1, 3))
    np.testing.assert_allclose(pool(x), expected, rtol=1e-5)
    chex.assert_tree_all_finite(jax.jit(jax.grad(lambda x: pool(x).sum()))(1000 * x))


@pytest.mark.parametrize("image", [(24, 24), (8, 8)])
def test_the_published_algorithm_in_the_published_network(image):
    x = normal(1, *image, 4)
    expected = slow.capsule_pool_of_whole_images(np.asarray(x, np.float64), (3, 3))
    chex.assert_shape(expected, (1, 8, 8, 4) if image == (24, 24) else (1, 3, 3, 4))
    np.testing.assert_allclose(pool_compiled(x), expected, atol=2e-5)


def test_window_and_corner_differ_where_padding_moves_the_windows():
    x = normal(1, 7, 6, 3)
    assert float(jnp.abs(pool_compiled(x) - pool_compiled(x, upsample="corner")).max()) > 1e-3
    x = x[:, :6]
    chex.assert_trees_all_close(pool_compiled(x), pool_compiled(x, upsample="corner"), atol=1e-6)


@pytest.mark.ci
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("image", "window", "stride"), CASES)
def test_average_and_max_pool_are_those_of_flax(image, window, stride, padding):
    x = normal(2, *image, 3)
    strides = stride or window
    average, most = jax.jit(
        lambda x: (
            nn.avg_pool(x, window, strides, padding, count_include_pad=False),
            nn.max_pool(x, window, strides, padding),
        )
    )(x)
    chex.assert_trees_all_close(average_pool(x, window, stride, padding), average, atol=1e-6)
    chex.assert_trees_all_equal(max_pool(x, window, stride, padding), most)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("stride", [None, (2, 1)])
def test_one_step_is_the_average(stride, padding):
    x = normal(2, 7, 8, 4)
    got = pool_compiled(x, (3, 2), stride, padding, num_steps=1, num_capsules=2)
    chex.assert_trees_all_close(got, average_pool(x, (3, 2), stride, padding), atol=1e-6)


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("stride", [None, (2, 2)])
def test_a_constant_image_stays_constant_up_to_its_border(name, stride):
    colour = jnp.array([-3.0, 0.0, 0.5, 20.0]).reshape(1, 1, 1, 4)
    pool = {"capsule": pool_compiled, "average": average_pool, "max": max_pool}[name]
    out = pool(jnp.broadcast_to(colour, (1, 7, 10, 4)), (3, 3), stride)
    np.testing.assert_allclose(out, np.broadcast_to(colour, out.shape), rtol=1e-6)


def test_a_pixel_outside_of_a_window_changes_nothing_in_it():
    x = normal(1, 7, 7, 2)
    pool = functools.partial(pool_compiled, num_steps=3)
    # Windows begin at -1, 2 and 5: pixel (2, 4) is in the window in the middle alone.
    changed = (
        np.abs(np.asarray(pool(x.at[0, 2, 4].add(9.0))) - np.asarray(pool(x))).max(axis=(0, 3)) > 0
    )
    np.testing.assert_array_equal(changed, [[0, 0, 0], [0, 1, 0], [0, 0, 0]])


def test_an_overlapping_window_is_pooled_as_if_alone():
    x = normal(2, 5, 6, 4)
    out = pool_compiled(x, (3, 2), (1, 2), "VALID", 3)
    chex.assert_shape(out, (2, 3, 3, 4))
    for y, column in np.ndindex(3, 3):
        cut = x[:, y : y + 3, 2 * column : 2 * column + 2]
        alone = pool_compiled(cut, (3, 2), num_steps=3)
        chex.assert_trees_all_close(out[:, y, column], alone[:, 0, 0], atol=1e-6)


def test_capsules_are_pooled_apart():
    x = normal(2, 5, 5, 6)
    together = pool_compiled(x, num_capsules=2)
    apart = jnp.concatenate([pool_compiled(x[..., :3]), pool_compiled(x[..., 3:])], axis=-1)
    chex.assert_trees_all_close(together, apart, atol=1e-6)
    assert float(jnp.abs(together - pool_compiled(x)).max()) > 1e-3


def test_turning_the_vectors_of_a_capsule_turns_the_result():
    x = normal(2, 5, 5, 6)
    pool = functools.partial(pool_compiled, num_steps=3, num_capsules=2)
    order = jnp.array([2, 0, 1, 5, 4, 3])
    chex.assert_trees_all_close(pool(x[..., order]), pool(x)[..., order], atol=1e-6)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turn = jnp.asarray(np.kron(np.eye(2), turn), jnp.float32)
    chex.assert_trees_all_close(pool(x @ turn), pool(x) @ turn, atol=1e-5)


def test_results_lie_between_the_pixels_and_lean_to_those_that_agree():
    x = normal(2, 7, 7, 1)
    most, least = max_pool(x), -max_pool(-x)
    for temperature in (0.01, 1.0, 100.0):
        out = pool_compiled(x, num_steps=3, temperature=temperature)
        assert bool(jnp.all((out <= most + 1e-5) & (out >= least - 1e-5)))
    # A hot pooling is the average; a cold one takes the pixel that agrees best.
    chex.assert_trees_all_close(pool_compiled(x, temperature=1e6), average_pool(x), atol=1e-5)
    best = jnp.where(average_pool(x) > 0, most, least)
    chex.assert_trees_all_close(pool_compiled(x, temperature=1e-6), best, atol=1e-5)


@pytest.mark.ci
@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("stride", [None, (2, 2)])
def test_batch_of_one_vmap_and_jit(name, stride):
    x = normal(3, 7, 8, 4)
    eager = functools.partial(POOLINGS[name], window=(3, 3), stride=stride)
    pool = jax.jit(eager)
    together = pool(x)
    chex.assert_trees_all_close(together, eager(x), atol=1e-6)
    one_by_one = jnp.concatenate([pool(x[n : n + 1]) for n in range(3)])
    chex.assert_trees_all_close(together, one_by_one, atol=1e-6)
    chex.assert_trees_all_close(together, jax.vmap(pool)(x[:, None])[:, 0], atol=1e-6)
    chex.assert_shape(pool(x[:0]), (0, *together.shape[1:]))


def test_the_temperature_may_be_data():
    x = normal(1, 7, 7, 2)
    temperatures = jnp.array([0.5, 2.0, 7.0])
    apart = jnp.concatenate([slow.capsule_pool(x, (3, 3), temperature=t) for t in (0.5, 2.0, 7.0)])
    pool = jax.jit(chex.assert_max_traces(lambda t: capsule_pool(x, temperature=t)[0], 1))
    chex.assert_trees_all_close(jnp.stack([pool(t) for t in temperatures]), apart, atol=1e-5)
    chex.assert_trees_all_close(jax.vmap(pool)(temperatures), apart, atol=1e-5)


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_number_type_stays(name, dtype):
    x = normal(1, 5, 5, 4)
    pool = jax.jit(POOLINGS[name])
    out = pool(x.astype(dtype))
    assert out.dtype == dtype
    np.testing.assert_allclose(out.astype(jnp.float32), pool(x), atol=0.05)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("window", "stride", "upsample"),
    [((3, 3), None, "window"), ((2, 2), (1, 1), "window"), ((3, 3), None, "corner")],
)
def test_gradients_are_the_numerical_ones(window, stride, upsample):
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 3, 4)))

        @jax.jit
        def pool(x, temperature):
            # eps = 0, for with it a maximum that is a constant to the gradient is a difference.
            out = capsule_pool(
                x, window, stride, "SAME", 3, temperature, 2, eps=0.0, upsample=upsample
            )
            return (out * jnp.sin(jnp.arange(out.size)).reshape(out.shape)).sum()

        # The maximum cancels for "corner" only where padding has not moved the windows.
        pixels = x if upsample == "window" else x[:, :3]
        arguments = (pixels, jnp.asarray(1.3))
        chex.assert_numerical_grads(pool, arguments, order=1, atol=1e-6, rtol=1e-6)


def test_the_maximum_is_a_constant_to_the_gradient():
    # As in the test of eps, for pixels 0 and t: the score b = t² / (2 + t + 2 eps) has at t = 2
    # the slope 0.64, and e = exp((b - maximum) / temperature) the slope 0.8 ln 3. The result
    # t/2 · e / (mean of e + eps) then has 3/7 + 0.8 ln 3 · (6/7 - 18/49).
    def pool(t):
        x = jnp.stack([jnp.zeros(()), t]).reshape(1, 1, 2, 1)
        return capsule_pool(x, (1, 2), temperature=0.8 / math.log(3), eps=0.5).sum()

    slope = 3 / 7 + 0.8 * math.log(3) * (6 / 7 - 18 / 49)
    np.testing.assert_allclose(jax.jit(jax.grad(pool))(jnp.array(2.0)), slope, rtol=1e-5)


def test_gradients_of_average_and_maximum():
    # Windows (· 1 1), (0 2 0): shares of the average, and of equal maxima.
    x = row(1, 1, 0, 2, 0, 5, 5, 5)
    average = jax.jit(jax.grad(lambda x: average_pool(x, (1, 3)).sum()))(x)
    np.testing.assert_allclose(average.ravel(), [1 / 3] * 6 + [1 / 2] * 2, rtol=1e-6)
    most = jax.jit(jax.grad(lambda x: max_pool(x, (1, 3)).sum()))(x)
    np.testing.assert_allclose(most.ravel(), [1 / 2, 1 / 2, 0, 0, 0, 1, 1 / 2, 1 / 2])


IMAGES = {
    "zeros": lambda x: jnp.zeros_like(x),
    "constant": lambda x: jnp.full_like(x, 3.0),
    "constant and huge": lambda x: jnp.full_like(x, 1e18),
    "one pixel": lambda x: jnp.zeros_like(x).at[0, 3, 3].set(2.0),
    "tiny": lambda x: 1e-25 * x,
    "large": lambda x: 1e4 * x,
    "huge": lambda x: 1e18 * x,
    "huge and tiny": lambda x: x * jnp.where(x > 0, 1e18, 1e-25),
    "far below zero": lambda x: -1e9 * jnp.abs(x),
    "relu": lambda x: jnp.maximum(x, 0.0),
}


@functools.cache
def value_and_gradients(stride):
    """Results and gradients for pixels and temperature."""

    def value(x, temperature):
        out = capsule_pool(x, (3, 3), stride, "SAME", 3, temperature, 2)
        return (out * jnp.cos(jnp.arange(float(out.size))).reshape(out.shape)).sum(), out

    return jax.jit(jax.value_and_grad(value, argnums=(0, 1), has_aux=True))


@pytest.mark.parametrize("stride", [None, (2, 2)])
@pytest.mark.parametrize("image", IMAGES)
def test_values_and_gradients_are_finite(image, stride):
    x = IMAGES[image](normal(2, 7, 8, 4))
    (_, out), gradients = value_and_gradients(stride)(x, jnp.array(2.0))
    chex.assert_tree_all_finite((out, gradients))


@pytest.mark.parametrize("name", POOLINGS)
def test_gradients_at_zero_are_those_of_the_average(name):
    # At zeros all weights are 1 and, for scores are of second order, have no slope.
    x = jnp.zeros((1, 7, 6, 2))
    gradient = jax.jit(jax.grad(lambda x: POOLINGS[name](x).sum()))(x)
    average = jax.jit(jax.grad(lambda x: average_pool(x).sum()))(x)
    chex.assert_trees_all_close(gradient, average, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e20, 1e30, 1e36])
def test_huge_values_do_not_overflow(scale):
    # Scores this far apart choose one pixel: that which agrees best with the average.
    x = scale * jnp.array([1.0, 2.0, -1.0, 0.5, 4.0, 1.0]).reshape(1, 1, 6, 1)
    out = pool_compiled(x, (1, 3), num_steps=3)
    np.testing.assert_allclose(out.ravel() / scale, [2, 4], rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": (0, 3)}, r"window is a pair .*\(0, 3\)"),
        ({"stride": (2, -1)}, r"stride is a pair .*\(2, -1\)"),
        ({"padding": "SAMEE"}, "unknown padding 'SAMEE'; did you mean 'SAME'"),
        ({"window": (6, 3), "padding": "VALID"}, "window of 6 pixels does not fit into 5"),
        ({"num_steps": 0}, "num_steps is at least 1, not 0"),
        ({"temperature": 0.0}, "temperature is above 0, not 0"),
        ({"num_capsules": 3}, "4 are not 3 capsules"),
        ({"num_capsules": 0}, "4 are not 0 capsules"),
        ({"eps": -1.0}, "eps is at least 0, not -1"),
        ({"stride": (2, 2), "upsample": "corner"}, "needs a stride like the window"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        capsule_pool(jnp.zeros((1, 5, 5, 4)), **arguments)


@pytest.mark.parametrize("name", ["average", "max"])
@pytest.mark.parametrize("arguments", [{"window": (3, 0)}, {"padding": "FULL"}])
def test_mistakes_are_named_by_the_plain_poolings_too(name, arguments):
    with pytest.raises(ValueError, match=r"window is a pair|unknown padding 'FULL'"):
        POOLINGS[name](jnp.zeros((1, 5, 5, 4)), **arguments)


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int32, jnp.bool_])
def test_images_of_whole_numbers_are_refused(monkeypatch, name, dtype):
    # Without type checking, which is on in tests alone and has errors of its own.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=f"floating-point numbers, not {jnp.dtype(dtype)}: use x"):
        POOLINGS[name](jnp.ones((1, 6, 6, 4), dtype))


@pytest.mark.parametrize("window", [3, (3, 3, 3), (3.0, 3.0)])
def test_a_window_that_is_no_pair_of_whole_numbers(window):
    with pytest.raises((ValueError, TypeError)):
        make_grid((5, 5), window, None, "SAME")


def test_an_unknown_upsampling():
    with pytest.raises((ValueError, TypeError)):
        capsule_pool(jnp.zeros((1, 5, 5, 4)), upsample="centre")


@pytest.mark.ci
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("image", "window", "stride"), CASES)
def test_windows_hold_the_pixels_of_the_loops(image, window, stride, padding):
    grid = make_grid(image, window, stride, padding)
    numbers = 1.0 + jnp.arange(float(image[0] * image[1])).reshape(1, *image, 1)
    cut, inside = np.asarray(jax.jit(lambda x: cut_windows(x, grid))(numbers)), pixels_inside(grid)
    np.testing.assert_array_equal(cut[0, ..., 0] > 0, inside)
    rows, columns = (
        slow.spans(image[k], window[k], (stride or window)[k], padding) for k in range(2)
    )
    for y, column in np.ndindex(len(rows), len(columns)):
        held = [1 + p * image[1] + q for p in rows[y] for q in columns[column]]
        np.testing.assert_array_equal(cut[0, y, column][inside[y, column], 0], held)


def test_capsule_pool_is_exported():
    assert capsjax.capsule_pool is capsule_pool
