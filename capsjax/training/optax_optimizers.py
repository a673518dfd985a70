"""Optimizers of optax by name, with arguments that are written as text."""

import ast
import functools
import inspect
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import jax
import jax.numpy as jnp
import optax

from capsjax.registry import look_up, suggest

KIND = "optimizer (optimizer.name)"
# Those of capsjax itself, and functions of optax that are no optimizers by themselves or need more
# than gradients and parameters.
NOT_BY_NAME = ("adam", "sgd", "lbfgs", "noisy_sgd", "scale_by_learning_rate", "scale_by_rprop")


def make_optax_optimizer(
    name: str, learning_rate: float | optax.Schedule, arguments: str = ""
) -> optax.GradientTransformation:
    """Make an optimizer of optax.

    Args:
      name: name of a function of optax with a parameter `learning_rate`.
      learning_rate: a number, or a function of the step.
      arguments: its other arguments, "b1=0.95,weight_decay=0.01"; optax's defaults for the others.

    Raises:
      ValueError: for an unknown name or argument (the nearest one is named), a value that does not
        work, or an optimizer that takes no schedule.

    >>> make_optax_optimizer("lion", 1e-4, "weight_decay=0.01")._fields
    ('init', 'update')
    """
    function = look_up(optimizers(), name, KIND)
    given = _read(name, function, arguments)
    try:
        optimizer = function(learning_rate=learning_rate, **given)
        state = jax.eval_shape(optimizer.init, jnp.zeros(2))
        jax.eval_shape(optimizer.update, jnp.zeros(2), state, jnp.zeros(2))
    except (TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise ValueError(
            f"optax.{name} does not work with optimizer.arguments={arguments!r} and a learning "
            f"rate that is a function of the step: {text[:200]}"
        ) from error
    return optimizer


@functools.cache
def optimizers() -> Mapping[str, Callable]:
    """Return the optimizers that a config may name, of the installed optax, by name.

    "adam" and "sgd" are those of capsjax, see `capsjax.training.make_optimizer`.
    """
    functions = {
        name: function
        for name, function in vars(optax).items()
        if name not in NOT_BY_NAME and not name.startswith("_") and _takes_rate(function)
    }
    return {**functions, "adam": optax.adam, "sgd": optax.sgd}


def _takes_rate(function: Any) -> bool:
    if not isinstance(function, FunctionType | functools.partial):
        return False
    return "learning_rate" in inspect.signature(function).parameters


def _read(name: str, function: Callable, arguments: str) -> dict[str, Any]:
    """Read arguments that are written as in a call."""
    try:
        call = ast.parse(f"f({arguments})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError
        given = {each.arg: ast.literal_eval(each.value) for each in call.keywords}
    except (SyntaxError, ValueError):
        raise ValueError(
            "optimizer.arguments are written like 'weight_decay=0.01,nesterov=True', not "
            f"{arguments!r}"
        ) from None
    known = [each for each in inspect.signature(function).parameters if each != "learning_rate"]
    for argument in given:
        if argument not in known:
            raise ValueError(
                f"optax.{name} has no argument {argument!r} (optimizer.arguments); "
                f"{suggest(str(argument), known)}"
            )
    return given
