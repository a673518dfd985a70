"""Convolution in the frequency domain: a third of the multiplications, all in matrix products.

A convolution of stride s is a sum over s² phases: the pixels of one phase form a smaller image,
which meets every s-th row and column of the kernel, at stride one. A real discrete Fourier
transform turns that into one complex product for each frequency. All three steps are linear maps
with constant matrices,

    y = C ((A x) · (B kernel))

where A x and B kernel have two real numbers for each of g complex frequencies, and "·" takes all
four products between the two pairs: one matrix product for each frequency, (2 images, channels of
all phases) by (channels of all phases, 2 output channels). For the second layer of the CapsNet,
20x20 images and a 9x9 kernel at stride 2, that is 200 products instead of
36 · 81 / 4 = 729 for each pair of channels, and constant matrices of 100 rows and columns, whose
cost is spread over 256 channels.

Large images are cut into tiles that overlap in the input and adjoin in the output.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from capsjax.kernels.chunks import join, split
from capsjax.kernels.conv.plan import Plan, make_plan, num_frequencies
from capsjax.kernels.rearrangement import rearrange
from capsjax.products import OPERAND_TYPES, OperandType, constant_product, large_result

# Limit on the transformed images in memory at once; larger batches are processed in chunks.
MAX_CHUNK_BYTES = 256 * 2**20

# (f, x) -> f(x) for an f that only reorders numbers.
Arrange = Callable[[Callable[[Array], Array], Array], Array]


@functools.cache
def make_matrices(
    points: tuple[int, int], taps: tuple[int, int], tile: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make A, B and C above, of shapes (2g, points), (2g, taps) and (tile, 4g), pairs flattened.

    One of each pair of conjugate frequencies is kept. With image a + ib and kernel c + id there,
    the four products ac, ad, bc and bd make the real part ac - bd and the imaginary part ad + bc.
    The kernel is conjugated, because a network's convolution does not flip it. Two real
    frequencies, a with c and b with d, take the place of a complex one, and ad and bc are unused;
    the last of an odd number of them is paired with zero.
    """
    rows, columns = np.meshgrid(*map(np.arange, points), indexing="ij")
    A, B, C, real = [], [], [], []
    for row, column in np.ndindex(points):
        conjugate = (-row % points[0], -column % points[1])
        if conjugate < (row, column):
            continue
        angle = 2 * np.pi * (row * rows / points[0] + column * columns / points[1])
        of_taps = angle[: taps[0], : taps[1]]
        of_tile = angle[: tile[0], : tile[1]]
        cos, sin = np.cos(of_tile) / angle.size, np.sin(of_tile) / angle.size
        if conjugate == (row, column):
            real.append((np.cos(angle), np.cos(of_taps), cos))
        else:
            A, B = [*A, np.cos(angle), -np.sin(angle)], [*B, np.cos(of_taps), np.sin(of_taps)]
            C = [*C, 2 * cos, -2 * sin, -2 * sin, -2 * cos]
    if len(real) % 2:
        real.append(tuple(map(np.zeros_like, real[0])))
    for (a, c, of_first), (b, d, of_second) in zip(real[::2], real[1::2], strict=True):
        none = np.zeros_like(of_first)
        A, B, C = [*A, a, b], [*B, c, d], [*C, of_first, none, none, of_second]
    A, B, C = (np.stack([x.ravel() for x in M]).astype(np.float32) for M in (A, B, C))
    return A, B, np.ascontiguousarray(C.T)


def conv2d_fourier(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw c o"],
    stride: int,
    dtype: OperandType = "float32",
) -> Float[Array, "n y x o"]:
    """Compute `capsjax.kernels.conv.conv2d` in the frequency domain.

    The operands of all products are rounded to `dtype`, except those of C and of the gradient's
    transforms; sums are float32. With bfloat16 the result is about twice as far from float32's as
    that of patches. It has a reverse-mode gradient and no forward-mode one.
    """
    return _convolve(stride, dtype, x.astype(jnp.float32), kernel.astype(jnp.float32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _convolve(stride, dtype, x, kernel):
    # Without a gradient, a program may compute a single batch, in memory fresh from the system:
    # there a copy of the images costs more than the divisions that `rearrange` saves.
    return _forward(stride, dtype, x, kernel, arrange=_apply)[0]


def _apply(f: Callable[[Array], Array], x: Array) -> Array:
    return f(x)


def _forward(stride, dtype, x, kernel, arrange=rearrange):
    plan, size = _plan_of(x, kernel, stride)
    if size == len(x):
        X = _transform_images(plan, dtype, x, arrange)
        # XLA would begin with the kernel, which then takes up memory beside the images.
        W = _transform_kernel(plan, dtype, kernel, after=X)
        return _outputs(plan, dtype, X, W, size), (x, kernel, W, X)
    W = _transform_kernel(plan, dtype, kernel)

    def one_chunk(part):
        return _outputs(plan, dtype, _transform_images(plan, dtype, part, arrange), W, size)

    y = lax.map(one_chunk, split(x, size))
    # The transformed images, several times larger than x, are computed again when needed.
    return join(y, len(x)), (x, kernel, W, None)


def _backward(stride, dtype, saved, dy):
    x, kernel, W, X = saved
    plan, size = _plan_of(x, kernel, stride)
    if size == len(x):
        dx, dW = _backward_chunk(plan, dtype, x, W, X, dy)
    else:

        def one_chunk(dW, parts):
            part, dy = parts
            X = _transform_images(plan, dtype, part)
            dx, more = _backward_chunk(plan, dtype, part, W, X, dy)
            return dW + more, dx

        dW = jnp.zeros(W.shape, OPERAND_TYPES[large_result(dtype)])
        dW, dx = lax.scan(one_chunk, dW, (split(x, size), split(dy, size)))
        dx = join(dx, len(x))
    _, B, _ = make_matrices(plan.points, plan.taps, plan.tile)
    dphases = _by_constant(B.T, dW.reshape(len(B), -1), dtype, large_result(dtype))
    dphases = dphases.astype(jnp.float32)
    return dx, _transpose_of(functools.partial(_phases, plan), kernel, dphases)


_convolve.defvjp(_forward, _backward)

# In all arrays below a tile is an image of its own, t = n · tiles, and c counts the channels of
# all phases. Axes are ordered so that the numbers of a frequency are adjacent in both operands and
# its product is one of plain matrices, (2t, c) by (2o, c): rows of t or o for its first number,
# then rows for its second. The channels c always come last, because they are the most numerous.


def _outputs(plan: Plan, dtype: str, X: Array, W: Array, n: int) -> Array:
    """Return the outputs (n, y, x, o) of n transformed images (g, 2t, c)."""
    held = OPERAND_TYPES[large_result(dtype)]
    Y = jnp.einsum("gtc,goc->gto", X, W, preferred_element_type=held)
    _, _, C = make_matrices(plan.points, plan.taps, plan.tile)
    g, t, o = len(Y), Y.shape[1] // 2, Y.shape[2] // 2
    Y = Y.reshape(g, 2, t, 2, o).transpose(0, 1, 3, 2, 4)
    y = _by_constant(C, Y.reshape(4 * g, t * o), dtype)
    y = y.reshape(*plan.tile, n, *plan.tiles, o)
    y = y.transpose(2, 3, 0, 4, 1, 5)
    y = y.reshape(n, plan.tile[0] * plan.tiles[0], plan.tile[1] * plan.tiles[1], o)
    return y[:, : plan.outputs[0], : plan.outputs[1]]


def _backward_chunk(plan: Plan, dtype: str, x: Array, W: Array, X: Array, dy: Array):
    """Return gradients of a chunk's images (n, h, w, c) and the transformed kernel (g, 2o, c)."""
    A, _, C = make_matrices(plan.points, plan.taps, plan.tile)
    g, t, c = len(X), X.shape[1] // 2, X.shape[2]
    sizes = (plan.tile[axis] * plan.tiles[axis] - dy.shape[1 + axis] for axis in range(2))
    dy = jnp.pad(dy, ((0, 0), *((0, missing) for missing in sizes), (0, 0)))
    o = dy.shape[3]
    dy = dy.reshape(len(x), plan.tiles[0], plan.tile[0], plan.tiles[1], plan.tile[1], o)
    held = large_result(dtype)
    of_t = _by_constant(C.T, dy.transpose(2, 4, 0, 1, 3, 5).reshape(len(C), -1), dtype, held)
    of_t = _rounded(of_t.reshape(g, 2, 2, t, o), dtype).transpose(0, 1, 3, 2, 4)
    of_t = of_t.reshape(g, 2 * t, 2 * o)
    if jax.default_backend() == "cpu":
        # Once for each order of t and o: a product with a transposed operand takes twice as long.
        of_o = (C.T @ dy.transpose(2, 4, 5, 0, 1, 3).reshape(len(C), -1)).reshape(g, 2, 2, o, t)
        of_o = _rounded(of_o, dtype).transpose(0, 2, 3, 1, 4).reshape(g, 2 * o, 2 * t)
        dW = jnp.matmul(of_o, X, preferred_element_type=jnp.float32)
    else:
        dW = jnp.einsum("gto,gtc->goc", of_t, X, preferred_element_type=OPERAND_TYPES[held])
    dX = jnp.matmul(of_t, W, preferred_element_type=OPERAND_TYPES[held])
    dtiles = _by_constant(A.T, dX.reshape(2 * g, t * c), dtype, held).astype(jnp.float32)
    return _transpose_of(functools.partial(_tiles, plan), x, dtiles), dW


def _by_constant(matrix: np.ndarray, x: Array, dtype: str, result: str = "float32") -> Array:
    """Multiply a constant matrix by x; the operands are rounded only on accelerators."""
    return constant_product(matrix, x, large_result(dtype), result)


def _transform_images(plan: Plan, dtype: str, x: Array, arrange: Arrange = rearrange) -> Array:
    """Transform images, rounded: (n, h, w, c) -> (g, 2t, c)."""
    A, _, _ = make_matrices(plan.points, plan.taps, plan.tile)
    tiles = arrange(functools.partial(_tiles, plan), _rounded(x, dtype))
    return _transform(A, tiles.reshape(A.shape[1], -1, plan.stride**2 * x.shape[3]), dtype)


def _transform_kernel(plan: Plan, dtype: str, kernel: Array, after: Array | None = None) -> Array:
    """Transform a kernel, rounded, when `after` is there: (kh, kw, c, o) -> (g, 2o, c)."""
    _, B, _ = make_matrices(plan.points, plan.taps, plan.tile)
    phases = rearrange(functools.partial(_phases, plan), _rounded(kernel, dtype), after)
    return _transform(B, phases.reshape(B.shape[1], kernel.shape[3], -1), dtype)


def _transform(matrix: np.ndarray, x: Array, dtype: str) -> Array:
    """Apply a matrix to points: (2g, points) and (points, r, c) -> (g, 2r, c)."""
    points, r, c = x.shape
    X = constant_product(matrix, x.reshape(points, r * c), dtype, large_result(dtype))
    return _rounded(X, dtype).reshape(len(matrix) // 2, 2 * r, c)


def _rounded(x: Array, dtype: str) -> Array:
    return x.astype(OPERAND_TYPES[dtype])


def _transpose_of(f: Callable[[Array], Array], x: Array, y: Array) -> Array:
    """Apply the transpose of a linear f(x) to a y that has as many numbers as f(x)."""
    (back,) = jax.linear_transpose(f, x)(y.reshape(jax.eval_shape(f, x).shape))
    return back


def _tiles(plan: Plan, x: Array) -> Array:
    """Cut images into overlapping tiles, phase by phase: (n, h, w, c) -> (points, t, c).

    Each of the last three stands for several axes.
    """
    n, h, w, c = x.shape
    (rows, columns), s = plan.padded, plan.stride
    x = jnp.pad(x, ((0, 0), (0, max(0, rows - h)), (0, max(0, columns - w)), (0, 0)))
    x = x[:, :rows, :columns].reshape(n, rows // s, s, columns // s, s, c)
    x = _windows(x, 1, plan.tiles[0], plan.tile[0], plan.points[0])
    x = _windows(x, 4, plan.tiles[1], plan.tile[1], plan.points[1])
    # (n, tiles, points, s, tiles, points, s, c)
    return x.transpose(2, 5, 0, 1, 4, 3, 6, 7)


def _windows(x: Array, axis: int, count: int, step: int, size: int) -> Array:
    """Replace an axis by two: `count` windows of `size`, `step` apart."""
    parts = [
        lax.slice_in_dim(x, first, first + size, axis=axis)
        for first in range(0, count * step, step)
    ]
    return jnp.stack(parts, axis=axis)


def _phases(plan: Plan, kernel: Array) -> Array:
    """Split a kernel into phases and pad the short ones: (kh, kw, c, o) -> (taps, o, c).

    Taps and c stand for several axes.
    """
    kh, kw, c, o = kernel.shape
    (rows, columns), s = plan.taps, plan.stride
    kernel = jnp.pad(kernel, ((0, s * rows - kh), (0, s * columns - kw), (0, 0), (0, 0)))
    return kernel.reshape(rows, s, columns, s, c, o).transpose(0, 2, 5, 1, 3, 4)


def _plan_of(x: Array, kernel: Array, stride: int) -> tuple[Plan, int]:
    """Return the plan, and how many images are processed at once, in chunks of equal size."""
    n, h, w, c = x.shape
    plan = make_plan((h, w), kernel.shape[:2], stride)
    of_image = 2 * num_frequencies(plan.points) * math.prod(plan.tiles) * stride**2 * c * 4
    chunks = max(1, -(-n // max(1, MAX_CHUNK_BYTES // of_image)))
    return plan, -(-n // chunks)
