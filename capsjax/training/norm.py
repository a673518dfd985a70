"""The norm of all gradients, in few operations on an accelerator."""

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, PyTree

# Numbers of an array above which its squares are first summed by rows.
MOST_AT_ONCE = 2**16


def tree_norm(tree: PyTree[Float[Array, "..."]]) -> Float[Array, ""]:
    """Return the norm of all numbers of a tree, as `optax.tree.norm` does, up to rounding.

    XLA adds each array by one or two operations of its own, and on a GPU most gradients are so
    small that starting the operations is what takes time. Here only large arrays have one, and a
    last one adds all that remains.

    >>> float(tree_norm([jnp.full(9, 2.0), jnp.array(8.0)]))
    10.0
    """
    if jax.default_backend() == "cpu":
        return optax.tree.norm(tree)
    # One number more, because a tree may have none.
    parts = [jnp.zeros(1)]
    for x in jax.tree.leaves(tree):
        if x.size > MOST_AT_ONCE:
            # The power of two next to the root that divides the size: rows for many programs.
            rows = min(x.size & -x.size, 1 << (x.size.bit_length() // 2))
            parts.append(jnp.sum(jnp.square(x.reshape(rows, -1)), axis=1))
        else:
            parts.append(jnp.square(x.ravel()))
    # Behind a barrier, because XLA would add the parts one by one again.
    return jnp.sqrt(jnp.sum(lax.optimization_barrier(jnp.concatenate(parts))))
