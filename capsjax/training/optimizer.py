"""Adam, from optax, and its learning rate over time."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from capsjax.registry import look_up


def make_schedule(
    name: str,
    steps_per_epoch: int,
    *,
    epochs: int,
    learning_rate: float | Float[Array, ""],
    decay_rate: float,
    decay_every: int,
    decay_unit: str,
    staircase: bool,
    floor: float | Float[Array, ""],
    anneal_epochs: int,
    stage_factors: Sequence[float],
    stage_ends: Sequence[int],
) -> optax.Schedule:
    """The learning rate as a function of the step.

    Args:
      name: "constant", "exponential", "cosine", "linear" or "staged".
      steps_per_epoch: number of steps of an epoch.
      epochs: number of epochs of the run.
      learning_rate: at the start; like the floor it may be a traced value.
      decay_rate, decay_every, decay_unit, staircase: of "exponential": the rate is multiplied
        by decay_rate each decay_every steps or epochs, smoothly or in a staircase.
      floor: the rate of "exponential" never falls below it, those of "cosine" and "linear" end
        at it.
      anneal_epochs: of "cosine" and "linear": the number of epochs in which the rate goes from
        learning_rate to the floor, where it stays; 0 for the whole run.
      stage_factors, stage_ends: of "staged": the factor on learning_rate in each stage, and the
        epochs at which all but the last stage end.

    Raises:
      ValueError: for an unknown name or unit, a negative anneal_epochs, or stages whose numbers
        do not fit.
    """
    unit = look_up({"step": 1, "epoch": steps_per_epoch}, decay_unit, "decay_unit")
    if len(stage_ends) != len(stage_factors) - 1 or sorted(set(stage_ends)) != list(stage_ends):
        raise ValueError(
            f"{len(stage_factors)} stages need {len(stage_factors) - 1} rising stage_ends, "
            f"not {tuple(stage_ends)}"
        )
    if anneal_epochs < 0:
        raise ValueError(
            f"schedule.anneal_epochs is at least 0 (the whole run), not {anneal_epochs}"
        )
    annealing_steps = (anneal_epochs or epochs) * steps_per_epoch
    schedules = {
        "constant": lambda: optax.constant_schedule(learning_rate),
        "exponential": lambda: optax.exponential_decay(
            learning_rate,
            transition_steps=decay_every * unit,
            decay_rate=decay_rate,
            staircase=staircase,
            end_value=floor,
        ),
        "cosine": lambda: _cosine(learning_rate, floor, annealing_steps),
        "linear": lambda: optax.linear_schedule(learning_rate, floor, annealing_steps),
        "staged": lambda: optax.join_schedules(
            [optax.constant_schedule(learning_rate * factor) for factor in stage_factors],
            [end * steps_per_epoch for end in stage_ends],
        ),
    }
    return look_up(schedules, name, "schedule")()


def _cosine(
    start: float | Float[Array, ""], end: float | Float[Array, ""], num_steps: int
) -> optax.Schedule:
    """Half a period of a cosine from start to end, and the end thereafter."""
    # From 1 to 0, because optax takes the end as a multiple of the start, which may be 0.
    share = optax.cosine_decay_schedule(1.0, num_steps)
    return lambda step: end + (start - end) * share(step)


def make_optimizer(
    schedule: optax.Schedule,
    steps_per_epoch: int,
    *,
    b1: float,
    b2: float,
    eps: float,
    fresh_epochs: Sequence[int] = (),
) -> optax.GradientTransformation:
    """Adam with that learning rate.

    Args:
      schedule: the learning rate over steps.
      steps_per_epoch: number of steps of an epoch.
      b1, b2, eps: Adam's own.
      fresh_epochs: epochs that begin with a new Adam, which knows nothing of earlier gradients.
        The learning rate goes on.

    Raises:
      ValueError: for fresh_epochs that do not rise, or begin below 1.
    """
    if not fresh_epochs:
        return optax.adam(schedule, b1=b1, b2=b2, eps=eps)
    if sorted({max(epoch, 1) for epoch in fresh_epochs}) != list(fresh_epochs):
        raise ValueError(
            f"optimizer.fresh_epochs are rising numbers from 1 on, not {tuple(fresh_epochs)}"
        )
    first_steps = jnp.array(fresh_epochs) * steps_per_epoch
    return optax.chain(
        _renewed(optax.scale_by_adam(b1=b1, b2=b2, eps=eps), first_steps),
        optax.scale_by_learning_rate(schedule),
    )


class RenewedState(NamedTuple):
    """Attributes:
    step: number of steps done.
    inner: state of the transformation that is renewed.
    """

    step: Int[Array, ""]
    inner: optax.OptState


def _renewed(
    inner: optax.GradientTransformation, first_steps: Int[Array, "k"]
) -> optax.GradientTransformation:
    """The transformation, whose state is a new one at each of those steps."""

    def init(params):
        return RenewedState(jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates, state, params=None):
        renew: Bool[Array, ""] = (state.step == first_steps).any()
        new = inner.init(updates)
        begun = jax.tree.map(lambda x, y: jnp.where(renew, x, y), new, state.inner)
        updates, begun = inner.update(updates, begun, params)
        return updates, RenewedState(state.step + 1, begun)

    return optax.GradientTransformation(init, update)
