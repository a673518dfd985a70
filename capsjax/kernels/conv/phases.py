"""Convolution of stride s as one of stride 1, over the s x s phases of the pixels.

Pixels whose row and column have the same remainders modulo s form a phase of the image. A kernel
of stride s applies only every s-th of its rows and columns to the pixels of one phase, so the
phases of both image and kernel can be stacked in the channels:

    out[n, y, x, o] = Σ_{k, l, f} image[n, y + k, x + l, f] · kernel[k, l, f, o],   f = (phase, c)

cuDNN has fast kernels for such a convolution and its gradients only at stride 1.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from capsjax.kernels.conv.sizes import output_size
from capsjax.products import OPERAND_TYPES, OperandType


def conv2d_phases(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw c o"],
    stride: int,
    dtype: OperandType = "float32",
) -> Float[Array, "n y x o"]:
    """Compute `conv2d` by XLA's own convolution of stride 1; its result is rounded too."""
    phases, of_kernel = split_phases(x.astype(OPERAND_TYPES[dtype]), kernel, stride)
    of_kernel = of_kernel.astype(OPERAND_TYPES[dtype])
    return conv_of_phases(phases, of_kernel).astype(jnp.float32)


def conv_of_phases(
    phases: Float[Array, "n a b c"], of_kernel: Float[Array, "k l c o"]
) -> Float[Array, "n y x o"]:
    """Convolve the results of `split_phases` at stride 1, in the type of the operands."""
    return lax.conv_general_dilated(
        phases, of_kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def split_phases(
    x: Float[Array, "n h w c"], kernel: Float[Array, "kh kw c o"], stride: int
) -> tuple[Float[Array, "n a b f"], Float[Array, "k l f o"]]:
    """Move the phases of image and kernel to the channels, f = (row's phase, column's phase, c).

    The kernel is padded with zeros to whole phases, the image cropped or padded to what it covers.

    >>> [x.shape for x in split_phases(jnp.ones((1, 20, 20, 3)), jnp.ones((9, 9, 3, 4)), 2)]
    [(1, 10, 10, 12), (5, 5, 12, 4)]
    """
    taps = [-(-size // stride) for size in kernel.shape[:2]]
    rows, columns = (
        output_size(x.shape[1 + axis], kernel.shape[axis], stride) + taps[axis] - 1
        for axis in range(2)
    )
    phases = _side_by_side(_resized(x, 1, stride * rows, stride * columns), 1, stride)
    return phases, _side_by_side(_resized(kernel, 0, stride * taps[0], stride * taps[1]), 0, stride)


def _resized(x: Array, axis: int, rows: int, columns: int) -> Array:
    """Crop or zero-pad `axis` and the next one to the given rows and columns."""
    widths = [(0, 0)] * x.ndim
    for number, size in ((axis, rows), (axis + 1, columns)):
        x = lax.slice_in_dim(x, 0, min(size, x.shape[number]), axis=number)
        widths[number] = (0, size - x.shape[number])
    return jnp.pad(x, widths)


def _side_by_side(x: Array, axis: int, stride: int) -> Array:
    """Stack phases: (..., s·a, s·b, c, ...) -> (..., a, b, s·s·c, ...), with rows at `axis`."""
    before, (h, w, c), after = x.shape[:axis], x.shape[axis : axis + 3], x.shape[axis + 3 :]
    x = x.reshape(*before, h // stride, stride, w // stride, stride, c, *after)
    x = jnp.moveaxis(x, axis + 1, axis + 2)
    return x.reshape(*before, h // stride, w // stride, stride**2 * c, *after)
