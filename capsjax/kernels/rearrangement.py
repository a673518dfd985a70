"""Rearrangement of large arrays at the speed of memory."""

from collections.abc import Callable

import jax
from jax import lax
from jaxtyping import Array


def rearrange(f: Callable[[Array], Array], x: Array, after: Array | None = None) -> Array:
    """Compute f(x) for an f that only reorders numbers, and store it in the shape of its result.

    XLA fuses such an f with the reshape that follows and writes a matrix whose long axis is many
    axes of x: it locates each number by divisions, three times slower than memory. It does not
    fuse into the branches of a conditional; here both are f. On other devices a conditional would
    wait for the host, and nothing is gained.

    Args:
      f: the function; its result is a copy of numbers of x, perhaps with others that are constant.
      x: its argument.
      after: f(x) is computed when this array is there, else at any time.
    """
    decides = x if after is None else after
    if not x.size or not decides.size or jax.default_backend() != "cpu":
        return f(x)
    return lax.cond(decides[(0,) * decides.ndim] > 0, f, f, x)
