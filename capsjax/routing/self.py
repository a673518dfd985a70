"""Self-routing: a lower capsule chooses its upper capsules by itself, without agreement."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from capsjax.notation import LearnedArray, Routed
from capsjax.routing.competition import DENSE, Competition
from capsjax.routing.parts import (
    add_leading_axes,
    find_present,
    of_present,
    require_lower_poses,
)

# A sum of activations below this counts as none: its reciprocal, squared in the gradient, would
# leave single precision.
LEAST_SUM = 1e-12


def self_routing(
    votes: Float[Array, "*batch i j d"],
    activations: Float[Array, "*batch i"],
    u: Float[Array, "*batch i p"],
    W_r: Float[Array, "i j p"],
    b_r: Float[Array, "i j"],
    *,
    competition: Competition = DENSE,
    mask: Float[Array, "*batch i"] | None = None,
    parent_mask: Float[Array, "*batch j"] | None = None,
) -> Routed:
    """Send each lower capsule's vote where a linear layer on its own pose directs it.

        b_ij = W_r,ij · u_i + b_r,ij;  c_ij = softmax_j(b_ij)
        a_j = Σ_i a_i c_ij / Σ_i a_i;  v_j = Σ_i a_i c_ij û_ij / Σ_i a_i c_ij

    Differs from the released code where all activations are 0: poses and activations are then 0,
    not NaN. There are no iterations; with W_r and b_r at 0, where they start, the couplings are
    uniform, which is the control.

    Args:
      votes: prediction vectors û, (..., i, j, d).
      activations: of the lower capsules, (..., i), not negative.
      u: poses of the lower capsules, (..., i, p).
      W_r, b_r: the linear layers of the couplings, (i, j, p) and (i, j).
      competition, mask, parent_mask: as in `dynamic_routing`.

    Returns:
      Routed(v, a, c, logits): upper poses, activations, couplings and logits b.

    Source: Hahn et al. 2019.

    >>> votes, u = jnp.ones((2, 6, 3, 4)), jnp.ones((2, 6, 5))
    >>> routed = self_routing(votes, jnp.ones((2, 6)), u, jnp.zeros((6, 3, 5)), jnp.zeros((6, 3)))
    >>> routed.v.shape
    (2, 3, 4)
    """
    votes, u = of_present(votes, mask, 2), of_present(u, mask, 1)
    b = jnp.einsum("...ip,ijp->...ij", u, W_r)
    b = b + add_leading_axes(b_r, b.ndim)
    c = competition.couplings(b, mask=mask, parent_mask=parent_mask)
    activations = jnp.where(find_present(votes, competition, mask), activations, 0.0)
    weights = activations[..., None] * c
    mass = jnp.sum(weights, axis=-2)
    sums = jnp.einsum("...ij,...ijd->...jd", weights, votes)
    whole = jnp.sum(activations, axis=-1, keepdims=True)
    return Routed(
        sums / jnp.maximum(mass, LEAST_SUM)[..., None], mass / jnp.maximum(whole, LEAST_SUM), c, b
    )


@dataclasses.dataclass(frozen=True)
class SelfRouting:
    """`self_routing` as a value: its setting, and the layers of the couplings that it learns.

    Attributes:
      uniform: hold the couplings at 1/J, where they start, and learn nothing: the control. All
        activations are then equal, so that it needs a readout of poses.
    """

    uniform: bool = False

    # Votes make poses alone, so that capsules can do without them.
    ACTIVATIONS_FROM_VOTES = False

    def learned_arrays(self, i: int, j: int, p: int, d: int) -> dict[str, LearnedArray]:
        if self.uniform:
            return {}
        return {
            "W_r": LearnedArray((i, j, p), jax.nn.initializers.zeros),
            "b_r": LearnedArray((i, j), jax.nn.initializers.zeros),
        }

    def __call__(
        self,
        votes: Float[Array, "*batch i j d"],
        activations: Float[Array, "*batch i"],
        learned: Mapping[str, Array],
        *,
        u: Float[Array, "*batch i p"] | None = None,
        competition: Competition = DENSE,
        mask: Float[Array, "*batch i"] | None = None,
        parent_mask: Float[Array, "*batch j"] | None = None,
    ) -> Routed:
        require_lower_poses(u, "self-routing", "another algorithm")
        if self.uniform:
            i, j = votes.shape[-3:-1]
            learned = {"W_r": jnp.zeros((i, j, u.shape[-1])), "b_r": jnp.zeros((i, j))}
        return self_routing(
            votes,
            activations,
            u,
            learned["W_r"],
            learned["b_r"],
            competition=competition,
            mask=mask,
            parent_mask=parent_mask,
        )
