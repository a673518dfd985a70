"""Transposed convolutions against the gradient of a convolution, and images in bands of rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from capsjax.kernels.bands import Rows, map_bands
from capsjax.kernels.conv import border_of_transposed, conv2d, transposed_conv2d

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("size", "stride"), [(4, 2), (2, 2), (9, 3)])
def test_it_is_the_gradient_of_a_convolution(size, stride):
    x = RNG.normal(size=(2, 3, 4, 3)).astype(np.float32)
    kernel = RNG.normal(size=(size, size, 2, 3)).astype(np.float32)
    border = border_of_transposed(size, stride)
    padded = np.pad(x, ((0, 0), border, border, (0, 0)))
    lax_conv = functools.partial(conv2d, form="lax")
    out = jax.jit(lambda x, kernel: transposed_conv2d(x, kernel, stride, lax_conv))(padded, kernel)
    before = (size - stride) // 2

    def convolve(y):
        padding = ((before, size - stride - before),) * 2
        names = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            y, kernel, (stride, stride), padding, dimension_numbers=names
        )

    large = jax.ShapeDtypeStruct((2, 3 * stride, 4 * stride, 2), jnp.float32)
    (expected,) = jax.jit(jax.linear_transpose(convolve, large))(x)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("size", "stride"), [(3, 2), (5, 2)])
def test_kernels_that_have_no_middle_are_refused(size, stride):
    with pytest.raises(ValueError, match="use a kernel of 4 or 2"):
        border_of_transposed(size, stride)


@pytest.mark.parametrize(("rows", "groups"), [(Rows(4, 2), 1), (Rows(2, 1), 3)])
def test_bands_are_the_whole_image(rows, groups):
    x = RNG.normal(size=(2, 11, 3)).astype(np.float32)
    count = rows.count(11)
    weights = RNG.normal(size=(2, groups * count, 3)).astype(np.float32)

    def sums_of_windows(x):
        """Make `groups` rows of the sum of the squares of each window's rows."""
        starts = rows.step * np.arange(rows.count(x.shape[1]))
        sums = jnp.square(x)[:, starts[:, None] + np.arange(rows.window)].sum(axis=2)
        return {"sums": jnp.repeat(sums, groups, axis=1)}

    @functools.partial(jax.jit, static_argnums=1)
    def compute(x, at_once):
        def loss(x):
            sums = map_bands(sums_of_windows, x, rows, at_once)["sums"]
            return jnp.sum(weights * sums), sums

        return jax.grad(loss, has_aux=True)(x)

    whole = compute(x, count)
    assert whole[1].shape == weights.shape
    for at_once in (1, 3):
        for found, expected in zip(compute(x, at_once), whole, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
