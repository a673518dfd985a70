"""Splitting a batch into parts of equal size, for `lax.map` or `lax.scan`, and joining them."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Num


def split(x: Num[Array | np.ndarray, "n ..."], size: int) -> Num[Array, "parts size ..."]:
    """Split (n, ...) into the fewest (parts, size, ...), with zeros after the last example.

    >>> split(jnp.ones((5, 2)), 3).shape
    (2, 3, 2)
    """
    parts = -(-len(x) // size)
    padding = [(0, parts * size - len(x))] + [(0, 0)] * (x.ndim - 1)
    return jnp.pad(x, padding).reshape(parts, size, *x.shape[1:])


def join(parts: Num[Array, "parts size ..."], n: int) -> Num[Array, "n ..."]:
    """Join (parts, size, ...) to (n, ...), without what `split` added.

    >>> join(split(jnp.ones((5, 2)), 3), 5).shape
    (5, 2)
    """
    return parts.reshape(parts.shape[0] * parts.shape[1], *parts.shape[2:])[:n]
