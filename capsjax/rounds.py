"""Rounds of a routing algorithm, whose number may be a traced value."""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int


def repeat_rounds(
    one_round: Callable[[Any], Any],
    start: Any,
    count: int | Int[Array, ""],
    most: int | None = None,
) -> Any:
    """Apply a round `count` times.

    Args:
      one_round: maps the value before a round, an array or a tree of arrays, to that after it.
      start: the value before the first round.
      count: number of rounds; none if below 1. A traced integer has no reverse-mode gradient,
        unless `most` is given.
      most: compute this many rounds, a Python integer, and keep the first `count`. The loop then
        has a known length, and so a gradient, whatever the count is.

    >>> repeat_rounds(lambda x: 2 * x, jnp.ones(()), 3).item()
    8.0
    >>> repeat_rounds(lambda x: 2 * x, jnp.ones(()), jnp.array(3), most=5).item()
    8.0
    """
    if most is None:
        return lax.fori_loop(0, count, lambda _, value: one_round(value), start)

    def kept_round(index: Array, value: Any) -> Any:
        keep = index < count
        return jax.tree.map(lambda new, old: jnp.where(keep, new, old), one_round(value), value)

    return lax.fori_loop(0, most, kept_round, start)


def check_rounds(
    num_iterations: int | Array, gradient: str, max_iterations: int | None
) -> int | Array:
    """Check the number of rounds and return it, as a Python integer unless it is a traced value.

    Raises:
      ValueError: for a number below 1 or above `max_iterations`, an unknown `gradient`, or a
        traced number without a limit where every round is differentiated.
    """
    if gradient not in ("stop", "full"):
        raise ValueError(f"gradient is 'stop' or 'full', not {gradient!r}")
    if isinstance(num_iterations, jax.core.Tracer):
        if gradient == "full" and max_iterations is None:
            raise ValueError(
                "a traced num_iterations needs gradient='stop' or max_iterations: a loop of "
                "unknown length has no reverse-mode gradient"
            )
        return num_iterations
    rounds = operator.index(num_iterations)
    if rounds < 1:
        raise ValueError(f"num_iterations is at least 1, not {rounds}")
    if max_iterations is not None and rounds > max_iterations:
        raise ValueError(f"num_iterations is at most max_iterations={max_iterations}, not {rounds}")
    return rounds


def settle_rounds(algorithm: Any) -> None:
    """Check the rounds of a frozen dataclass of settings when it is made, see `check_rounds`.

    Args:
      algorithm: has num_iterations, gradient and max_iterations; num_iterations becomes a Python
        integer unless it is a traced value, because arrays are not hashable.
    """
    rounds = check_rounds(algorithm.num_iterations, algorithm.gradient, algorithm.max_iterations)
    object.__setattr__(algorithm, "num_iterations", rounds)
