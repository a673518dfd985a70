"""Routing algorithms: one file each, one interface for all, and their names.

A routing algorithm is a hashable value, a frozen dataclass of its settings. Called with votes
(..., i, j, d), the activations of the lower capsules (..., i) and its learned arrays, it returns
`Routed`. Its method `learned_arrays(i, j, p, d)` names the arrays to learn, which the layer
declares. `TRACED` names the settings that may differ within a population.

Whatever else a layer knows is passed by keyword if the algorithm takes it: `competition`, `mask`,
`parent_mask`, `logits`, `u` (the lower poses), `key` (for random numbers) and `memory`.

An algorithm that can do without held votes also has a method `route_poses(u, W, learned, dtype)`,
which returns the same as the call with `predict_votes(u, W, dtype)`, up to rounding, but no logits.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

from capsjax import registry
from capsjax.notation import LearnedArray, Routed
from capsjax.routing.agreement_3d import Agreement3DRouting, agreement_3d_routing
from capsjax.routing.competition import DENSE, Competition
from capsjax.routing.dynamic import DynamicRouting, dynamic_routing
from capsjax.routing.em import EMRouting, em_paper_units, em_routing
from capsjax.routing.heinsen import HeinsenRouting
from capsjax.routing.heinsen_2019 import heinsen_2019_routing
from capsjax.routing.heinsen_2022 import factored_votes, heinsen_2022_routing, input_activations
from capsjax.routing.interests import count_interests, multi_interest_routing
from capsjax.routing.inverted_attention import InvertedAttentionRouting, inverted_attention_routing
from capsjax.routing.random import RandomRouting, random_routing
from capsjax.routing.self import SelfRouting, self_routing
from capsjax.routing.self_attention import SelfAttentionRouting, self_attention_routing
from capsjax.routing.uniform import UniformRouting, uniform_routing
from capsjax.routing.vb import VBRouting, vb_routing

__all__ = [
    "DENSE",
    "ROUTING",
    "Agreement3DRouting",
    "Competition",
    "DynamicRouting",
    "EMRouting",
    "HeinsenRouting",
    "InvertedAttentionRouting",
    "RandomRouting",
    "Routing",
    "SelfAttentionRouting",
    "SelfRouting",
    "UniformRouting",
    "VBRouting",
    "agreement_3d_routing",
    "call_routing",
    "count_interests",
    "dynamic_routing",
    "em_paper_units",
    "em_routing",
    "factored_votes",
    "heinsen_2019_routing",
    "heinsen_2022_routing",
    "input_activations",
    "inverted_attention_routing",
    "make_routing",
    "multi_interest_routing",
    "random_routing",
    "register",
    "self_attention_routing",
    "self_routing",
    "settings_of",
    "takes",
    "uniform_routing",
    "vb_routing",
    "with_settings",
]


@runtime_checkable
class Routing(Protocol):
    """The interface of every routing algorithm."""

    def learned_arrays(self, i: int, j: int, p: int, d: int) -> dict[str, LearnedArray]:
        """Return the arrays to learn, by name.

        Args:
          i, j: numbers of lower and upper capsules.
          p, d: dimensions of their poses.
        """

    def __call__(
        self,
        votes: Float[Array, "*batch i j d"],
        activations: Float[Array, "*batch i"],
        learned: Mapping[str, Array],
    ) -> Routed:
        """Route the votes."""


ROUTING = {
    "agreement_3d": Agreement3DRouting,
    "dynamic": DynamicRouting,
    "em": EMRouting,
    "heinsen": HeinsenRouting,
    "inverted_attention": InvertedAttentionRouting,
    "random": RandomRouting,
    "self": SelfRouting,
    "self_attention": SelfAttentionRouting,
    "uniform": UniformRouting,
    "vb": VBRouting,
}

# An algorithm that ignored one of these would route a different network from the one intended.
_NEEDED = ("competition", "mask", "parent_mask", "logits", "memory")


def register(name: str, algorithm: type) -> type:
    """Register a routing algorithm for configs: `model.routing.name`.

    Args:
      name: an identifier; its settings become fields `model.routing.NAME`.
      algorithm: a frozen dataclass with the interface of `Routing`.

    Raises:
      ValueError: for a name that is taken, or a class that is no dataclass.
    """
    return registry.register_component(ROUTING, name, algorithm, "routing algorithm")


def make_routing(name: str, **settings) -> Routing:
    """Make the routing algorithm of a given name with the given settings.

    Raises:
      ValueError: for an unknown name (the nearest one is named) or a wrong setting.

    >>> make_routing("dynamic", num_iterations=2).num_iterations
    2
    """
    return registry.make(ROUTING, "routing algorithm", name, settings)


def settings_of(name: str) -> dict[str, Any]:
    """Return the settings of the routing algorithm of a given name, and their defaults.

    >>> settings_of("dynamic")["num_iterations"]
    3
    """
    return registry.settings_of(registry.look_up(ROUTING, name, "routing algorithm"))


def call_routing(
    routing: Routing,
    votes: Float[Array, "*batch i j d"],
    activations: Float[Array, "*batch i"],
    learned: Mapping[str, Array],
    **context: Any,
) -> Routed:
    """Call a routing algorithm with as much of the context as it takes.

    Args:
      routing: the algorithm.
      votes, activations, learned: what every algorithm takes.
      **context: what else the layer knows; None for what is absent.

    Raises:
      ValueError: if the algorithm does not take something that a correct result needs, or returns
        poses or activations of another shape than those of the upper capsules.
      TypeError: if it returns something else than `Routed`.
    """
    given = {name: value for name, value in context.items() if value is not None}
    taken = {name: value for name, value in given.items() if takes(routing, name)}
    missing = [name for name in given if name in _NEEDED and name not in taken]
    if missing:
        raise ValueError(
            f"{type(routing).__name__} takes no {missing[0]}, which this layer needs: give its "
            f"__call__ the keyword argument {missing[0]}"
        )
    routed = routing(votes, activations, learned, **taken)
    _check_routed(routed, votes.shape, type(routing).__name__)
    return routed


def _check_routed(routed: Any, votes: tuple[Any, ...], name: str) -> None:
    if not isinstance(routed, Routed):
        raise TypeError(
            f"{name} returns a {type(routed).__name__}, and an algorithm returns Routed(v, a, c): "
            "poses, activations and couplings (from capsjax import Routed)"
        )
    *batch, _, j, d = votes
    for field, shape in (("v", (*batch, j, d)), ("a", (*batch, j))):
        found = jnp.shape(getattr(routed, field))
        if found != shape:
            raise ValueError(
                f"{name} returns {field} of shape {found}, and for votes (..., i, j, d) of shape "
                f"{votes} it is {shape}"
            )


def with_settings(routing: Routing, **settings: Any) -> Routing:
    """Return a routing algorithm with other settings.

    What wraps an algorithm, and is no dataclass, has a method of this name.

    >>> with_settings(make_routing("dynamic"), num_iterations=1).num_iterations
    1
    """
    if hasattr(routing, "with_settings"):
        return routing.with_settings(**settings)
    return dataclasses.replace(routing, **settings)


def takes(routing: Routing, name: str) -> bool:
    """Return whether a routing algorithm takes a keyword argument, such as `memory`.

    >>> takes(make_routing("inverted_attention"), "memory"), takes(make_routing("em"), "memory")
    (True, False)
    """
    known = inspect.signature(routing.__call__).parameters
    return name in known or any(each.kind is each.VAR_KEYWORD for each in known.values())
