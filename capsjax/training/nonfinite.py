"""Search for the first value of a step that is not finite: its layer, and the round of routing.

The step is repeated, one operation at a time, so that each value can be looked at in its order.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict

from capsjax.data.augment import Augmentation
from capsjax.notation import Routed
from capsjax.routing import Routing, call_routing
from capsjax.training.build import Built
from capsjax.training.steps import Batches


def find_non_finite(
    config: ConfigDict,
    built: Built,
    variables: dict,
    step: int,
    images: np.ndarray,
    labels: np.ndarray,
) -> str:
    """Name the first value that is not finite in a training step.

    Args:
      config: see `capsjax.config`.
      built: what it describes.
      variables: parameters before the step, and statistics, which training does not read.
      step: number of steps before it.
      images, labels: the training examples.

    Returns:
      A noun phrase, such as "the output of primary_layer".
    """
    augmentation = Augmentation(**config.augment)
    batches = Batches(config.seed, config.train.batch_size, augmentation)
    epoch = step // (len(labels) // config.train.batch_size)
    order = batches.order(epoch, len(labels))
    batch = batches.take(order, step, jnp.asarray(images), jnp.asarray(labels))
    search = built.compute.in_precision(lambda *arguments: _search(built, *arguments))
    return search(jax.tree.map(jnp.asarray, variables), batch, step)


def _search(built: Built, variables: dict, batch: tuple[Array, Array, Array], step: int) -> str:
    record = _Record()
    model, (images, labels, _) = built.model, batch
    watched = {
        name: _WatchedRouting(getattr(model, name), record)
        for name in ("routing", "class_routing")
        if hasattr(model, name)
    }
    model = model.clone(**watched)
    mutable = [name for name in variables if name != "params"]
    with nn.intercept_methods(record.intercept):
        output, _ = model.apply(variables, *batch, mutable=mutable)
    for name, part in built.objective.parts(output, images, labels, step).items():
        record.check(f"the loss {name}", part)
    return record.found or _search_gradient(built, variables, batch, step, mutable, record.layers)


def _search_gradient(
    built: Built, variables: dict, batch: tuple, step: int, mutable: list[str], layers: list[str]
) -> str:
    """Name the first gradient that is not finite, from the last layer to the first."""
    images, labels, _ = batch

    def loss(params: dict) -> Array:
        output, _ = built.model.apply({**variables, "params": params}, *batch, mutable=mutable)
        return built.objective.total(built.objective.parts(output, images, labels, step))

    gradient = jax.grad(loss)(variables["params"])
    for layer in reversed([layer for layer in layers if layer in gradient]):
        if not _is_finite(gradient[layer]):
            return f"the gradient of {layer}"
    largest = max(gradient, key=lambda layer: _largest(gradient[layer]))
    return f"the norm of the gradient, which is largest in {largest}"


class _Record:
    """The first value that is not finite, as values are checked in the order of their making.

    Attributes:
      found: a name of it; empty as long as there is none.
      layers: names of the layers, in the order of their calls.
      layer: path of the module that is being called.
    """

    def __init__(self):
        self.found, self.layer = "", ""
        self.layers: list[str] = []

    def check(self, what: str, value: Any) -> None:
        """Check arrays, unless an earlier one was not finite."""
        if not self.found and not _is_finite(value):
            self.found = what

    def intercept(
        self,
        call: Callable,
        arguments: tuple,
        settings: dict,
        context: nn.module.InterceptorContext,
    ) -> Any:
        """Check the parameters and the output of a module; for `nn.intercept_methods`."""
        path = "/".join(context.module.path)
        if context.method_name != "__call__" or not path:
            return call(*arguments, **settings)
        self.layers.append(path)
        for name, value in context.module.variables.get("params", {}).items():
            if not isinstance(value, dict):
                self.check(f"the parameter {name} of {path}", value)
        outer, self.layer = self.layer, path
        output = call(*arguments, **settings)
        self.layer = outer
        self.check(f"the output of {path}", output)
        return output


class _WatchedRouting:
    """A routing algorithm whose rounds are recorded, by computing one more of them each time."""

    def __init__(self, routing: Routing, record: _Record):
        self._routing, self._record = routing, record

    def __getattr__(self, name: str) -> Any:
        if name != "route_poses":
            return getattr(self._routing, name)
        self._routing.route_poses  # noqa: B018 (only some algorithms have it)
        return lambda *arguments: self._watch(lambda routing: routing.route_poses(*arguments))

    def with_settings(self, **settings: Any) -> "_WatchedRouting":
        return _WatchedRouting(dataclasses.replace(self._routing, **settings), self._record)

    def learned_arrays(self, i: int, j: int, p: int, d: int) -> dict:
        return self._routing.learned_arrays(i, j, p, d)

    def __call__(self, votes: Array, activations: Array, learned: Any, **context: Any) -> Routed:
        self._record.check(f"the votes of {self._record.layer}", votes)
        return self._watch(
            lambda routing: call_routing(routing, votes, activations, learned, **context)
        )

    def _watch(self, route: Callable[[Routing], Routed]) -> Routed:
        layer = self._record.layer
        rounds = getattr(self._routing, "num_iterations", None)
        if rounds is None:
            routed = route(self._routing)
            self._record.check(f"the routing of {layer}", (routed.v, routed.a, routed.c))
            return routed
        for number in range(1, rounds + 1):
            routed = route(dataclasses.replace(self._routing, num_iterations=number))
            found = (routed.v, routed.a, routed.c)
            self._record.check(f"round {number} of the routing of {layer}", found)
        return routed


def _is_finite(tree: Any) -> bool:
    return all(
        bool(jnp.isfinite(leaf).all())
        for leaf in jax.tree.leaves(tree)
        if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating)
    )


def _largest(tree: Any) -> float:
    return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))
