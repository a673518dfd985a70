"""Inverted dot-product attention: upper capsules compete for the votes of each lower one."""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from capsjax.notation import LearnedArray, Routed
from capsjax.ops import standardize
from capsjax.rounds import check_rounds, settle_rounds
from capsjax.routing.competition import DENSE, Competition
from capsjax.routing.dynamic import Gradient
from capsjax.routing.parts import add_leading_axes, of_present, refine_couplings


def inverted_attention_routing(
    votes: Float[Array, "*batch i j d"],
    num_iterations: int | Int[Array, ""] = 2,
    *,
    scale: float | Float[Array, "d"] = 1.0,
    bias: float | Float[Array, "d"] = 0.0,
    memory: Float[Array, "*batch j d"] | None = None,
    gradient: Gradient = "full",
    max_iterations: int | None = None,
    norm_eps: float = 1e-5,
    competition: Competition = DENSE,
    mask: Float[Array, "*batch i"] | None = None,
    parent_mask: Float[Array, "*batch j"] | None = None,
) -> Routed:
    """Send each lower capsule's vote to the upper capsules whose last poses it resembles.

        first update: c_ij = 1/J; later: b_ij = û_ij · v_j / √d, c_ij = softmax_j(b_ij)
        every update: v_j = scale ⊙ LN(Σ_i c_ij û_ij) + bias

    The logits are computed anew in every update, and not added up. LN is a layer norm over d; it
    is skipped, with scale and bias, where d = 1. One update is the control: uniform couplings.

    A layer whose updates all come before those of the next layer (a sequential stack) is one call.
    In a concurrent stack all layers take one update at a time: call each with `num_iterations=1`
    and the `memory` of its last call.

    Args:
      votes: prediction vectors û, (..., i, j, d).
      num_iterations: number of updates, at least 1, as in `dynamic_routing`.
      scale, bias: of the layer norm, (d,), shared by all upper capsules.
      memory: upper poses v of the last call, (..., j, d); None for uniform couplings in the first
        update.
      gradient: "full" differentiates every update, "stop" takes the couplings as constants.
      max_iterations: as in `dynamic_routing`.
      norm_eps: added to the variance of the layer norm.
      competition, mask, parent_mask: as in `dynamic_routing`.

    Returns:
      Routed(v, a, c, logits, memory): the algorithm has no activations, so a is 1; memory is v.

    Raises:
      ValueError: as `dynamic_routing`.

    Source: Tsai et al. 2020.

    >>> inverted_attention_routing(jnp.ones((2, 6, 3, 4))).v.shape
    (2, 3, 4)
    """
    num_iterations = check_rounds(num_iterations, gradient, max_iterations)
    votes = of_present(votes, mask, 2)

    def upper_poses(c: Array, votes: Array, *affine: Array | float) -> Array:
        s = jnp.einsum("...ij,...ijd->...jd", c, votes)
        if s.shape[-1] == 1:
            return s
        gamma, beta = (add_leading_axes(jnp.asarray(x, s.dtype), s.ndim) for x in affine)
        return gamma * standardize(s, norm_eps) + beta

    operands = (votes, scale, bias)
    # What the logits are computed from: under "stop" the gradient ends here.
    constants = operands if gradient == "full" else lax.stop_gradient(operands)

    def resemblance(v: Array) -> Array:
        return jnp.einsum("...ijd,...jd->...ij", constants[0], v) / math.sqrt(votes.shape[-1])

    if gradient == "stop":
        memory = lax.stop_gradient(memory)
    b, c = refine_couplings(
        lambda c: resemblance(upper_poses(c, *constants)),
        votes,
        num_iterations,
        max_iterations,
        competition,
        logits=None if memory is None else resemblance(memory),
        mask=mask,
        parent_mask=parent_mask,
    )
    v = upper_poses(c, *operands)
    return Routed(v, jnp.ones_like(v[..., 0]), c, b, v)


@dataclasses.dataclass(frozen=True)
class InvertedAttentionRouting:
    """`inverted_attention_routing` as a value: its settings, and the layer norm that it learns.

    Attributes:
      num_iterations, gradient, max_iterations, norm_eps: as in `inverted_attention_routing`.
    """

    num_iterations: int | Int[Array, ""] = 2
    gradient: Gradient = "full"
    max_iterations: int | None = None
    norm_eps: float = 1e-5

    # Layers route groups of images where that is faster, see `capsjax.kernels.compute`.
    IN_GROUPS = True
    # Settings that may be data of a compiled program, and so differ within a population.
    TRACED = ("num_iterations",)
    # It has no activations, see `capsjax.layers.readout`.
    readout = "linear"

    def __post_init__(self):
        settle_rounds(self)

    def learned_arrays(self, i: int, j: int, p: int, d: int) -> dict[str, LearnedArray]:
        if d == 1:
            return {}
        return {
            "scale": LearnedArray((d,), jax.nn.initializers.ones),
            "bias": LearnedArray((d,), jax.nn.initializers.zeros),
        }

    def __call__(
        self,
        votes: Float[Array, "*batch i j d"],
        activations: Float[Array, "*batch i"],
        learned: Mapping[str, Array],
        *,
        memory: Float[Array, "*batch j d"] | None = None,
        competition: Competition = DENSE,
        mask: Float[Array, "*batch i"] | None = None,
        parent_mask: Float[Array, "*batch j"] | None = None,
    ) -> Routed:
        del activations  # the algorithm has none
        return inverted_attention_routing(
            votes,
            self.num_iterations,
            **learned,
            memory=memory,
            gradient=self.gradient,
            max_iterations=self.max_iterations,
            norm_eps=self.norm_eps,
            competition=competition,
            mask=mask,
            parent_mask=parent_mask,
        )
