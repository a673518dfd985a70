"""Convolution in the frequency domain: a third of the multiplications, all in matrix products.

A convolution of stride s is a sum over s² phases: the pixels of one phase form a smaller image,
which meets every s-th row and column of the kernel, at stride one. A real discrete Fourier
transform turns that into one product for each frequency. All three steps are linear maps with
constant matrices,

    y = C ((A x) · (B kernel))

where "·" multiplies, for each of m numbers apart, a matrix (images, channels of all phases) by a
matrix (channels of all phases, output channels). For the second layer of the CapsNet, 20x20
images and a 9x9 kernel at stride 2, that is m = 148 products in place of 36 · 81 / 4 = 729, and
constant matrices of 100 columns, whose cost is spread over 256 channels.

Large images are cut into tiles that overlap in the input and adjoin in the output.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from capsjax.chunks import join, split
from capsjax.conv.sizes import output_size
from capsjax.products import OPERAND_TYPES, OperandType, product

# Points of a transform along one axis. More would multiply less for each output, but the
# kernel's transform grows with their square: at 12, and 256 channels on either side, 224 MB.
MAX_POINTS = 12
# Of the transformed images that are held at once; larger batches are worked off in chunks.
MAX_CHUNK_BYTES = 256 * 2**20


class Plan(NamedTuple):
    """How a convolution is cut up. Pairs are for rows and columns.

    Attributes:
      stride: of the convolution.
      outputs: rows and columns of the result.
      taps: extent of one phase of the kernel.
      tile: outputs of a tile.
      tiles: how many tiles there are.
    """

    stride: int
    outputs: tuple[int, int]
    taps: tuple[int, int]
    tile: tuple[int, int]
    tiles: tuple[int, int]

    @property
    def points(self) -> tuple[int, int]:
        """Points of a tile's transform: no fewer, so that nothing wraps around."""
        return tuple(tile + taps - 1 for tile, taps in zip(self.tile, self.taps, strict=True))

    @property
    def padded(self) -> tuple[int, int]:
        """Rows and columns of an image that all tiles together see."""
        sizes = zip(self.tile, self.tiles, self.taps, strict=True)
        return tuple(self.stride * (tile * tiles + taps - 1) for tile, tiles, taps in sizes)


def make_plan(image: tuple[int, int], kernel: tuple[int, int], stride: int) -> Plan:
    """The plan with the fewest points in all, for images and a kernel of those rows and columns.

    >>> make_plan((20, 20), (9, 9), 2).points
    (10, 10)
    """
    outputs = tuple(
        output_size(pixels, size, stride) for pixels, size in zip(image, kernel, strict=True)
    )
    taps = tuple(-(-size // stride) for size in kernel)
    (rows, columns) = (_cut(*sizes) for sizes in zip(outputs, taps, strict=True))
    return Plan(stride, outputs, taps, (rows[0], columns[0]), (rows[1], columns[1]))


def _cut(outputs: int, taps: int) -> tuple[int, int]:
    """Size and number of tiles along one axis."""
    largest = max(1, min(outputs, MAX_POINTS + 1 - taps))
    counts = {tile: -(-outputs // tile) for tile in range(1, largest + 1)}
    tile = min(counts, key=lambda tile: counts[tile] * (tile + taps - 1))
    return tile, counts[tile]


def multiplications(plan: Plan, channels: int, features: int, batch: int) -> float:
    """Multiplications for each image, the constant matrices' included."""
    m, points = num_products(plan.points), math.prod(plan.points)
    channels *= plan.stride**2
    for_tile = channels * features + points * channels + math.prod(plan.tile) * features
    for_kernel = math.prod(plan.taps) * channels * features / batch
    return m * (math.prod(plan.tiles) * for_tile + for_kernel)


def num_products(points: tuple[int, int]) -> int:
    """Products for each tile: three for a complex frequency, one for a real one.

    >>> num_products((10, 10))
    148
    """
    real = math.prod(2 if size % 2 == 0 else 1 for size in points)
    return real + 3 * (math.prod(points) - real) // 2


@functools.cache
def make_matrices(
    points: tuple[int, int], taps: tuple[int, int], tile: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A, B and C above: of shapes (m, points), (m, taps) and (tile, m), pairs multiplied out.

    Of a pair of conjugate frequencies one is kept. With image a + ib and kernel c + id there,
    their product is had from three: c (a + b), a (d - c) and b (c + d); the real part is the
    first minus the third and the imaginary part the first plus the second. The kernel is
    conjugated, because a network's convolution does not flip it.
    """
    rows, columns = np.meshgrid(*map(np.arange, points), indexing="ij")
    A, B, C = [], [], []
    for row, column in np.ndindex(points):
        conjugate = (-row % points[0], -column % points[1])
        if conjugate < (row, column):
            continue
        angle = 2 * np.pi * (row * rows / points[0] + column * columns / points[1])
        of_taps = angle[: taps[0], : taps[1]]
        of_tile = angle[: tile[0], : tile[1]]
        a, b = np.cos(angle), -np.sin(angle)
        c, d = np.cos(of_taps), np.sin(of_taps)
        cos, sin = np.cos(of_tile) / angle.size, np.sin(of_tile) / angle.size
        if conjugate == (row, column):
            A, B, C = [*A, a], [*B, c], [*C, cos]
        else:
            A, B = [*A, a + b, a, b], [*B, c, d - c, c + d]
            C = [*C, 2 * (cos - sin), -2 * sin, -2 * cos]
    A, B, C = (np.stack([x.ravel() for x in M]).astype(np.float32) for M in (A, B, C))
    return A, B, np.ascontiguousarray(C.T)


def conv2d_fourier(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw c o"],
    stride: int,
    dtype: OperandType = "float32",
) -> Float[Array, "n y x o"]:
    """`capsjax.conv.conv2d` in the frequency domain.

    The operands of all products are rounded to `dtype`, but those of C and of the gradient's
    transforms; sums are float32. With bfloat16 the result is about twice as far from float32's as
    that of patches. It has a reverse-mode gradient and no forward-mode one.
    """
    return _convolve(stride, dtype, x.astype(jnp.float32), kernel.astype(jnp.float32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _convolve(stride, dtype, x, kernel):
    return _forward(stride, dtype, x, kernel)[0]


def _forward(stride, dtype, x, kernel):
    plan, size = _plan_of(x, kernel, stride)
    W = _transform_kernel(plan, dtype, kernel)
    if size == len(x):
        y, X = _forward_chunk(plan, dtype, x, W)
        return y, (x, kernel, W, X)
    y = lax.map(lambda part: _forward_chunk(plan, dtype, part, W)[0], split(x, size))
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

        dW = jnp.zeros((W.shape[0], W.shape[2], W.shape[1]))
        dW, dx = lax.scan(one_chunk, dW, (split(x, size), split(dy, size)))
        dx = join(dx, len(x))
    _, B, _ = make_matrices(plan.points, plan.taps, plan.tile)
    m, c, o = dW.shape
    dphases = (B.T @ dW.reshape(m, c * o)).reshape(-1, c, o)
    (dkernel,) = jax.linear_transpose(functools.partial(_phases, plan), kernel)(dphases)
    return dx, dkernel


_convolve.defvjp(_forward, _backward)

# In all arrays below a tile is an image of its own, t = n · tiles, and c counts the channels of
# all phases. Axes stand so that each product for each frequency is of two plain row-major
# matrices, the only order that is fast in both number types: with images (m, c, t) and kernel
# (m, o, c) the outputs are kernel · images, the images' gradient is outputs (m, t, o) · kernel,
# and the kernel's gradient images · outputs.


def _forward_chunk(plan: Plan, dtype: str, x: Array, W: Array):
    """Outputs (n, y, x, o) of a chunk, and its transformed images (m, c, t)."""
    X = _transform_images(plan, dtype, x)
    Y = jnp.matmul(W, X, preferred_element_type=jnp.float32)
    _, _, C = make_matrices(plan.points, plan.taps, plan.tile)
    m, o, t = Y.shape
    y = (C @ Y.reshape(m, o * t)).reshape(*plan.tile, o, x.shape[0], *plan.tiles)
    y = y.transpose(3, 4, 0, 5, 1, 2)
    y = y.reshape(x.shape[0], plan.tile[0] * plan.tiles[0], plan.tile[1] * plan.tiles[1], o)
    return y[:, : plan.outputs[0], : plan.outputs[1]], X


def _backward_chunk(plan: Plan, dtype: str, x: Array, W: Array, X: Array, dy: Array):
    """Gradients of the images (n, h, w, c) of a chunk, and of the kernel, transformed (m, c, o)."""
    A, _, C = make_matrices(plan.points, plan.taps, plan.tile)
    m, c, t = X.shape
    sizes = (plan.tile[axis] * plan.tiles[axis] - dy.shape[1 + axis] for axis in range(2))
    dy = jnp.pad(dy, ((0, 0), *((0, missing) for missing in sizes), (0, 0)))
    o = dy.shape[3]
    dy = dy.reshape(len(x), plan.tiles[0], plan.tile[0], plan.tiles[1], plan.tile[1], o)
    dy = dy.transpose(2, 4, 0, 1, 3, 5).reshape(len(C), t * o)
    dY = (C.T @ dy).astype(OPERAND_TYPES[dtype]).reshape(m, t, o)
    dX = jnp.matmul(dY, W, preferred_element_type=jnp.float32)
    dW = jnp.matmul(X, dY, preferred_element_type=jnp.float32)
    dtiles = (A.T @ dX.reshape(m, t * c)).reshape(A.shape[1], t, c)
    (dx,) = jax.linear_transpose(functools.partial(_tiles, plan), x)(dtiles)
    return dx, dW


def _transform_images(plan: Plan, dtype: str, x: Array) -> Array:
    """(n, h, w, c) -> (m, c, t), rounded."""
    A, _, _ = make_matrices(plan.points, plan.taps, plan.tile)
    points, t, c = (tiles := _tiles(plan, x)).shape
    X = product("mp,pt->mt", jnp.asarray(A), tiles.transpose(0, 2, 1).reshape(points, c * t), dtype)
    return X.astype(OPERAND_TYPES[dtype]).reshape(len(A), c, t)


def _transform_kernel(plan: Plan, dtype: str, kernel: Array) -> Array:
    """(kh, kw, c, o) -> (m, o, c), rounded."""
    _, B, _ = make_matrices(plan.points, plan.taps, plan.tile)
    taps, c, o = (phases := _phases(plan, kernel)).shape
    W = product("mp,pt->mt", jnp.asarray(B), phases.transpose(0, 2, 1).reshape(taps, o * c), dtype)
    return W.astype(OPERAND_TYPES[dtype]).reshape(-1, o, c)


def _tiles(plan: Plan, x: Array) -> Array:
    """(n, h, w, c) -> (points, t, c): overlapping tiles, phase by phase."""
    n, h, w, c = x.shape
    (rows, columns), s = plan.padded, plan.stride
    x = jnp.pad(x, ((0, 0), (0, max(0, rows - h)), (0, max(0, columns - w)), (0, 0)))
    x = x[:, :rows, :columns].reshape(n, rows // s, s, columns // s, s, c)
    x = _windows(x, 1, plan.tiles[0], plan.tile[0], plan.points[0])
    x = _windows(x, 4, plan.tiles[1], plan.tile[1], plan.points[1])
    # (n, tiles, points, s, tiles, points, s, c)
    x = x.transpose(2, 5, 0, 1, 4, 3, 6, 7)
    return x.reshape(math.prod(plan.points), n * math.prod(plan.tiles), s * s * c)


def _windows(x: Array, axis: int, count: int, step: int, size: int) -> Array:
    """An axis as `count` windows of `size`, `step` apart: two axes in its place."""
    parts = [
        lax.slice_in_dim(x, first, first + size, axis=axis)
        for first in range(0, count * step, step)
    ]
    return jnp.stack(parts, axis=axis)


def _phases(plan: Plan, kernel: Array) -> Array:
    """(kh, kw, c, o) -> (taps, c, o): the kernel phase by phase, its short phases padded."""
    kh, kw, c, o = kernel.shape
    (rows, columns), s = plan.taps, plan.stride
    kernel = jnp.pad(kernel, ((0, s * rows - kh), (0, s * columns - kw), (0, 0), (0, 0)))
    kernel = kernel.reshape(rows, s, columns, s, c, o).transpose(0, 2, 1, 3, 4, 5)
    return kernel.reshape(rows * columns, s * s * c, o)


def _plan_of(x: Array, kernel: Array, stride: int) -> tuple[Plan, int]:
    """The plan, and how many images are worked off at once: chunks of equal size."""
    n, h, w, c = x.shape
    plan = make_plan((h, w), kernel.shape[:2], stride)
    of_image = num_products(plan.points) * math.prod(plan.tiles) * stride**2 * c * 4
    chunks = max(1, -(-n // max(1, MAX_CHUNK_BYTES // of_image)))
    return plan, -(-n // chunks)
