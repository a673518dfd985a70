"""Adam and its learning rate over time, from optax."""

from collections.abc import Sequence

import optax
from jaxtyping import Array, Float

from capsjax.registry import look_up


def make_schedule(
    name: str,
    steps_per_epoch: int,
    *,
    learning_rate: float | Float[Array, ""],
    decay_rate: float,
    decay_every: int,
    decay_unit: str,
    staircase: bool,
    floor: float | Float[Array, ""],
    stage_factors: Sequence[float],
    stage_ends: Sequence[int],
) -> optax.Schedule:
    """The learning rate as a function of the step.

    Args:
      name: "constant", "exponential" or "staged".
      steps_per_epoch: number of steps of an epoch.
      learning_rate: at the start; like the floor it may be a traced value.
      decay_rate, decay_every, decay_unit, staircase, floor: of "exponential": the rate is
        multiplied by decay_rate each decay_every steps or epochs, smoothly or in a staircase,
        and never falls below the floor.
      stage_factors, stage_ends: of "staged": the factor on learning_rate in each stage, and the
        epochs at which all but the last stage end.

    Raises:
      ValueError: for an unknown name or unit, or stages whose numbers do not fit.
    """
    unit = look_up({"step": 1, "epoch": steps_per_epoch}, decay_unit, "decay_unit")
    if len(stage_ends) != len(stage_factors) - 1 or sorted(set(stage_ends)) != list(stage_ends):
        raise ValueError(
            f"{len(stage_factors)} stages need {len(stage_factors) - 1} rising stage_ends, "
            f"not {tuple(stage_ends)}"
        )
    schedules = {
        "constant": lambda: optax.constant_schedule(learning_rate),
        "exponential": lambda: optax.exponential_decay(
            learning_rate,
            transition_steps=decay_every * unit,
            decay_rate=decay_rate,
            staircase=staircase,
            end_value=floor,
        ),
        "staged": lambda: optax.join_schedules(
            [optax.constant_schedule(learning_rate * factor) for factor in stage_factors],
            [end * steps_per_epoch for end in stage_ends],
        ),
    }
    return look_up(schedules, name, "schedule")()


def make_optimizer(
    schedule: optax.Schedule, *, b1: float, b2: float, eps: float
) -> optax.GradientTransformation:
    """Adam with that learning rate."""
    return optax.adam(schedule, b1=b1, b2=b2, eps=eps)
