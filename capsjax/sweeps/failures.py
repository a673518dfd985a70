"""Trials that cannot be trained, and what is said of them."""

from collections.abc import Callable, Sequence

import jax

from capsjax.config.tagged import resolved
from capsjax.runs import processes
from capsjax.runs.own_code import last_place, place_in_own_file
from capsjax.runs.workdir import flatten
from capsjax.sweeps import Trial
from capsjax.training.build import build
from capsjax.training.population import Sizes


def find_failing(
    trials: Sequence[Trial], sizes_of: Callable[[Trial], Sizes]
) -> list[tuple[list[Trial], Exception]]:
    """Find trials whose network cannot be built as their own configs say.

    Trials that share a program are built one by one: the program takes their numbers as data, and
    never meets their initial values, so that it would train a network that its config does not
    allow.

    Args:
      trials: the trials.
      sizes_of: returns the sizes of a trial's data.

    Returns:
      Those that fail, with the error; the seeds of a point together.
    """
    tried: dict[tuple, tuple[list[Trial], Exception | None]] = {}
    for trial in trials:
        fields = flatten(resolved(trial.config)).items()
        alike = tuple((name, repr(each)) for name, each in fields if name not in ("name", "seed"))
        if alike not in tried:
            tried[alike] = [], _error_of(trial, sizes_of(trial))
        tried[alike][0].append(trial)
    return [(alike, error) for alike, error in tried.values() if error is not None]


def describe_failure(error: Exception) -> str:
    """Return the message of an error in a line, with the type and place of a programming error."""
    message = " ".join(str(error).split())[:300]
    if isinstance(error, (ValueError, jax.errors.JaxRuntimeError)):
        return message
    # An error of an algorithm of a user's own may arise in a library that it calls.
    return f"{place_in_own_file(error) or last_place(error)}: {message}"


def _error_of(trial: Trial, sizes: Sizes) -> Exception | None:
    try:
        built = build(trial.config, *sizes)
        jax.eval_shape(lambda: built.init_state(trial.config.seed))
    except Exception as error:  # of any type: the code may be a user's own
        if processes.is_lost_process(error):
            raise
        return error
    return None
