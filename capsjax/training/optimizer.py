"""Optimizers, from optax, and learning-rate schedules."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from capsjax.registry import look_up
from capsjax.training.optax_optimizers import make_optax_optimizer


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
    plateau_decay: float = 0.0,
) -> optax.Schedule:
    """Make the learning rate as a function of the step.

    Args:
      name: "constant", "exponential", "cosine", "linear", "staged" or "plateau".
      steps_per_epoch: number of steps in an epoch.
      epochs: number of epochs in the run.
      learning_rate: the initial rate; like the floor it may be a traced value.
      decay_rate, decay_every, decay_unit, staircase: for "exponential": the rate is multiplied
        by decay_rate every decay_every steps or epochs, smoothly or in a staircase.
      floor: the lower bound of "exponential", and the final rate of "cosine" and "linear".
      anneal_epochs: for "cosine" and "linear": the number of epochs in which the rate goes from
        learning_rate to the floor, where it stays; 0 for the whole run.
      stage_factors, stage_ends: for "staged": the factor on learning_rate in each stage, and the
        epochs at which all stages but the last end.
      plateau_decay: for "plateau": the rate is divided by 1 + this times the step. What validation
        decides is a factor on it that the optimizer has, see `Plateau`.

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
        "exponential": lambda: _exponential(
            learning_rate, floor, decay_rate, decay_every * unit, staircase
        ),
        "cosine": lambda: _cosine(learning_rate, floor, annealing_steps),
        "linear": lambda: optax.linear_schedule(learning_rate, floor, annealing_steps),
        "staged": lambda: optax.join_schedules(
            [optax.constant_schedule(learning_rate * factor) for factor in stage_factors],
            [end * steps_per_epoch for end in stage_ends],
        ),
        "plateau": lambda: lambda step: learning_rate / (1.0 + plateau_decay * step),
    }
    return look_up(schedules, name, "schedule")()


def _exponential(
    start: float | Float[Array, ""],
    floor: float | Float[Array, ""],
    rate: float,
    num_steps: int,
    staircase: bool,
) -> optax.Schedule:
    """Make a schedule that is multiplied by `rate` every `num_steps`, and not below the floor."""
    if staircase:
        # In whole numbers: the staircase of optax rounds step / num_steps down, which a compiled
        # program makes step * (1 / num_steps), and that falls a step late.
        return lambda step: jnp.maximum(start * jnp.power(rate, step // num_steps), floor)
    # The end_value of optax is an upper bound where the rate is 1 or more.
    decay = optax.exponential_decay(start, num_steps, rate)
    return lambda step: jnp.maximum(decay(step), floor)


def _cosine(
    start: float | Float[Array, ""], end: float | Float[Array, ""], num_steps: int
) -> optax.Schedule:
    """Make a schedule of half a cosine period from start to end, which then stays at the end."""
    # From 1 to 0, because optax takes the end as a multiple of the start, which may be 0.
    share = optax.cosine_decay_schedule(1.0, num_steps)
    return lambda step: end + (start - end) * share(step)


# Settings of Adam and of SGD alone, and their defaults.
OF_OWN = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "momentum": 0.9, "weight_decay": 0.0}


def make_optimizer(
    schedule: optax.Schedule,
    steps_per_epoch: int,
    *,
    b1: float,
    b2: float,
    eps: float,
    name: str = "adam",
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    fresh_epochs: Sequence[int] = (),
    arguments: str = "",
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """Make an optimizer with a learning-rate schedule.

        "sgd": m ← momentum · m + g + weight_decay · θ;  θ ← θ - rate · m

    Args:
      schedule: the learning rate as a function of the step.
      steps_per_epoch: number of steps in an epoch.
      b1, b2, eps: Adam's constants.
      name: "adam"; "sgd", gradient descent with momentum; or an optimizer of optax, of which all
        other settings are in `arguments`.
      momentum: of "sgd", from 0 to below 1.
      weight_decay: this multiple of all parameters is added to their gradients.
      fresh_epochs: epochs that start with a new state, without earlier gradients. The schedule goes
        on.
      arguments: arguments of an optimizer of optax, such as "weight_decay=0.01,nesterov=True".
      clip_norm: largest norm of all gradients together, to which larger ones are scaled down; 0 for
        no limit.

    Raises:
      ValueError: for an unknown name, settings that this optimizer does not have, or fresh_epochs
        that do not rise or start below 1.
    """
    # Without a limit, as without weight decay, the state is that of runs from before there was any.
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    if name not in ("adam", "sgd"):
        given = {"b1": b1, "b2": b2, "eps": eps, "momentum": momentum, "weight_decay": weight_decay}
        optimizer = make_optax_optimizer(name, schedule, arguments)
        _check_unused(name, given, fresh_epochs)
        return optax.chain(*clip, optimizer)
    if arguments:
        raise ValueError(
            f"optimizer.arguments are for other optimizers than {name!r}, whose settings are "
            f"fields: optimizer.{', optimizer.'.join(OF_OWN)}"
        )
    directions = {
        "adam": lambda: optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        "sgd": lambda: optax.trace(momentum),
    }
    direction = directions[name]()
    if fresh_epochs:
        direction = _renewed(direction, _first_steps(fresh_epochs, steps_per_epoch))
    decay = [optax.add_decayed_weights(weight_decay)] if weight_decay else []
    return optax.chain(*clip, *decay, direction, optax.scale_by_learning_rate(schedule))


def _check_unused(name: str, given: Mapping[str, float], fresh_epochs: Sequence[int]) -> None:
    """Check that settings of Adam and SGD are not set in vain."""
    changed = [setting for setting, value in given.items() if value != OF_OWN[setting]]
    if changed:
        raise ValueError(
            f"optimizer.{changed[0]} is a setting of adam and sgd, not of {name!r}: leave it at "
            f"{OF_OWN[changed[0]]:g}, and write optimizer.arguments={changed[0]}="
            f"{given[changed[0]]:g} if {name!r} has it"
        )
    if fresh_epochs:
        raise ValueError(f"optimizer.fresh_epochs are for adam and sgd, not for {name!r}: set ()")


def _first_steps(fresh_epochs: Sequence[int], steps_per_epoch: int) -> Int[Array, "k"]:
    """Return the steps that epochs begin with."""
    if sorted({max(epoch, 1) for epoch in fresh_epochs}) != list(fresh_epochs):
        raise ValueError(
            f"optimizer.fresh_epochs are rising numbers from 1 on, not {tuple(fresh_epochs)}"
        )
    return jnp.array(fresh_epochs) * steps_per_epoch


class RenewedState(NamedTuple):
    """The state of an optimizer that is renewed at given steps.

    Attributes:
      step: number of steps done.
      inner: state of the transformation that is renewed.
    """

    step: Int[Array, ""]
    inner: optax.OptState


def _renewed(
    inner: optax.GradientTransformation, first_steps: Int[Array, "k"]
) -> optax.GradientTransformation:
    """Wrap a transformation so that its state is renewed at each of the given steps."""

    def init(params):
        return RenewedState(jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates, state, params=None):
        renew: Bool[Array, ""] = (state.step == first_steps).any()
        new = inner.init(updates)
        begun = jax.tree.map(lambda x, y: jnp.where(renew, x, y), new, state.inner)
        updates, begun = inner.update(updates, begun, params)
        return updates, RenewedState(state.step + 1, begun)

    return optax.GradientTransformation(init, update)
