"""Convolution as gathered patches times a matrix: for few channels on a GPU."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from capsjax.kernels import triton
from capsjax.kernels.conv.sizes import output_size
from capsjax.products import OPERAND_TYPES, OperandType, large_result, product

# Tensor cores favour sums whose length is a multiple of this; the rest is filled with zeros.
TERMS_OF_A_SUM = 32
# Patches that a program of the kernel gathers.
PATCHES = 128


def conv2d_gathered(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw c o"],
    stride: int,
    dtype: OperandType = "float32",
    bias: Float[Array, "o"] | None = None,
) -> Float[Array, "n y x o"]:
    """Compute `conv2d` with its bias as one product of two matrices; the result is rounded.

    The bias is one more row of the kernel matrix, multiplied by a column of ones: so its gradient
    comes from the same product as the kernel's, without a pass over the gradient of the outputs.
    """
    kh, kw, c, o = kernel.shape
    terms = kh * kw * c
    width = -(-(terms + 1) // TERMS_OF_A_SUM) * TERMS_OF_A_SUM
    patches = gather_patches(x.astype(OPERAND_TYPES[dtype]), (kh, kw), stride, width)
    n, rows, columns, _ = patches.shape
    last = jnp.zeros((1, o), kernel.dtype) if bias is None else bias[None]
    matrix = jnp.concatenate([kernel.reshape(terms, o), last])
    matrix = jnp.pad(matrix, ((0, width - terms - 1), (0, 0)))
    flat = product(
        "mk,ko->mo",
        patches.reshape(n * rows * columns, width),
        matrix,
        dtype,
        large_result(dtype),
    )
    return flat.reshape(n, rows, columns, o).astype(jnp.float32)


def gather_patches(
    x: Float[Array, "n h w c"], window: tuple[int, int], stride: int, width: int
) -> Float[Array, "n y x k"]:
    """Extract patches as `extract_patches` does, then a one, then zeros up to the given width.

    Everything is gathered in one pass, from each image's pixels with a one and a zero behind them:
    a GPU takes 10 µs where it takes 515 to shift and convert an image for every pixel of a patch.

    >>> gather_patches(jnp.full((1, 2, 2, 1), 3.0), (2, 1), 1, 4)[0, 0].tolist()
    [[3.0, 3.0, 1.0, 0.0], [3.0, 3.0, 1.0, 0.0]]
    """
    rows, columns = map(output_size, x.shape[1:3], window, (stride, stride))
    numbers = len(x) * rows * columns * width
    if triton.runs() and width % TERMS_OF_A_SUM == 0 and 0 < numbers < 2**31:
        return _gather_by_kernel(window, stride, width, x)
    return _gather(window, stride, width, x)


def _gather(window: tuple[int, int], stride: int, width: int, x: Array) -> Array:
    n, *shape = x.shape
    flat = x.reshape(n, math.prod(shape))
    flat = jnp.concatenate([flat, jnp.ones((n, 1), x.dtype), jnp.zeros((n, 1), x.dtype)], axis=1)
    # Behind a barrier, because XLA would convert an image once for every patch.
    flat = lax.optimization_barrier(flat)
    return flat[:, _places(tuple(shape), window, stride, width)]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _gather_by_kernel(window: tuple[int, int], stride: int, width: int, x: Array) -> Array:
    """Gather by a kernel of our own, because XLA's gather takes three times as long."""
    pl, plgpu = triton.pallas()
    n, h, w, c = x.shape
    (kh, kw), terms = window, math.prod(window) * c
    rows, columns = output_size(h, kh, stride), output_size(w, kw, stride)
    count = n * rows * columns

    def kernel(x, patches):
        m = pl.program_id(0) * PATCHES + jnp.arange(PATCHES)[:, None]
        k = pl.program_id(1) * TERMS_OF_A_SUM + jnp.arange(TERMS_OF_A_SUM)[None]
        row, column = m // columns, m % columns
        first = (row // rows * h + row % rows * stride) * w + column * stride
        place = first * c + k // (kw * c) * (w * c) + k % (kw * c)
        mask = (m < count) & (k < terms)
        numbers = plgpu.load(x.at[jnp.where(mask, place, 0)], mask=mask, other=0.0)
        numbers = jnp.where(k == terms, jnp.ones((), numbers.dtype), numbers)
        at = jnp.where(m < count, m, count), k
        plgpu.store(patches.at[at], numbers, mask=jnp.broadcast_to(m < count, mask.shape))

    call = triton.call_kernel(
        kernel,
        jax.ShapeDtypeStruct((count, width), x.dtype),
        (-(-count // PATCHES), width // TERMS_OF_A_SUM),
        warps=4,
        name="gather_patches",
    )
    return call(x.ravel()).reshape(n, rows, columns, width)


def _gather_forward(window, stride, width, x):
    # The gradient needs the shape of x alone.
    return _gather_by_kernel(window, stride, width, x), x


def _gather_backward(window, stride, width, x, cotangent):
    _, back = jax.vjp(functools.partial(_gather, window, stride, width), x)
    return back(cotangent)


_gather_by_kernel.defvjp(_gather_forward, _gather_backward)


@functools.lru_cache(maxsize=64)
def _places(
    shape: tuple[int, int, int], window: tuple[int, int], stride: int, width: int
) -> np.ndarray:
    """Tabulate where in an image, with a one and a zero behind it, its patches are: (y, x, k)."""
    h, w, c = shape
    rows, columns = (
        stride * np.arange(output_size(size, taps, stride))[:, None] + np.arange(taps)
        for size, taps in zip((h, w), window, strict=True)
    )
    pixels = rows[:, None, :, None] * w + columns[None, :, None, :]
    places = (pixels[..., None] * c + np.arange(c)).reshape(len(rows), len(columns), -1)
    behind = np.full((*places.shape[:2], width - places.shape[2]), h * w * c + 1)
    behind[..., 0] = h * w * c
    return np.concatenate([places, behind], axis=-1)
