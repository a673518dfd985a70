"""The control for every routing algorithm: no agreement at all."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float, Int

from capsjax.kernels.routing import dynamic_routing_from_poses
from capsjax.notation import LearnedArray, Routed
from capsjax.ops import EpsPlacement, SquashName
from capsjax.products import OperandType
from capsjax.routing.competition import DENSE, Competition
from capsjax.routing.dynamic import Gradient, dynamic_routing, learned_bias


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
    squash: SquashName = "rational",
    competition: Competition = DENSE,
    mask: Float[Array, "*batch i"] | None = None,
    parent_mask: Float[Array, "*batch j"] | None = None,
) -> Routed:
    """Send every vote to all upper capsules equally: c_ij = 1/j, whatever the votes are.

    It takes the settings of `dynamic_routing`, of which it is the first round, so that an
    ablation changes a name and nothing else; the number of rounds and `gradient` have no effect.

    Args:
      votes: prediction vectors û, (..., i, j, d).
      num_iterations, gradient, max_iterations: accepted, without effect.
      bias, leaky, eps, eps_at, squash: as in `dynamic_routing`; leaky makes c_ij = 1/(j + 1).
      competition, mask, parent_mask: as in `dynamic_routing`.

    Returns:
      Routed(v, a, c, logits), shaped as in `dynamic_routing`; the logits are 0.

    Source: Sabour et al. 2017, table 1, rows with one routing round.

    >>> import jax.numpy as jnp
    >>> uniform_routing(jnp.ones((2, 6, 4, 3))).c[0, 0].tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    del num_iterations, gradient, max_iterations
    return dynamic_routing(
        votes,
        1,
        bias=bias,
        leaky=leaky,
        eps=eps,
        eps_at=eps_at,
        squash=squash,
        competition=competition,
        mask=mask,
        parent_mask=parent_mask,
    )


@dataclasses.dataclass(frozen=True)
class UniformRouting:
    """`uniform_routing` as a value: its settings, and the bias that it learns.

    Attributes:
      leaky, use_bias, bias_init, eps, eps_at, squash: as in `DynamicRouting`.
    """

    leaky: bool = False
    use_bias: bool = False
    bias_init: float | str = 0.1
    eps: float = 1e-7
    eps_at: EpsPlacement = "root"
    squash: SquashName = "rational"

    def learned_arrays(self, i: int, j: int, p: int, d: int) -> dict[str, LearnedArray]:
        return learned_bias(self.use_bias, self.bias_init, j, d)

    def __call__(
        self,
        votes: Float[Array, "*batch i j d"],
        activations: Float[Array, "*batch i"],
        learned: Mapping[str, Array],
        *,
        competition: Competition = DENSE,
        mask: Float[Array, "*batch i"] | None = None,
        parent_mask: Float[Array, "*batch j"] | None = None,
    ) -> Routed:
        del activations  # a vote's length already carries the activation of its capsule
        return uniform_routing(
            votes,
            **self._settings(learned),
            competition=competition,
            mask=mask,
            parent_mask=parent_mask,
        )

    def route_poses(
        self,
        u: Float[Array, "*batch i p"],
        W: Float[Array, "i j d p"],
        learned: Mapping[str, Array],
        dtype: OperandType = "float32",
    ) -> Routed:
        """Route the votes W u without holding them, see `dynamic_routing_from_poses`."""
        return dynamic_routing_from_poses(
            u,
            W,
            1,
            dtype=dtype,
            **self._settings(learned),
        )

    def _settings(self, learned: Mapping[str, Array]) -> dict[str, Any]:
        return {
            "bias": learned.get("bias"),
            "leaky": self.leaky,
            "eps": self.eps,
            "eps_at": self.eps_at,
            "squash": self.squash,
        }
