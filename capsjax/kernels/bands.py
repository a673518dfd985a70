"""Bands: a few rows of an image at a time, so that what is large on the way is never held whole."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


class Rows(NamedTuple):
    """The rows of an image that a row, or a group of rows, of a result depends on.

    Attributes:
      window: how many rows.
      step: rows from those of one to those of the next.
    """

    window: int
    step: int

    def count(self, height: int) -> int:
        """Return how many rows, or groups of rows, an image of a given height gives."""
        return (height - self.window) // self.step + 1


def map_bands(
    function: Callable[[Array], Any], x: Float[Array, "n h ..."], rows: Rows, at_once: int
) -> Any:
    """Apply a function to bands of an image, one after the other, and join the results.

    The gradient computes each band anew, so that it holds what is large for one band only. An image
    that is one band is not divided, and what its gradient needs is held.

    Args:
      function: from a band (n, rows, ...) to arrays (n, rows, ...); a row of a result depends on
        the rows that `rows` names, and on no others.
      x: the image with its border.
      rows: see `Rows`.
      at_once: rows, or groups of rows, of the result in a band.

    >>> pairs = map_bands(lambda x: x[:, :-1] + x[:, 1:], jnp.arange(5.0)[None], Rows(2, 1), 3)
    >>> pairs.tolist()
    [[1.0, 3.0, 5.0, 7.0]]
    """
    count = rows.count(x.shape[1])
    if at_once >= count:
        return function(x)
    parts = -(-count // at_once)
    missing = (parts * at_once - count) * rows.step
    padded = jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2))
    height, step = (at_once - 1) * rows.step + rows.window, at_once * rows.step
    bands = jnp.stack([padded[:, k * step : k * step + height] for k in range(parts)])
    # Within a loop nothing is merged with its recomputation.
    results = lax.map(jax.checkpoint(function, prevent_cse=False), bands)

    def join(y: Array) -> Array:
        joined = jnp.moveaxis(y, 0, 1).reshape(y.shape[1], parts * y.shape[2], *y.shape[3:])
        return joined[:, : count * (y.shape[2] // at_once)]

    return jax.tree.map(join, results)
