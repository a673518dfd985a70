"""Parameters of another run for a new one to start from, where names and shapes fit."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from capsjax.runs.files import WorkdirError
from capsjax.runs.predictor import load_predictor
from capsjax.training.build import Built
from capsjax.training.steps import TrainState

# Arrays that a line lists.
MOST_LISTED = 6


class WarmStart(NamedTuple):
    """Parameters and statistics of another run, as far as they fit.

    Attributes:
      arrays: those that fit, by path.
      missing: why each other array of the network is not among them, by path.
      record: facts for the folder of the new run: origin, step, and the digest of the arrays.
    """

    arrays: Mapping[str, np.ndarray]
    missing: Mapping[str, str]
    record: dict[str, Any]

    def put_into(self, state: TrainState, built: Built) -> TrainState:
        """Return a state before the first step with these arrays in it, and a new optimizer."""
        variables = flatten_dict(state.variables, sep="/")
        new = {path: jnp.asarray(array) for path, array in self.arrays.items()}
        variables = unflatten_dict({**variables, **new}, sep="/")
        params = variables.pop("params")
        opt_state = built.optimizer.init(params)
        return state._replace(params=params, opt_state=opt_state, statistics=variables)

    def describe(self) -> str:
        """Describe in lines what is taken, and what is not and why."""
        numbers = sum(array.size for array in self.arrays.values())
        total = len(self.arrays) + len(self.missing)
        step = self.record["step"]
        lines = [
            f"starting from {self.record['run']}, step {step}: {len(self.arrays)} of {total} "
            f"arrays, {numbers:,} numbers ({', '.join(_layers(self.arrays))})"
        ]
        reasons = [f"{path} ({why})" for path, why in self.missing.items()]
        more = len(reasons) - MOST_LISTED
        if reasons:
            end = f" and {more} more" if more > 0 else ""
            lines.append(f"newly drawn: {', '.join(reasons[:MOST_LISTED])}{end}")
        return "\n".join(lines)


def read_warm_start(init_from: str, like: TrainState) -> WarmStart:
    """Read the parameters and statistics of another run that fit a network.

    Args:
      init_from: folder of the run; its tested checkpoint is read.
      like: a state of the new network, whose values do not matter.

    Raises:
      ValueError: if there is no such run, or nothing of it fits; the message names the reason.
    """
    folder = Path(init_from).expanduser()
    try:
        predictor = load_predictor(folder)
    except ValueError as error:
        raise WorkdirError(f"init_from={init_from}: {error}") from error
    there = {
        path: np.asarray(array)
        for path, array in flatten_dict(predictor.variables, sep="/").items()
    }
    arrays, missing = {}, {}
    for path, wanted in flatten_dict(like.variables, sep="/").items():
        found = there.get(path)
        if found is None:
            missing[path] = "not there"
        elif found.shape != wanted.shape:
            missing[path] = f"{_shape(found)} there, {_shape(wanted)} here"
        else:
            arrays[path] = found
    if not arrays:
        path, why = next(iter(missing.items()))
        raise WorkdirError(
            f"init_from={init_from}: nothing of that run fits this network, such as {path} ({why})"
        )
    record = {
        "run": str(folder),
        "step": predictor.step,
        "arrays": sorted(arrays),
        "newly drawn": dict(missing),
        "sha256": _digest(arrays),
    }
    return WarmStart(arrays, missing, record)


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of arrays and their paths."""
    sha = hashlib.sha256()
    for path in sorted(arrays):
        array = np.ascontiguousarray(arrays[path])
        sha.update(f"{path}{array.dtype.str}{array.shape}".encode())
        sha.update(array.data)
    return sha.hexdigest()


def _layers(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Return the names of the layers that arrays belong to, each once."""
    return list(dict.fromkeys(path.split("/")[1] for path in arrays))


def _shape(array: np.ndarray | jax.ShapeDtypeStruct) -> str:
    return "×".join(map(str, array.shape)) or "a number"
