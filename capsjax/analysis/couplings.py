"""What routing does with couplings."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float


def relative_entropy(c: Float[Array, "n *grid i j"]) -> Float[Array, "n"]:
    """Compute how evenly children divide themselves, from 0 for one parent to 1 for all equally.

        H_i = -Σ_j q_ij ln q_ij / ln J,  q_ij = c_ij / Σ_j c_ij

    The mean over the children of each example, weighted by Σ_j c_ij. In a convolution it is the
    division among the types at one position, where a child whose set has several positions has
    couplings that sum to less than 1.

    Args:
      c: couplings, (n, i, j) or (n, o, i, j), of at least two types.

    >>> relative_entropy(jnp.array([[[0.5, 0.5], [1.0, 0.0]]])).tolist()
    [0.5]
    """
    share = jnp.sum(c, axis=-1)
    q = c / jnp.where(share > 0, share, 1.0)[..., None]
    terms = jnp.where(q > 0, q * jnp.log(jnp.where(q > 0, q, 1.0)), 0.0)
    entropy = -jnp.sum(terms, axis=-1) / math.log(c.shape[-1])
    children = tuple(range(1, share.ndim))
    return jnp.sum(share * entropy, children) / jnp.sum(share, children)
