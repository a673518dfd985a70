"""Behaviour to interest: dynamic routing of sequences of different lengths to several interests."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from capsjax.notation import PRNGKey, Routed
from capsjax.routing.dynamic import dynamic_routing
from capsjax.routing.parts import add_leading_axes


def count_interests(num_items: Int[Array, "*batch"], most: int) -> Int[Array, "*batch"]:
    """Count the interests that a history of a given number of items has.

        K' = max(1, min(K, floor(log2 n)))

    Args:
      num_items: number n of items of each history.
      most: number K of upper capsules.

    Source: Li et al. 2019.

    >>> count_interests(jnp.array([1, 3, 8, 16]), 4).tolist()
    [1, 1, 3, 4]
    """
    # A logarithm in floating point may be just below a whole number.
    log2 = jnp.iinfo(num_items.dtype).bits - 1 - lax.clz(num_items)
    return jnp.clip(log2, 1, most)


def multi_interest_routing(
    u: Float[Array, "*batch i p"],
    W: Float[Array, "d p"],
    mask: Float[Array, "*batch i"],
    key: PRNGKey,
    num_interests: int,
    num_iterations: int = 3,
) -> Routed:
    """Route the items of masked histories to interests, by `dynamic_routing`.

    Every item has the same vote W u_i for all interests, so that only the start of the logits makes
    interests differ: standard normal numbers, drawn for each history and not learned. The logits
    have no gradient. A history has only as many interests as `count_interests` returns; the others
    get no vote, and their poses are 0.

    Args:
      u: embeddings of the items, (..., i, p).
      W: one matrix for all pairs of an item and an interest, (d, p).
      mask: 0 for an item that only fills up its history, (..., i).
      key: of the draws; the same key gives the same draws.
      num_interests: number of upper capsules.
      num_iterations: rounds of `dynamic_routing`.

    Returns:
      Routed(v, a, c, logits): the interests (..., j, d), and the rest as `dynamic_routing` does.

    Source: Li et al. 2019 ("B2I dynamic routing").

    >>> u, mask = jnp.ones((2, 5, 4)), jnp.array([[1.0] * 5, [1.0] * 2 + [0.0] * 3])
    >>> multi_interest_routing(u, jnp.eye(4), mask, jax.random.key(0), 3).v.shape
    (2, 3, 4)
    """
    votes = jnp.einsum("...ip,dp->...id", u, W)[..., None, :]
    votes = jnp.repeat(votes, num_interests, axis=-2)
    active = count_interests(jnp.sum(mask > 0, axis=-1), num_interests)
    numbers = add_leading_axes(jnp.arange(num_interests), mask.ndim)
    return dynamic_routing(
        votes,
        num_iterations,
        gradient="stop",
        mask=mask,
        parent_mask=(numbers < active[..., None]).astype(votes.dtype),
        logits=jax.random.normal(key, votes.shape[:-1], votes.dtype),
    )
