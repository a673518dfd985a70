"""The control for every routing algorithm: no agreement at all."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float, Int

from capsjax.notation import Routed
from capsjax.ops import EpsPlacement
from capsjax.routing.dynamic import DynamicRouting, Gradient, dynamic_routing


def uniform_routing(
    votes: Float[Array, "*batch i j d"],
    num_iterations: int | Int[Array, ""] = 1,
    *,
    bias: Float[Array, "j d"] | None = None,
    gradient: Gradient = "stop",
    max_iterations: int | None = None,
    leaky: bool = False,
    eps: float = 1e-7,
    eps_at: EpsPlacement = "root",
) -> Routed:
    """Send every vote to all upper capsules alike: c_ij = 1/j, whatever the votes are.

    It has the form of `dynamic_routing`, of which it is the first round, so that an ablation
    changes a name and nothing else; the number of rounds and `gradient` make no difference.

    Args:
      votes: prediction vectors û, (..., i, j, d).
      num_iterations, gradient, max_iterations: accepted and without effect.
      bias, leaky, eps, eps_at: as in `dynamic_routing`; leaky makes c_ij = 1/(j + 1).

    Returns:
      Routed(v, a, c), shaped as in `dynamic_routing`.

    Source: Sabour et al. 2017, table 1, rows with one routing round.

    >>> import jax.numpy as jnp
    >>> uniform_routing(jnp.ones((2, 6, 4, 3))).c[0, 0].tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    del num_iterations, gradient, max_iterations
    return dynamic_routing(votes, 1, bias=bias, leaky=leaky, eps=eps, eps_at=eps_at)


class UniformRouting(DynamicRouting):
    """`uniform_routing` as a value, with the settings of `DynamicRouting`."""

    def _settings(self, learned: Mapping[str, Array]) -> dict[str, Any]:
        return {**super()._settings(learned), "num_iterations": 1, "max_iterations": None}
