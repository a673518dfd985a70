"""Stacks of capsule layers: the order in which layers make the updates of their routing."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from capsjax.notation import Capsules
from capsjax.registry import look_up
from capsjax.routing import Routing, takes, with_settings

CapsuleLayer = Callable[..., tuple[Capsules, Any]]

STACKS = ("sequential", "concurrent")


class Updates(NamedTuple):
    """The updates of a stack of layers.

    Attributes:
      routing: the algorithm for one call of a layer.
      count: number of calls of each layer.
      most: the largest value of `count`, which may be traced.
    """

    routing: Routing
    count: int | Int[Array, ""] = 1
    most: int = 1


def plan_updates(stack: str, routing: Routing) -> Updates:
    """Divide the updates of a routing algorithm into calls of the layers.

    In a "sequential" stack a layer makes all its updates in one call, before the next layer begins.
    In a "concurrent" stack a call is one update. An algorithm without `memory`, num_iterations and
    max_iterations makes all its updates in one call, and so in sequence.

    Args:
      stack: "sequential" or "concurrent".
      routing: the algorithm of all layers, with its number of updates.

    Raises:
      ValueError: for an unknown stack (the nearest one is named), or a traced number of updates
        without `max_iterations`.

    >>> from capsjax.routing import make_routing
    >>> plan_updates("concurrent", make_routing("inverted_attention", num_iterations=3)).count
    3
    """
    look_up(dict.fromkeys(STACKS), stack, "order of updates (model.stack)")
    settings = {field.name for field in dataclasses.fields(routing)}
    single = takes(routing, "memory") and settings >= {"num_iterations", "max_iterations"}
    if stack == "sequential" or not single:
        return Updates(routing)
    count, most = routing.num_iterations, routing.max_iterations
    traced = isinstance(count, jax.core.Tracer)
    if traced and most is None:
        raise ValueError(
            "a traced num_iterations in a concurrent stack needs max_iterations; without it "
            "model.stack is 'sequential'"
        )
    one = with_settings(routing, num_iterations=1, max_iterations=None)
    return Updates(one, count, most if traced else count)


def route_stack(layers: Sequence[CapsuleLayer], capsules: Capsules, updates: Updates) -> Capsules:
    """Route capsules through layers that have the routing of `updates`.

    The first calls go from the bottom up. In each of the others all layers are called at once, with
    what the call before left below and above them: the lowest layer does what it would do in a
    sequential stack, and those above it see poses that are one update old.

    Returns:
      The capsules of the last layer.

    Source: Tsai et al. 2020, section 3, procedure 2.
    """
    above: list[Capsules] = []
    memories = []
    for layer in layers:
        routed, memory = layer(above[-1] if above else capsules)
        above.append(routed)
        memories.append(memory)
    for index in range(1, updates.most):
        below = [capsules, *above[:-1]]
        calls = [layer(*state) for layer, *state in zip(layers, below, memories, strict=True)]
        new = ([routed for routed, _ in calls], [memory for _, memory in calls])
        if not isinstance(updates.count, int):  # it is traced
            keep = functools.partial(jnp.where, index < updates.count)
            new = jax.tree.map(keep, new, (above, memories))
        above, memories = new
    return above[-1]
