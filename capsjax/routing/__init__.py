"""Routing algorithms: one file for each, one form for all, and their names.

A routing algorithm is a hashable value. Called with votes (..., i, j, d), the activations of
the lower capsules (..., i) and its learned arrays, it returns `Routed(v, a, c)`. Its method
`learned_arrays(i, j, d)` names the arrays that it wants learned; the layer declares them.

One that can do without held votes also has a method `route_poses(u, W, learned, dtype)`, which
returns what the call with `predict_votes(u, W, dtype)` would, but for rounding.
"""

import inspect
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from jaxtyping import Array, Float

from capsjax.notation import LearnedArray, Routed
from capsjax.registry import look_up, suggest
from capsjax.routing.dynamic import DynamicRouting, dynamic_routing
from capsjax.routing.uniform import UniformRouting, uniform_routing

__all__ = [
    "ROUTING",
    "DynamicRouting",
    "Routing",
    "UniformRouting",
    "dynamic_routing",
    "make_routing",
    "settings_of",
    "uniform_routing",
]


@runtime_checkable
class Routing(Protocol):
    """The form of every routing algorithm."""

    def learned_arrays(self, i: int, j: int, d: int) -> dict[str, LearnedArray]:
        """The arrays to learn, by name, for i lower and j upper capsules with poses of size d."""

    def __call__(
        self,
        votes: Float[Array, "*batch i j d"],
        activations: Float[Array, "*batch i"],
        learned: Mapping[str, Array],
    ) -> Routed:
        """Route the votes."""


ROUTING = {"dynamic": DynamicRouting, "uniform": UniformRouting}


def make_routing(name: str, **settings) -> Routing:
    """The routing algorithm of that name with those settings.

    Raises:
      ValueError: for an unknown name (the nearest one is named) or a wrong setting.

    >>> make_routing("dynamic", num_iterations=2).num_iterations
    2
    """
    known = settings_of(name)
    for setting in settings:
        if setting not in known:
            raise ValueError(
                f"{name!r} routing has no setting {setting!r}; {suggest(setting, known)}"
            )
    return ROUTING[name](**settings)


def settings_of(name: str) -> list[str]:
    """The settings that the routing algorithm of that name has.

    >>> "num_iterations" in settings_of("dynamic")
    True
    """
    return list(inspect.signature(look_up(ROUTING, name, "routing algorithm")).parameters)
