"""A registered routing algorithm, or a value with its interface, as a function under test."""

import inspect
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array

from capsjax.routing import Routing, call_routing

# Sizes that occur nowhere else, so that the axes of a learned array are known by them.
_PROBES = {"i": 1009, "j": 1013, "p": 1019, "d": 1021}
_POSE_SIZE = 3


def function_of(
    routing: Routing, shape: tuple[int, int, int, int], seed: int
) -> tuple[Callable, dict[str, tuple[str, np.ndarray]]]:
    """Make a function of votes and activations of a routing algorithm.

    Args:
      routing: the algorithm.
      shape: (n, i, j, d) of the votes.
      seed: of its learned arrays, at their initial values, and of the lower poses u.

    Returns:
      The function, and its other arguments, each with the letters of its axes.
    """
    n, i, j, d = shape
    sizes = {"i": i, "j": j, "p": _POSE_SIZE, "d": d}
    letters = {size: letter for letter, size in _PROBES.items()}
    key = jax.random.key(seed)
    others = {}
    for index, (name, probe) in enumerate(routing.learned_arrays(**_PROBES).items()):
        axes = " ".join(letters.get(size, "-") for size in probe.shape)
        learned = routing.learned_arrays(**sizes)[name]
        array = learned.init(jax.random.fold_in(key, index), learned.shape)
        others[name] = (axes, np.asarray(array))
    learned_names = tuple(others)
    if "u" in inspect.signature(routing.__call__).parameters:
        poses = np.random.default_rng(seed).normal(size=(n, i, _POSE_SIZE))
        others["u"] = ("n i p", poses.astype(np.float32))

    @jax.jit
    def call(votes: Array, activations: Array, mask: Array | None, arguments: dict) -> tuple:
        learned = {name: arguments[name] for name in learned_names}
        context = {"u": arguments.get("u"), "key": key, "mask": mask}
        return call_routing(routing, votes, activations, learned, **context)[:3]

    def function(votes, activations, *, mask=None, **arguments):
        return call(votes, activations, mask, arguments)

    return function, others
