"""Routing by agreement over a volume: positions and types of upper capsules compete together."""

import dataclasses
from collections.abc import Mapping

from jaxtyping import Array, Float, Int

from capsjax.notation import LearnedArray, Routed
from capsjax.ops import EpsPlacement, SquashName
from capsjax.rounds import settle_rounds
from capsjax.routing.competition import DENSE, Competition
from capsjax.routing.dynamic import Gradient, dynamic_routing, learned_bias


def agreement_3d_routing(
    votes: Float[Array, "*batch i j d"],
    num_iterations: int | Int[Array, ""] = 3,
    *,
    bias: Float[Array, "j d"] | None = None,
    gradient: Gradient = "full",
    max_iterations: int | None = None,
    eps: float = 1e-7,
    eps_at: EpsPlacement = "root",
    squash: SquashName = "rational",
    competition: Competition = DENSE,
    mask: Float[Array, "*batch i"] | None = None,
    parent_mask: Float[Array, "*batch j"] | None = None,
) -> Routed:
    """Send each child type's votes to the upper capsules, of all positions, that agree with them.

        b = 0; repeat r times:
          c_oij = exp(b_oij) / Σ_o'j' exp(b_o'ij')
          s_oj = Σ_i c_oij û_oij + bias_j;  v_oj = squash(s_oj);  b_oij ← b_oij + û_oij · v_oj

    It is `dynamic_routing` with full gradients in which a child type i has one vote for each
    position o = (y, x) and type j, and the couplings of these votes together sum to 1; they start
    at 1 / (J·H·W). The votes of a type are those of a convolution whose window is already summed.
    One round is the control: couplings held at their start.

    Differs from code that was released before August 2019, whose softmax ran over j alone, and from
    code after November 2019, whose squash ran over positions too; here it is that of each capsule.

    Args:
      votes: prediction vectors û, (..., o, i, j, d), or (..., i, j, d) for a single position.
      num_iterations: rounds r, at least 1.
      bias: added to the weighted sum in every round, (j, d).
      gradient, max_iterations, eps, eps_at, squash: as in `dynamic_routing`.
      competition: over "all" positions and types, with a row of children for each position; without
        children there is a single position.
      mask, parent_mask: as in `dynamic_routing`.

    Returns:
      Routed(v, a, c, logits): as `dynamic_routing`.

    Raises:
      ValueError: as `dynamic_routing`, and for a competition with children that is not over "all".

    Source: Rajasegaran et al. 2019.

    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> volume = Competition(np.array([[0, 1], [0, 1]]), over="all")
    >>> routed = agreement_3d_routing(jnp.ones((2, 2, 5, 3)), competition=volume)
    >>> round(float(routed.c[0, 0, 0]), 6), routed.v.shape
    (0.1, (2, 5, 3))
    """
    if competition.children is not None and competition.over != "all":
        raise ValueError(
            "agreement_3d routes over all positions and types at once: use over='all' "
            f"(model.conv_caps.over), not {competition.over!r}"
        )
    return dynamic_routing(
        votes,
        num_iterations,
        bias=bias,
        gradient=gradient,
        max_iterations=max_iterations,
        eps=eps,
        eps_at=eps_at,
        squash=squash,
        competition=competition,
        mask=mask,
        parent_mask=parent_mask,
    )


@dataclasses.dataclass(frozen=True)
class Agreement3DRouting:
    """`agreement_3d_routing` as a value: its settings, and the bias that it learns.

    Attributes:
      num_iterations, gradient, max_iterations, eps, eps_at, squash: as in `agreement_3d_routing`.
      use_bias: learn a bias (j, d) that is added to the weighted sum in every round.
      bias_init: its initial value, or a specification of `initializers`.
    """

    num_iterations: int | Int[Array, ""] = 3
    gradient: Gradient = "full"
    max_iterations: int | None = None
    use_bias: bool = True
    bias_init: float | str = 0.1
    eps: float = 1e-7
    eps_at: EpsPlacement = "root"
    squash: SquashName = "rational"

    # Settings that may be data of a compiled program, and so differ within a population.
    TRACED = ("num_iterations",)

    def __post_init__(self):
        settle_rounds(self)

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
        return agreement_3d_routing(
            votes,
            self.num_iterations,
            bias=learned.get("bias"),
            gradient=self.gradient,
            max_iterations=self.max_iterations,
            eps=self.eps,
            eps_at=self.eps_at,
            squash=self.squash,
            competition=competition,
            mask=mask,
            parent_mask=parent_mask,
        )
