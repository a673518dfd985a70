"""Parts that several routing algorithms share."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from capsjax.rounds import repeat_rounds
from capsjax.routing.competition import Competition


def add_leading_axes(x: Array, ndim: int) -> Array:
    """Add axes of size 1 in front, so that an array without a batch fits one with it.

    >>> add_leading_axes(jnp.ones((3, 2)), 4).shape
    (1, 1, 3, 2)
    """
    return jnp.expand_dims(x, range(ndim - x.ndim))


def find_present(
    votes: Float[Array, "*batch i j d"],
    competition: Competition,
    mask: Float[Array, "*batch i"] | None,
) -> Bool[Array, "*batch i"]:
    """Find the children that take part: a place of a window may have none, a mask may exclude some.

    Args:
      votes: only their shape is used.
      competition, mask: as in `dynamic_routing`.
    """
    present = jnp.ones(votes.shape[:-2], bool)
    if competition.children is not None:
        present &= add_leading_axes(jnp.asarray(competition.children >= 0), present.ndim)
    return present if mask is None else present & (mask > 0)


def of_present(x: Array, mask: Array | None, own_axes: int = 0) -> Array:
    """Return an array with zeros for the capsules that a mask excludes, whatever they have.

    A coupling of zero does not leave out what is not finite, nor what has no finite square.

    Args:
      x: an array with an axis of capsules, and so many `own_axes` behind it.
      mask: 0 for a capsule that takes no part, (..., capsules); None for none.

    >>> of_present(jnp.array([[1.0], [jnp.nan]]), jnp.array([1.0, 0.0]), 1).tolist()
    [[1.0], [0.0]]
    """
    if mask is None:
        return x
    return jnp.where(jnp.expand_dims(mask, range(-own_axes, 0)) > 0, x, 0.0)


def require_lower_poses(u: Float[Array, "*batch i p"] | None, needed_by: str, instead: str) -> None:
    """Raise ValueError where a layer does not pass the lower poses.

    Args:
      u: the lower poses, or None.
      needed_by: the algorithm or the setting that needs them.
      instead: what can be used in such a layer.
    """
    if u is None:
        raise ValueError(
            f"{needed_by} needs the lower poses u, which layers whose votes are a convolution "
            f"(DeepCaps, SegCaps, windows='summed') do not have: use {instead}, or "
            "windows='gathered' where there is such a field"
        )


def refine_couplings(
    find_logits: Callable[[Array], Array],
    votes: Float[Array, "*batch i j d"],
    num_iterations: int | Int[Array, ""],
    max_iterations: int | None,
    competition: Competition,
    *,
    logits: Float[Array, "*batch i j"] | None = None,
    **who: Any,
) -> tuple[Float[Array, "*batch i j"], Float[Array, "*batch i j"]]:
    """Compute the logits and couplings of the last round, where a round replaces its logits.

    Args:
      find_logits: maps the couplings of a round to the logits of the next.
      votes: only their shape is used.
      num_iterations, max_iterations: as in `dynamic_routing`; the first round is given.
      competition: the set that a child divides itself among.
      logits: those of the first round; None for the first couplings of the competition.
      **who: `mask` and `parent_mask` of the competition's couplings.
    """
    if logits is None:
        shape = votes.shape[:-1]
        if all(each is None for each in who.values()):
            # All examples begin alike, and XLA would compute a constant for each of them.
            shape = shape[-2:] if competition.children is None else shape[-3:]
        start = competition.first_couplings(jnp.zeros(shape, votes.dtype), **who)
        start = jnp.broadcast_to(add_leading_axes(start, votes.ndim - 1), votes.shape[:-1])
        first = (jnp.zeros_like(start), start)
    else:
        first = (logits, competition.couplings(logits, **who))

    def next_round(logits_and_couplings: tuple[Array, Array]) -> tuple[Array, Array]:
        logits = find_logits(logits_and_couplings[1])
        return logits, competition.couplings(logits, **who)

    most = None if max_iterations is None else max_iterations - 1
    return repeat_rounds(next_round, first, num_iterations - 1, most)
