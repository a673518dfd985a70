"""Groups of images: a few are routed at a time, so that their votes stay in the cache."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax import lax
from jaxtyping import Array, Float

from capsjax.kernels.chunks import join, split
from capsjax.notation import Capsules, Routed

# Bytes of the votes of a group: a CPU passes over them dozens of times, and an accelerator needs
# enough images at once.
GROUP_BYTES = {"cpu": 2 * 2**20, "gpu": 256 * 2**20}


def hides_votes(layer: nn.Module, x: Array) -> bool:
    """Return whether a call of a layer shows none of the values inside.

    Args:
      layer: a layer that sows its votes.
      x: an input of the call. Outside of a compiled program each value is to be looked at, see
        `find_non_finite`.
    """
    return isinstance(x, jax.core.Tracer) and not layer.is_mutable_collection("intermediates")


def route_groups(
    route: Callable[..., tuple[Array, Routed]],
    u: Float[Array, "n *places p"],
    a: Float[Array, "n *places"],
    memory: Any,
    votes_per_image: int,
) -> tuple[Capsules, Any]:
    """Route groups of images, one after the other, and join the results.

    The gradient computes each group anew, so that it holds votes of one group only. Images that are
    one group are not divided.

    Args:
      route: from poses, activations and memory of the lower capsules to their votes and `Routed`,
        where no image depends on another.
      u, a: poses and activations of the lower capsules of all images.
      memory: what the last call returned, a tree of arrays (n, ...), or None.
      votes_per_image: numbers that the votes of an image are.

    Returns:
      The upper capsules of all images, and the memory of their routing.
    """
    n, limit = u.shape[0], GROUP_BYTES.get(jax.default_backend(), GROUP_BYTES["gpu"])
    # A program for any number of images, as `capsjax export` writes, has no groups.
    groups = math.ceil(n / max(1, limit // (4 * votes_per_image))) if isinstance(n, int) else 1

    def route_one(group: tuple[Array, Array, Any]) -> tuple[Capsules, Any]:
        _, routed = route(*group)
        return Capsules(routed.v, routed.a), routed.memory

    if groups <= 1:
        return route_one((u, a, memory))
    size = math.ceil(n / groups)
    # Within a loop nothing is merged with its recomputation.
    route_one = jax.checkpoint(route_one, prevent_cse=False)
    parts = jax.tree.map(lambda x: split(x, size), (u, a, memory))
    return jax.tree.map(lambda x: join(x, n), lax.map(route_one, parts))
