"""Rearranging large arrays at the speed of the memory."""

from collections.abc import Callable

import jax
from jax import lax
from jaxtyping import Array


def rearrange(f: Callable[[Array], Array], x: Array) -> Array:
    """f(x) for an f that only reorders numbers, written in the shape that f gives it.

    XLA joins such an f with the reshape that follows and writes a matrix whose long axis is many
    axes of x: it finds the place of each number by divisions, three times slower than the memory
    is. Into the branches of a condition it does not look; here both are f. On other devices a
    condition would wait for the host, and nothing is gained.
    """
    if not x.size or jax.default_backend() != "cpu":
        return f(x)
    return lax.cond(x[(0,) * x.ndim] > 0, f, f, x)
