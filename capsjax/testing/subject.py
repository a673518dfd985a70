"""The function under test: its inputs, its outputs, and its gradients."""

import contextlib
import dataclasses
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from capsjax.testing.claims import Claims

AXES = {"votes": "n i j d", "activations": "n i", "mask": "n i"}

# Outcomes that differ by less, relative to the largest entry, are the same: float32 in two orders.
SAME = 1e-3


class Raised(Exception):
    """The function under test raised an exception."""


class Outcome(NamedTuple):
    """What the function returned, as float64; None for what it does not return.

    Attributes:
      v: upper poses (n, j, d).
      a: upper activations (n, j).
      c: coupling coefficients (n, i, j).
    """

    v: Any
    a: Any = None
    c: Any = None

    @property
    def lengths(self) -> Float[np.ndarray, "n j"]:
        """Lengths of the poses."""
        return np.sqrt(np.sum(np.square(self.v), axis=-1))

    def take(self, **indices: np.ndarray) -> "Outcome":
        """Take capsules or examples by their numbers, along the named axes."""
        parts = (("v", "n j d"), ("a", "n j"), ("c", "n i j"))
        return Outcome(*(_take(getattr(self, name), axes, indices) for name, axes in parts))


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Arrays for one call, with the names of their axes.

    Attributes:
      arrays: by name: votes, activations, perhaps a mask, and the function's other arguments.
      axes: by name, such as "n i j d"; a letter that is none of n, i, j is left alone.
    """

    arrays: Mapping[str, np.ndarray]
    axes: Mapping[str, str]

    @property
    def votes(self) -> Float[np.ndarray, "n i j d"]:
        return self.arrays["votes"]

    @property
    def activations(self) -> Float[np.ndarray, "n i"]:
        return self.arrays["activations"]

    def replace(self, **arrays: np.ndarray) -> "Inputs":
        """Return the inputs with other arrays under the given names."""
        return Inputs({**self.arrays, **arrays}, {**AXES, **self.axes})

    def take(self, **indices: np.ndarray) -> "Inputs":
        """Take capsules or examples by their numbers, along the named axes."""
        taken = {name: _take(x, self.axes[name], indices) for name, x in self.arrays.items()}
        return Inputs(taken, self.axes)


@dataclasses.dataclass(frozen=True)
class Subject:
    """A routing function under test.

    Attributes:
      function: takes votes, activations where it has them, and other arguments by keyword.
      claims: what it claims to do.
      shape: (n, i, j, d) of the votes.
      others: its other arguments by name, each a pair of the axes' letters and the array.
      takes_mask: whether it has an argument `mask`.
      convert: turns a numpy array into the function's own kind of array.
      gradient: computes the gradient of some number of the outputs; None for automatic.
      seed: of the random votes.
    """

    function: Callable
    claims: Claims
    shape: tuple[int, int, int, int]
    others: Mapping[str, tuple[str, np.ndarray]]
    takes_mask: bool
    convert: Callable
    gradient: Callable | None
    seed: int

    def __call__(self, inputs: Inputs) -> Outcome:
        """Call the function, with copies of the arrays.

        Raises:
          Raised: if it raises an exception.
        """
        copies = {name: self.convert(x.copy()) for name, x in inputs.arrays.items()}
        with raised_by_function():
            return Outcome(*map(_to_numpy, self.outputs(copies)))

    def outputs(self, arrays: Mapping[str, Any]) -> tuple[Any, Any, Any]:
        """Call the function and return its v, a and c as they come, None for what is missing."""
        given = dict(arrays)
        positional = [given.pop("votes"), given.pop("activations")]
        if self.claims.activations == "none":
            positional.pop()
        return _parse(self.function(*positional, **given))

    def inputs(self, votes: np.ndarray | None = None) -> Inputs:
        """Return inputs with the given votes, or random ones, and activations of 1."""
        if votes is None:
            votes = self.random(0, *self.shape)
        arrays = {"votes": votes.astype(np.float32), "activations": np.ones(votes.shape[:2])}
        arrays["activations"] = arrays["activations"].astype(np.float32)
        arrays |= {name: array for name, (_, array) in self.others.items()}
        return Inputs(arrays, {**AXES, **{name: axes for name, (axes, _) in self.others.items()}})

    def random_inputs(self) -> Inputs:
        """Return random votes, standard normal, and random activations between .2 and .9."""
        inputs = self.inputs()
        activations = np.random.default_rng(self.seed + 1).uniform(0.2, 0.9, self.shape[:2])
        return inputs.replace(activations=activations.astype(np.float32))

    def random(self, stream: int, *shape: int) -> np.ndarray:
        """Draw standard normal numbers, others for every stream."""
        return np.random.default_rng((self.seed, stream)).normal(size=shape).astype(np.float32)


@contextlib.contextmanager
def raised_by_function() -> Iterator[None]:
    """Turn every exception of the function under test into `Raised`, with its first line."""
    try:
        yield
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        reason = textwrap.shorten(f"{type(error).__name__}: {first}", 200)
        raise Raised(reason) from error


def difference(one: Any, other: Any) -> float:
    """Return the largest difference of two outcomes, relative to the largest entry; inf for NaN.

    >>> difference(Outcome(np.ones((1, 2, 3))), Outcome(np.ones((1, 2, 3)) / 2))
    1.0
    """
    largest = 0.0
    for x, y in zip(one, other, strict=True):
        if x is None or y is None or not np.size(y):
            continue
        relative = np.max(np.abs(x - y)) / max(np.max(np.abs(y)), 1e-6)
        largest = max(largest, float(relative) if np.isfinite(relative) else np.inf)
    return largest


def _take(x: np.ndarray | None, axes: str, indices: Mapping[str, np.ndarray]) -> Any:
    for axis, numbers in indices.items():
        if x is not None and axis in axes.split():
            x = np.take(x, numbers, axis=axes.split().index(axis))
    return x


def _parse(result: Any) -> tuple[Any, Any, Any]:
    """Find v, a and c in what a function returned, by their names or by their numbers of axes."""
    if isinstance(result, Mapping):
        return result["v"], result.get("a"), result.get("c")
    if hasattr(result, "v"):
        return result.v, getattr(result, "a", None), getattr(result, "c", None)
    if not isinstance(result, tuple | list):
        return result, None, None
    v, *rest = result
    a = [x for x in rest if x is not None and len(x.shape) <= 2]
    c = [x for x in rest if x is not None and len(x.shape) > 2]
    return v, a[0] if a else None, c[0] if c else None


def _to_numpy(x: Any) -> np.ndarray | None:
    if hasattr(x, "detach"):  # a tensor of PyTorch, perhaps on a GPU
        x = x.detach().cpu()
    return None if x is None else np.asarray(x, np.float64)
