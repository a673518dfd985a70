"""Convolution, written as whichever form the machine runs fast.

XLA's CPU backend has no fast path for the gradients of a convolution with many channels: one
training step of the full CapsNet at batch 128 takes 30 s on two cores with `lax.conv`, and
1.1 to 2.0 s as patches times a matrix. On accelerators `lax.conv` is the fast one.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from capsjax.registry import look_up


def conv2d(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw c o"],
    stride: int = 1,
    form: str = "auto",
) -> Float[Array, "n y x o"]:
    """Two-dimensional convolution (cross-correlation) without padding ("VALID").

        out[n, y, x, o] = Σ_{k, l, c} input[n, stride·y + k, stride·x + l, c] · kernel[k, l, c, o]

    Args:
      x: images, (n, h, w, c).
      kernel: (kh, kw, c, o).
      stride: the same for rows and columns.
      form: "patches" (patches times a matrix), "lax" (XLA's own), or "auto" (`chosen_form`).

    Returns:
      (n, (h - kh) // stride + 1, (w - kw) // stride + 1, o).

    Raises:
      ValueError: if the image is smaller than the kernel, or the form is unknown.

    >>> conv2d(jnp.ones((1, 28, 28, 1)), jnp.ones((9, 9, 1, 4))).shape
    (1, 20, 20, 4)
    """
    check_fits(x.shape[1:3], kernel.shape[:2], "the convolution")
    return look_up(FORMS, chosen_form() if form == "auto" else form, "form of convolution")(
        x, kernel, stride
    )


def chosen_form() -> str:
    """The form of convolution that suits the default device: the one place that decides."""
    return "patches" if jax.default_backend() == "cpu" else "lax"


def output_size(size: int, kernel: int, stride: int) -> int:
    """Rows or columns that a convolution without padding leaves."""
    return (size - kernel) // stride + 1


def check_fits(image: tuple[int, int], kernel: tuple[int, int], what: str) -> None:
    """Raise ValueError if an image is too small for a kernel."""
    if image[0] < kernel[0] or image[1] < kernel[1]:
        raise ValueError(
            f"{what} needs at least {kernel[0]}x{kernel[1]} pixels for its "
            f"{kernel[0]}x{kernel[1]} kernel and gets {image[0]}x{image[1]}: use larger images "
            "or a smaller kernel_size"
        )


def _conv_lax(x: Array, kernel: Array, stride: int) -> Array:
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _conv_patches(x: Array, kernel: Array, stride: int) -> Array:
    kh, kw, c, o = kernel.shape
    patches = extract_patches(x, (kh, kw), stride)
    n, rows, columns, _ = patches.shape
    # One plain product of two matrices: the only form that XLA hands to its matrix library.
    flat = patches.reshape(n * rows * columns, kh * kw * c) @ kernel.reshape(kh * kw * c, o)
    return flat.reshape(n, rows, columns, o)


def extract_patches(
    x: Float[Array, "n h w c"], window: tuple[int, int], stride: int
) -> Float[Array, "n y x k"]:
    """All windows of the images, each flattened in the order (row, column, channel).

    Strided slices, concatenated: `lax.conv_general_dilated_patches` computes the same by a
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


FORMS = {"patches": _conv_patches, "lax": _conv_lax}
