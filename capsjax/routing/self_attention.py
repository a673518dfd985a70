"""Self-attention routing of Efficient-CapsNet: one pass, without iterations."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from capsjax.notation import LearnedArray, Routed
from capsjax.ops import exponential_squash, safe_norm
from capsjax.routing.competition import DENSE, Competition
from capsjax.routing.parts import (
    add_leading_axes,
    find_present,
    of_present,
    require_lower_poses,
)


def self_attention_routing(
    votes: Float[Array, "*batch i j d"],
    bias: Float[Array, "i j"] | None = None,
    *,
    dimensions: int | None = None,
    uniform: bool = False,
    eps: float = 1e-7,
    competition: Competition = DENSE,
    mask: Float[Array, "*batch i"] | None = None,
    parent_mask: Float[Array, "*batch j"] | None = None,
) -> Routed:
    """Send each lower capsule's vote to the upper capsules on which all votes agree with it.

        b_ij = û_ij · Σ_k û_kj / √dimensions;  c_ij = softmax_j(b_ij)
        s_j = Σ_i (c_ij + bias_ij) û_ij;  v_j = (1 - exp(-|s_j|)) s_j / |s_j|

    The sum over k includes i itself. The bias comes after the softmax, so that the weights of a
    vote need not sum to 1. There is one pass, and its gradient is not stopped anywhere. The control
    is `uniform`: couplings held at 1/J, with the same bias and squash.

    Differs from the paper by `dimensions`: the paper divides by √p, the released code by √d.

    Args:
      votes: prediction vectors û, (..., i, j, d).
      bias: added to the couplings, (i, j); the paper's "log prior".
      dimensions: logits are divided by its root; None for d.
      uniform: hold the logits at 0, whatever the votes are.
      eps: as in `safe_norm`, for the activations.
      competition, mask, parent_mask: as in `dynamic_routing`.

    Returns:
      Routed(v, a, c, logits): upper poses, their lengths, and couplings before the bias is added.

    Source: Mazzia et al. 2021.

    >>> self_attention_routing(jnp.ones((2, 6, 3, 4))).v.shape
    (2, 3, 4)
    """
    present = find_present(votes, competition, mask)
    votes = of_present(votes, present, 2)
    if uniform:
        b = jnp.zeros_like(votes[..., 0])
    else:
        # The sum over k first: no array has two axes of lower capsules.
        total = jnp.sum(votes, axis=-3)
        scale = math.sqrt(dimensions or votes.shape[-1])
        b = jnp.einsum("...ijd,...jd->...ij", votes, total) / scale
    c = competition.couplings(b, mask=mask, parent_mask=parent_mask)
    weights = c if bias is None else c + add_leading_axes(bias, c.ndim)
    if parent_mask is not None:
        weights = jnp.where(parent_mask[..., None, :] > 0, weights, 0.0)
    v = exponential_squash(jnp.einsum("...ij,...ijd->...jd", weights, votes))
    return Routed(v, safe_norm(v, eps=eps), c, b)


@dataclasses.dataclass(frozen=True)
class SelfAttentionRouting:
    """`self_attention_routing` as a value: its settings, and the bias that it learns.

    Attributes:
      scale_by: the logits are divided by the root of the dimensions of the "upper" poses, as in the
        released code, or of the "lower" ones, as in the paper.
      use_bias: learn a bias (i, j) that is added to the couplings; it starts at 0.
      uniform, eps: as in `self_attention_routing`.
    """

    scale_by: Literal["upper", "lower"] = "upper"
    use_bias: bool = True
    uniform: bool = False
    eps: float = 1e-7

    def __post_init__(self):
        if self.scale_by not in ("upper", "lower"):
            raise ValueError(f"scale_by is 'upper' or 'lower', not {self.scale_by!r}")

    def learned_arrays(self, i: int, j: int, p: int, d: int) -> dict[str, LearnedArray]:
        if not self.use_bias:
            return {}
        return {"bias": LearnedArray((i, j), jax.nn.initializers.zeros)}

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
        del activations  # a vote's length already carries the activation of its capsule
        if self.scale_by == "lower":
            require_lower_poses(u, "scale_by='lower'", "scale_by='upper'")
        return self_attention_routing(
            votes,
            learned.get("bias"),
            dimensions=u.shape[-1] if self.scale_by == "lower" else None,
            uniform=self.uniform,
            eps=self.eps,
            competition=competition,
            mask=mask,
            parent_mask=parent_mask,
        )
