"""Dynamic routing by agreement."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from capsjax.initializers import make_initializer
from capsjax.kernels.routing import dynamic_routing_from_poses
from capsjax.notation import LearnedArray, Routed
from capsjax.ops import EpsPlacement, SquashName, make_squash, safe_norm
from capsjax.products import OperandType
from capsjax.rounds import check_rounds, repeat_rounds, settle_rounds
from capsjax.routing.competition import DENSE, Competition
from capsjax.routing.parts import of_present

Gradient = Literal["stop", "full"]


def dynamic_routing(
    votes: Float[Array, "*batch i j d"],
    num_iterations: int | Int[Array, ""] = 3,
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
    logits: Float[Array, "*batch i j"] | None = None,
) -> Routed:
    """Send each lower capsule's vote to the upper capsules that agree with it.

        b = 0; repeat r times:
          c_ij = softmax_j(b_ij);  s_j = Σ_i c_ij û_j|i + bias_j;  v_j = squash(s_j)
          b_ij ← b_ij + û_j|i · v_j

    The logits belong to one example: a batch of one gives the same as a batch of many. The
    update of b after the last round is not computed, as nothing reads it.

    Differs from the paper by `gradient`, on which the paper is silent. With "stop" the coupling
    coefficients are constants to the gradient, which flows through the weighted sum and the
    squash of the last round alone; the loop then has stopped values only, so the number of
    rounds may be a traced integer. With "full" every round is differentiated, and a traced number
    of rounds needs `max_iterations`.

    Args:
      votes: prediction vectors û, (..., i, j, d).
      num_iterations: rounds r of (softmax, weighted sum, squash), at least 1. A traced integer
        needs gradient "stop" or `max_iterations`; one below 1 counts as 1.
      bias: added to the weighted sum in every round, (j, d).
      gradient: "stop" or "full".
      max_iterations: compute this many rounds and keep the first num_iterations, which may be
        traced and may not be larger.
      leaky: give every lower capsule one more logit, always zero, so that it can send its vote
        to no upper capsule; the coupling coefficients then sum to less than one.
      eps, eps_at: as in `squash`.
      squash: "rational", the paper's, or "exponential", see `exponential_squash`.
      competition: the set that a lower capsule divides itself among. With a table of children, as
        in a convolution, votes are (..., o, i, j, d), and all that follows has the axis o too.
      mask: 0 for a lower capsule that takes no part, (..., i).
      parent_mask: 0 for an upper capsule that gets no vote, (..., j).
      logits: initial values of b, (..., i, j); None for 0.

    Returns:
      Routed(v, a, c, logits): upper poses (..., j, d), their lengths (..., j), the coupling
      coefficients of the last round (..., i, j), and their logits b.

    Raises:
      ValueError: for a number of rounds below 1 or above `max_iterations`, an unknown `gradient`,
        or a traced number of rounds with gradient "full" and no `max_iterations`.

    Source: Sabour et al. 2017, procedure 1; leaky routing is in their released code.

    >>> dynamic_routing(jnp.ones((2, 6, 3, 4))).v.shape
    (2, 3, 4)
    """
    num_iterations = check_rounds(num_iterations, gradient, max_iterations)
    who = {"leaky": leaky, "mask": mask, "parent_mask": parent_mask}
    couple = functools.partial(competition.couplings, **who)
    votes = of_present(votes, mask, 2)
    shrink = make_squash(squash, eps, eps_at)

    def upper_poses(c: Array, votes: Array, bias: Array | None) -> Array:
        s = jnp.einsum("...ij,...ijd->...jd", c, votes)
        if bias is not None:
            s = s + jnp.expand_dims(bias, range(s.ndim - bias.ndim)).astype(s.dtype)
        return shrink(s)

    # What the logits are computed from: under "stop" the gradient ends here.
    constants = (votes, bias) if gradient == "full" else lax.stop_gradient((votes, bias))

    def add_agreement(b: Array, c: Array) -> Array:
        return b + jnp.einsum("...ijd,...jd->...ij", constants[0], upper_poses(c, *constants))

    most = None if max_iterations is None else max_iterations - 1
    b = jnp.zeros_like(votes[..., 0]) if logits is None else logits
    if competition.start == "types" and competition.over != "types" and logits is None:
        # The first couplings are not those of the first logits, which are 0: both are carried.
        first = (b, competition.first_couplings(b, **who))

        def next_round(b_and_c: tuple[Array, Array]) -> tuple[Array, Array]:
            b = add_agreement(*b_and_c)
            return b, couple(b)

        b, c = repeat_rounds(next_round, first, num_iterations - 1, most)
    else:
        b = repeat_rounds(lambda b: add_agreement(b, couple(b)), b, num_iterations - 1, most)
        c = couple(b)
    v = upper_poses(c, votes, bias)
    return Routed(v, safe_norm(v, eps=eps if eps_at == "root" else 0.0), c, b)


def learned_bias(use_bias: bool, bias_init: float | str, j: int, d: int) -> dict[str, LearnedArray]:
    """Return the bias (j, d) of the upper capsules as an array to learn, or nothing.

    Args:
      use_bias: whether there is one.
      bias_init: its initial value, or a specification of `initializers`.
      j, d: number of the upper capsules and dimensions of their poses.

    >>> learned_bias(False, 0.1, 10, 16)
    {}
    """
    if not use_bias:
        return {}
    spec = bias_init if isinstance(bias_init, str) else f"constant({bias_init})"
    return {"bias": LearnedArray((j, d), make_initializer(spec))}


@dataclasses.dataclass(frozen=True)
class DynamicRouting:
    """`dynamic_routing` as a value: its settings, and the bias that it learns.

    Attributes:
      num_iterations, gradient, max_iterations, leaky, eps, eps_at, squash: as in
        `dynamic_routing`.
      use_bias: learn a bias (j, d) that is added to the weighted sum in every round.
      bias_init: its initial value, or a specification of `initializers`.
    """

    num_iterations: int | Int[Array, ""] = 3
    gradient: Gradient = "stop"
    max_iterations: int | None = None
    leaky: bool = False
    use_bias: bool = False
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
        logits: Float[Array, "*batch i j"] | None = None,
    ) -> Routed:
        del activations  # a vote's length already carries the activation of its capsule
        return dynamic_routing(
            votes,
            **self._settings(learned),
            competition=competition,
            mask=mask,
            parent_mask=parent_mask,
            logits=logits,
        )

    def route_poses(
        self,
        u: Float[Array, "*batch i p"],
        W: Float[Array, "i j d p"],
        learned: Mapping[str, Array],
        dtype: OperandType = "float32",
    ) -> Routed:
        """Route the votes W u without holding them, see `dynamic_routing_from_poses`."""
        return dynamic_routing_from_poses(u, W, dtype=dtype, **self._settings(learned))

    def _settings(self, learned: Mapping[str, Array]) -> dict[str, Any]:
        return {
            "num_iterations": self.num_iterations,
            "bias": learned.get("bias"),
            "gradient": self.gradient,
            "max_iterations": self.max_iterations,
            "leaky": self.leaky,
            "eps": self.eps,
            "eps_at": self.eps_at,
            "squash": self.squash,
        }
