"""Convolution as products of wide patches, each for a strip of neighbouring outputs.

The form "patches" reads every pixel kh · kw times, and with few channels the patches are larger
than images and outputs together: 17 MB for the first layer of the CapsNet, from images of 0.4 MB.
Neighbouring outputs in a row depend on almost the same pixels. So a strip of s of them is one row
of a product,

    out[n, y, s·x + k, o] = Σ_m patch[n, y, x, m] · T[m, (k, o)]

where a patch has the kh · (kw + s - 1) pixels of the whole strip, and T contains the kernel s
times, each time a pixel further to the right, with zeros around it. For a kernel of nine columns
and strips of four this takes a third more multiplications and a third of the patches, with a
matrix four times as wide.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from capsjax.kernels.conv.sizes import output_size
from capsjax.products import OperandType, product

# Most outputs of a strip. Strips of 2 and 5 took as long for the first layer of the small CapsNet,
# strips of 10 and 20 two and three times as long.
MAX_STRIP = 4


def conv2d_strips(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw c o"],
    stride: int,
    dtype: OperandType = "float32",
) -> Float[Array, "n y x o"]:
    """Compute `capsjax.kernels.conv.conv2d` as one product of wide patches and a padded matrix.

    For images of few channels and kernels of few features on a CPU. The gradients of images and
    kernel come from JAX's own rules.
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
    """Count multiplications by zero for each number of the patches that `conv2d_patches` makes.

    >>> zeros_of_strips(20, 9, 1, 64)
    21.333333333333332
    """
    strip, _ = _cut(columns)
    return features * stride * (strip - 1) / kernel


def _cut(columns: int) -> tuple[int, int]:
    """Return the outputs of a strip and strips of a row: the fewest strips, of equal size.

    >>> _cut(20), _cut(6), _cut(1)
    ((4, 5), (3, 2), (1, 1))
    """
    strips = max(1, -(-columns // MAX_STRIP))
    return max(1, -(-columns // strips)), strips


def _wide_patches(
    x: Array, window: tuple[int, int], stride: int, counts: tuple[int, int], strip: int
) -> Array:
    """Cut wide patches: (n, h, w, c) -> (n · rows · strips, kh · width · c)."""
    (kh, width), (rows, strips) = window, counts
    step = stride * strip
    parts = [x[:, :, step * index : step * index + width] for index in range(strips)]
    x = jnp.stack(parts, axis=2)
    height = stride * (rows - 1) + 1
    parts = [x[:, row : row + height : stride] for row in range(kh)]
    return jnp.stack(parts, axis=3).reshape(len(x) * rows * strips, kh * width * x.shape[-1])


def _wide_kernel(kernel: Array, stride: int, strip: int) -> Array:
    """Repeat a kernel at each output of a strip: (kh, kw, c, o) -> (kh · width · c, strip · o)."""
    last = stride * (strip - 1)
    shifts = range(0, last + 1, stride)
    shifted = [jnp.pad(kernel, ((0, 0), (shift, last - shift), (0, 0), (0, 0))) for shift in shifts]
    kh, kw, c, o = kernel.shape
    return jnp.stack(shifted, axis=3).reshape(kh * (kw + last) * c, strip * o)
