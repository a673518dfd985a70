"""Convolution as products of wide patches, each for a strip of neighbouring outputs.

Patches times a matrix reads every pixel kh · kw times, and where there are few channels the patches
are larger than images and outputs together: 17 MB for the first layer of the CapsNet, of images of
0.4 MB. Outputs that stand side by side in a row see almost the same pixels. So a strip of s of
them is one row of a product,

    out[n, y, s·x + k, o] = Σ_m patch[n, y, x, m] · T[m, (k, o)]

where a patch has the kh · (kw + s - 1) pixels of the whole strip, and T holds the kernel s times,
each time a pixel further to the right, with zeros around it. For a kernel of nine columns and
strips of four that is a third more multiplications and a third of the patches, by a matrix four
times as wide.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from capsjax.conv.sizes import output_size
from capsjax.products import OperandType, product

# Outputs of a strip at most. Strips of 2 and 5 took as long for the first layer of the small
# CapsNet, strips of 10 and 20 two and three times as long.
MAX_STRIP = 4


def conv2d_strips(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw c o"],
    stride: int,
    dtype: OperandType = "float32",
) -> Float[Array, "n y x o"]:
    """`capsjax.conv.conv2d` as one product of wide patches and a matrix with zeros in it.

    For images of few channels and kernels of few features on a CPU. The images' gradient is had
    from JAX's own rules, and so is the kernel's.
    """
    kh, kw, _, o = kernel.shape
    rows, columns = output_size(x.shape[1], kh, stride), output_size(x.shape[2], kw, stride)
    strip, strips = _cut(columns)
    width = kw + stride * (strip - 1)
    missing = stride * strip * (strips - 1) + width - x.shape[2]
    x = jnp.pad(x, ((0, 0), (0, 0), (0, max(0, missing)), (0, 0)))
    patches = _wide_patches(x, (kh, width), stride, (rows, strips), strip)
    T = _wide_kernel(kernel, stride, strip)
    flat = product("mk,ko->mo", patches, T, dtype)
    return flat.reshape(len(x), rows, strips * strip, o)[:, :, :columns]


def zeros_of_strips(columns: int, kernel: int, stride: int, features: int) -> float:
    """Multiplications by zero for each number of the patches that `conv2d_patches` would make.

    >>> zeros_of_strips(20, 9, 1, 64)
    21.333333333333332
    """
    strip, _ = _cut(columns)
    return features * stride * (strip - 1) / kernel


def _cut(columns: int) -> tuple[int, int]:
    """Outputs of a strip and strips of a row: as few strips as MAX_STRIP allows, of equal size.

    >>> _cut(20), _cut(6), _cut(1)
    ((4, 5), (3, 2), (1, 1))
    """
    strips = max(1, -(-columns // MAX_STRIP))
    return max(1, -(-columns // strips)), strips


def _wide_patches(
    x: Array, window: tuple[int, int], stride: int, counts: tuple[int, int], strip: int
) -> Array:
    """(n, h, w, c) -> (n · rows · strips, kh · width · c)."""
    (kh, width), (rows, strips) = window, counts
    step = stride * strip
    parts = [x[:, :, step * index : step * index + width] for index in range(strips)]
    x = jnp.stack(parts, axis=2)
    height = stride * (rows - 1) + 1
    parts = [x[:, row : row + height : stride] for row in range(kh)]
    return jnp.stack(parts, axis=3).reshape(len(x) * rows * strips, kh * width * x.shape[-1])


def _wide_kernel(kernel: Array, stride: int, strip: int) -> Array:
    """(kh, kw, c, o) -> (kh · width · c, strip · o): the kernel at each place of a strip."""
    last = stride * (strip - 1)
    shifts = range(0, last + 1, stride)
    shifted = [jnp.pad(kernel, ((0, 0), (shift, last - shift), (0, 0), (0, 0))) for shift in shifts]
    kh, kw, c, o = kernel.shape
    return jnp.stack(shifted, axis=3).reshape(kh * (kw + last) * c, strip * o)
