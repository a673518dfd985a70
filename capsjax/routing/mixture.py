"""Rounds of a mixture: upper capsules are densities over votes, fitted to their shares of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from capsjax.rounds import check_rounds, repeat_rounds
from capsjax.routing.competition import Competition
from capsjax.routing.parts import of_present


class Mixture(NamedTuple):
    """A fitted mixture.

    Attributes:
      parents: what the last fit returned.
      c: the coupling coefficients that it was fitted to, (..., i, j).
      logits: their logits; 0 where there was one round.
    """

    parents: Any
    c: Float[Array, "*batch i j"]
    logits: Float[Array, "*batch i j"]


def fit_mixture(
    fit: Callable[..., Any],
    explain: Callable[[Any, Array], Array],
    votes: Float[Array, "*batch i j d"],
    others: tuple[Array, ...],
    num_iterations: int | Int[Array, ""],
    *,
    gradient: str,
    max_iterations: int | None,
    competition: Competition,
    mask: Float[Array, "*batch i"] | None,
    parent_mask: Float[Array, "*batch j"] | None,
) -> Mixture:
    """Fit upper capsules to votes, and share the votes among them, in turn.

        c = 1 / size of the set; repeat r times:  fit to c;  c = softmax of log densities

    The shares after the last fit are not computed, as nothing reads them. Every round is computed
    again when it is differentiated: its arrays of the size of the votes are never held.

    Args:
      fit: (round, c, means, votes, *others) -> parents, a tuple with a field `mean` (..., j, d);
        c is (..., j, i) and votes are (..., j, i, d), see `capsjax.kernels.moments`; rounds count
        from 1, and `means` are those of the round before, at first 0.
      explain: (parents, votes) -> log densities of the votes, (..., j, i).
      votes: (..., i, j, d).
      others: what `fit` reads besides; the first are the activations of the children, (..., i).
      num_iterations, gradient, max_iterations, competition, mask, parent_mask: as in
        `dynamic_routing`.

    Raises:
      ValueError: as `check_rounds`.
    """
    num_iterations = check_rounds(num_iterations, gradient, max_iterations)
    who = {"mask": mask, "parent_mask": parent_mask}
    # Behind a barrier, because XLA would transpose the votes anew for each of their readers.
    parents_first = lax.optimization_barrier(jnp.swapaxes(of_present(votes, mask, 2), -3, -2))
    activations, *rest = others
    inputs = (parents_first, of_present(activations, mask), *rest)
    # What the couplings are computed from: under "stop" the gradient ends here.
    constants = inputs if gradient == "full" else lax.stop_gradient(inputs)

    def next_round(state: tuple[Array, ...]) -> tuple[Array, ...]:
        number, c, means, _ = state
        parents = fit(number, jnp.swapaxes(c, -2, -1), means, *constants)
        logits = jnp.swapaxes(explain(parents, constants[0]), -2, -1)
        return number + 1, competition.couplings(logits, **who), parents.mean, logits

    zeros = jnp.zeros_like(votes[..., 0])
    first = (
        jnp.ones((), votes.dtype),
        _first_couplings(competition, zeros, **who),
        jnp.zeros_like(votes[..., 0, :, :]),
        zeros,
    )
    most = None if max_iterations is None else max_iterations - 1
    state = repeat_rounds(jax.checkpoint(next_round), first, num_iterations - 1, most)
    number, c, means, logits = state
    parents = jax.checkpoint(fit)(number, jnp.swapaxes(c, -2, -1), means, *inputs)
    return Mixture(parents, c, logits)


def _first_couplings(competition: Competition, zeros: Array, **who: Array | None) -> Array:
    """Compute the first couplings, once for all examples if no mask tells them apart."""
    if any(mask is not None for mask in who.values()):
        return competition.first_couplings(zeros, **who)
    # A compiler computes constants before it runs the program: in a convolution, for seconds.
    own_axes = 2 if competition.children is None else 3
    one = competition.first_couplings(jnp.zeros(zeros.shape[-own_axes:], zeros.dtype))
    return jnp.broadcast_to(one, zeros.shape)


def in_single_precision(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return an array in float32, or as it is if it is more precise.

    >>> in_single_precision(jnp.ones(2, jnp.bfloat16)).dtype
    dtype('float32')
    """
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
