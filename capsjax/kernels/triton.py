"""Kernels of our own for an NVIDIA GPU, written in Pallas and compiled by Triton.

XLA makes a pass over memory for every rearrangement that it cannot fuse into a product, and for
each step of a softmax over a few classes. These kernels read numbers where they lie, and write each
result where its reader wants it. The plain forms beside them are their reference.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# What was measured for the kernel below (PERFORMANCE.md): a program has eight warps, not four, for
# a matrix of at least LARGE numbers. It takes at most so many COLUMNS, and few enough that a warp
# has no more numbers of the result than this: with more registers fewer programs run side by side.
LARGE, COLUMNS, OF_A_WARP = 128**2, 128, 2048
# Triton's products have at least this many rows and columns.
SMALLEST = 16

# Number types that the kernels multiply need a card of this compute capability.
CAPABILITY = (8, 0)

# From numbers k and the indices of a program to the rows of an array; a negative row is none.
Rows = Callable[..., Array]


def available() -> bool:
    """Return whether JAX's default device is one that the kernels are compiled for."""
    device = jax.devices()[0]
    if device.platform != "gpu" or "cuda" not in device.client.platform_version.lower():
        return False
    return tuple(map(int, device.compute_capability.split("."))) >= CAPABILITY


def interpreted() -> bool:
    """Return whether kernels are interpreted: for tests on other devices."""
    return False


def runs() -> bool:
    """Return whether kernels run here."""
    return available() or interpreted()


def pallas():
    """Import Pallas and its part for Triton, which not every system's jaxlib has."""
    from jax.experimental import pallas
    from jax.experimental.pallas import triton

    return pallas, triton


def call_kernel(kernel: Callable, shapes, grid: tuple[int, ...], warps: int, name: str):
    """Call `pallas_call` with whole arrays, of which the kernel takes its part."""
    pl, plgpu = pallas()
    return pl.pallas_call(
        kernel,
        shapes,
        grid=grid,
        interpret=interpreted(),
        compiler_params=plgpu.CompilerParams(num_warps=warps, num_stages=1),
        name=name,
    )


def multiplies_rows(matrix: np.ndarray, columns: int) -> bool:
    """Return whether `rows_product` can take a matrix, and rows with so many columns."""
    return max(matrix.shape) <= 256 and columns % SMALLEST == 0


def rows_product(
    matrix: Float[np.ndarray, "m k"],
    x: Float[Array, "*rows columns"],
    programs: tuple[int, ...],
    read: Rows,
    write: Rows,
    out: jax.ShapeDtypeStruct,
    *,
    name: str,
    rectify: bool = False,
    where: Float[Array, "*others columns"] | None = None,
) -> Float[Array, "*others columns"]:
    """Multiply a constant matrix by many sets of k rows, each to m rows of the result.

        out[write(a, program)] = Σ_b matrix[a, b] · x[read(b, program)]

    Both operands are rounded to bfloat16; sums are float32.

    Args:
      matrix: (m, k), each at most 256.
      x: rows, of a multiple of 16 columns. All axes but the last count them.
      programs: the ranges of the indices that name a set.
      read: (b, *program) -> the row of x, or a negative number for a row of zeros.
      write: (a, *program) -> the row of the result, or a negative number for none. All sets
        together write every row.
      out: shape and type of the result, whose rows have as many columns.
      name: name of the kernel in a profile.
      rectify: multiply max(x, 0).
      where: the result is zero where this array is not above zero.
    """
    (m, k), columns = matrix.shape, x.shape[-1]
    num_rows = math.prod(out.shape[:-1])
    M, K = (max(SMALLEST, 1 << (size - 1).bit_length()) for size in (m, k))
    padded = jnp.asarray(np.pad(matrix, ((0, M - m), (0, K - k))), jnp.bfloat16)
    warps = 8 if M * K >= LARGE else 4
    width = min(COLUMNS, max(SMALLEST, OF_A_WARP * warps // M), columns & -columns)

    pl, plgpu = pallas()

    def kernel(matrix, x, *where_and_out):
        *where, result = where_and_out
        program = [pl.program_id(1 + axis) for axis in range(len(programs))]
        at = pl.program_id(0) * width + jnp.arange(width)[None]

        def places(rows: Rows, size: int, count: int, none: int):
            """Return places (size, width) in an array, and whether they are any."""
            number = jnp.arange(size)
            row = jnp.where(number < count, rows(number, *program), -1)
            valid = row >= 0
            mask = jnp.broadcast_to(valid[:, None], (size, width))
            return (jnp.where(valid, row, none)[:, None], at), mask

        source, mask = places(read, K, k, 0)
        tile = plgpu.load(x.at[source], mask=mask, other=0.0)
        if rectify:
            # Not by a maximum, which takes 0 for NaN there.
            tile = jnp.where(tile < 0, jnp.zeros((), tile.dtype), tile)
        tile = tile.astype(jnp.bfloat16)
        target, mask = places(write, M, m, num_rows)
        above = [plgpu.load(array.at[target], mask=mask, other=0.0) > 0 for array in where]
        y = jnp.dot(matrix[...], tile, preferred_element_type=jnp.float32).astype(result.dtype)
        if above:
            y = jnp.where(above[0], y, jnp.zeros((), y.dtype))
        plgpu.store(result.at[target], y, mask=mask)

    call = call_kernel(
        kernel,
        jax.ShapeDtypeStruct((num_rows, columns), out.dtype),
        (columns // width, *programs),
        warps=warps,
        name=name,
    )
    operands = [x] if where is None else [x, where]
    return call(padded, *(operand.reshape(-1, columns) for operand in operands)).reshape(out.shape)
