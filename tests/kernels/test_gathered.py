"""The convolution of few channels on a GPU: gathered patches, and the bias in the product."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.kernels import conv
from capsjax.kernels.conv import gathered
from capsjax.kernels.conv.gathered import gather_patches


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.slow
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_patches_are_those_of_the_plain_form(stride):
    x, terms = normal(0, 2, 9, 8, 3), 4 * 3 * 3
    got = gather_patches(x, (4, 3), stride, terms + 3)
    np.testing.assert_array_equal(got[..., :terms], conv.extract_patches(x, (4, 3), stride))
    np.testing.assert_array_equal(got[..., terms:], np.broadcast_to([1, 0, 0], got[..., -3:].shape))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("x", "window", "stride", "width"),
    [
        ((3, 28, 28, 1), (9, 9), 1, 96),  # the paper's; 1,200 patches are no multiple of 128
        ((2, 13, 12, 3), (4, 5), 2, 64),
        ((5, 9, 8, 2), (3, 3), 3, 32),
        ((2, 5, 4, 1), (5, 4), 1, 32),  # a patch of a whole image
    ],
)
@pytest.mark.usefixtures("kernels_run")
def test_the_kernel_gathers_the_same_patches(x, window, stride, width, dtype):
    x = normal(0, *x).astype(dtype)
    got = gather_patches(x, window, stride, width)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, gathered._gather(window, stride, width, x))


@pytest.mark.usefixtures("kernels_run")
def test_the_kernel_has_the_gradient_of_the_plain_form():
    x = normal(0, 2, 9, 8, 2)

    def weighted(gather, x):
        patches = gather(x)
        return jnp.sum(normal(1, *patches.shape) * patches)

    def plain(x):
        return gathered._gather((4, 3), 2, 32, x)

    def by_kernel(x):
        return gather_patches(x, (4, 3), 2, 32)

    got, expected = (jax.grad(weighted, 1)(gather, x) for gather in (by_kernel, plain))
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    together, alone = jax.vmap(by_kernel)(jnp.stack([x, 2 * x])), by_kernel(2 * x)
    np.testing.assert_array_equal(together[1], alone)


@pytest.mark.usefixtures("kernels_run")
def test_widths_that_are_no_multiple_of_the_kernels_are_gathered_without_it(monkeypatch):
    monkeypatch.setattr(gathered, "_gather_by_kernel", None)
    assert gather_patches(normal(0, 1, 4, 4, 1), (2, 2), 1, 7).shape == (1, 3, 3, 7)
    assert gather_patches(normal(0, 0, 4, 4, 1), (2, 2), 1, 32).shape == (0, 3, 3, 32)


@pytest.mark.slow
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(
    ("x", "kernel", "stride"),
    # Sums of 81 and 32 terms, which are padded to 96 and 64, and of 31, which the bias fills up.
    [
        ((2, 12, 11, 1), (9, 9, 1, 4), 1),
        ((2, 9, 9, 2), (4, 4, 2, 3), 2),
        ((1, 9, 31, 1), (1, 31, 1, 2), 2),
    ],
)
def test_value_and_gradients_are_those_of_the_plain_form(x, kernel, stride, with_bias):
    operands = normal(0, *x), normal(1, *kernel), normal(3, kernel[3])

    def weighted(x, kernel, bias, form):
        out = conv.conv2d(x, kernel, stride, form, bias=bias if with_bias else None)
        return jnp.sum(normal(2, *out.shape) * out), out

    gradient = jax.jit(jax.grad(weighted, (0, 1, 2), has_aux=True), static_argnums=3)
    got, expected = gradient(*operands, "gathered"), gradient(*operands, "patches")
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.ci
@pytest.mark.parametrize("form", conv.FORMS)
def test_every_form_adds_a_bias(form):
    x, kernel, bias = normal(0, 2, 8, 8, 2), normal(1, 3, 3, 2, 4), normal(3, 4)
    got = conv.conv2d(x, kernel, 2, form, bias=bias)
    expected = conv.conv2d(x, kernel, 2, form) + bias.reshape(1, 1, 1, -1)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_the_images_are_not_rounded_once_for_every_patch():
    def f(x, kernel):
        return conv.conv2d(jnp.sin(x), kernel, 1, "gathered")

    text = str(jax.make_jaxpr(f)(jnp.ones((1, 9, 9, 1)), jnp.ones((3, 3, 1, 2))))
    assert text.index("sin") < text.index("optimization_barrier") < text.index("gather")
