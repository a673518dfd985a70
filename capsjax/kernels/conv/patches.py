"""Convolution as patches times a matrix."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from capsjax.kernels.conv.sizes import output_size
from capsjax.products import OperandType, product


def conv2d_patches(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw c o"],
    stride: int,
    dtype: OperandType = "float32",
) -> Float[Array, "n y x o"]:
    """Compute `capsjax.kernels.conv.conv2d` as one matrix product: the plain form on a CPU."""
    kh, kw, c, o = kernel.shape
    patches = extract_patches(x, (kh, kw), stride)
    n, rows, columns, _ = patches.shape
    # One plain product of two matrices: the only form that XLA passes to its matrix library.
    patches = patches.reshape(n * rows * columns, kh * kw * c)
    flat = product("mk,ko->mo", patches, kernel.reshape(kh * kw * c, o), dtype)
    return flat.reshape(n, rows, columns, o)


def extract_patches(
    x: Float[Array, "n h w c"], window: tuple[int, int], stride: int
) -> Float[Array, "n y x k"]:
    """Cut out all windows of the images, each flattened in the order (row, column, channel).

    Concatenates strided slices: `lax.conv_general_dilated_patches` computes the same by a
    convolution with an identity kernel and is slower by a factor of ten.

    >>> extract_patches(jnp.ones((1, 5, 5, 2)), (3, 3), 2).shape
    (1, 2, 2, 18)
    """
    kh, kw = window
    rows, columns = output_size(x.shape[1], kh, stride), output_size(x.shape[2], kw, stride)
    height, width = stride * (rows - 1) + 1, stride * (columns - 1) + 1
    slices = [
        x[:, row : row + height : stride, column : column + width : stride]
        for row in range(kh)
        for column in range(kw)
    ]
    return jnp.concatenate(slices, axis=-1).reshape(
        x.shape[0], rows, columns, math.prod(window) * x.shape[3]
    )
