"""What validation decides: a learning rate that falls where it no longer improves, and the end."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from capsjax.training.watched import Watched


@dataclasses.dataclass(frozen=True)
class Plateau:
    """A factor on the learning rate, made smaller after epochs without an improvement.

    The factor and what it depends on are part of the optimizer's state: a checkpoint holds them,
    and a step takes the factor as data, so that no other one is compiled. All updates have the
    factor, whatever the optimizer.

    Attributes:
      factor: what the rate is multiplied by, between 0 and 1.
      patience: number of epochs in a row without an improvement after which it is.
      min_improvement: what a value must be better by than the best so far to be an improvement.
      least: the smallest factor on the initial rate.

    Source: `optax.contrib.reduce_on_plateau`; Keras's callback ReduceLROnPlateau is the same.
    """

    factor: float
    patience: int
    min_improvement: float
    least: float = 0.0

    def applied_to(self, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
        """Return an optimizer whose updates have the factor."""

        def update(updates, state, params=None):
            return optax.tree.scale(state.scale, updates), state

        scaling = optax.GradientTransformation(self._rule().init, update)
        return optax.chain(optimizer, scaling)

    def memory(self, opt_state: optax.OptState) -> Any:
        """Return the part of an optimizer's state that `next_memory` changes."""
        return opt_state[-1]

    def with_memory(self, opt_state: optax.OptState, memory: Any) -> optax.OptState:
        """Return an optimizer's state with another memory."""
        return (*opt_state[:-1], memory)

    def next_memory(self, memory: Any, cost: float | Float[Array, ""]) -> Any:
        """Return the memory after an epoch; a pure function, to be compiled.

        Args:
          memory: what `memory` returns.
          cost: that of the metric after the epoch; NaN is no improvement.
        """
        return self._rule().update({}, memory, value=jnp.asarray(cost))[1]

    def _rule(self) -> optax.GradientTransformationExtraArgs:
        # An improvement by 0 would be none for optax: the smallest number is as good.
        smallest = float(jnp.finfo(jnp.float32).tiny)
        return optax.contrib.reduce_on_plateau(
            factor=self.factor,
            patience=self.patience,
            rtol=0.0,
            atol=max(self.min_improvement, smallest),
            min_scale=self.least,
        )


def make_plateau(
    name: str,
    learning_rate: float | Float[Array, ""],
    floor: float | Float[Array, ""],
    *,
    factor: float,
    patience: int,
    min_improvement: float,
) -> Plateau | None:
    """Make what the schedule "plateau" needs besides `make_schedule`; None for other schedules.

    Args:
      name, learning_rate, floor: as in `make_schedule`, and no traced values for this schedule; the
        floor is the lower bound of the rate.
      factor, patience, min_improvement: see `Plateau`.
    """
    if name != "plateau":
        return None
    least = min(1.0, floor / learning_rate) if learning_rate else 1.0
    return Plateau(factor, patience, min_improvement, least)


def after_epoch(before: Mapping[str, Any] | None, now: Watched, epoch: int) -> dict[str, Any]:
    """Return what is known of the best epoch so far, as values that JSON can represent.

    Args:
      before: what this returned after the epoch before; None for none.
      now: the metric after this epoch.
      epoch: number of epochs done.

    Returns:
      The metric's name, its best value, the epoch that had it, and the epochs since. A value that
      is not finite is never the best: None and epoch 0 as long as there is no other.

    >>> first = after_epoch(None, Watched("dice", 0.5), 1)
    >>> after_epoch(first, Watched("dice", 0.5), 2)
    {'metric': 'dice', 'best': 0.5, 'best_epoch': 1, 'epochs_since': 1}
    """
    best, best_epoch = (before["best"], before["best_epoch"]) if before else (None, 0)
    if now.is_better_than(best):
        best, best_epoch = now.value, epoch
    since = epoch - best_epoch
    return {"metric": now.name, "best": best, "best_epoch": best_epoch, "epochs_since": since}


def describe_standstill(known: Mapping[str, Any]) -> str:
    """Describe in words what `after_epoch` returned.

    >>> describe_standstill({"metric": "dice", "best": 0.5, "best_epoch": 1, "epochs_since": 1})
    '(validation dice at its best, 0.5, after epoch 1)'
    """
    if known["best"] is None:
        return f"(validation {known['metric']} has never been finite)"
    return (
        f"(validation {known['metric']} at its best, {known['best']:.4g}, after epoch "
        f"{known['best_epoch']})"
    )
