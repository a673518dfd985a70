"""Dynamic routing by agreement."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from capsjax.notation import LearnedArray, Routed
from capsjax.ops import EpsPlacement, safe_norm, squash
from capsjax.products import OperandType
from capsjax.routing.from_poses import dynamic_routing_from_poses
from capsjax.routing.rounds import check_rounds, repeat_rounds

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
) -> Routed:
    """Send each lower capsule's vote to the upper capsules that agree with it.

        b = 0; repeat r times:
          c_ij = softmax_j(b_ij);  s_j = Σ_i c_ij û_j|i + bias_j;  v_j = squash(s_j)
          b_ij ← b_ij + û_j|i · v_j

    The logits belong to one example: a batch of one gives the same as a batch of many. The
    update of b after the last round is not computed, for nothing reads it.

    Differs from the paper where it is silent: `gradient`. With "stop" the coupling
    coefficients are constants to the gradient, which flows through the weighted sum and the
    squash of the last round alone; the loop then sees stopped values only, so the number of
    rounds may be a traced integer. With "full" every round is differentiated, and a traced number
    of rounds needs `max_iterations`.

    Args:
      votes: prediction vectors û, (..., i, j, d).
      num_iterations: rounds r of (softmax, weighted sum, squash), at least 1. A traced integer
        needs gradient "stop" or `max_iterations`; one below 1 counts as 1.
      bias: added to the weighted sum in every round, (j, d).
      gradient: "stop" or "full".
      max_iterations: compute that many rounds, and keep the first num_iterations: with a traced
        number of rounds, which may not be larger.
      leaky: give every lower capsule one more logit, always zero, so that it can send its vote
        to no upper capsule; the coupling coefficients then sum to less than one.
      eps: the small number of `squash`.
      eps_at: where `squash` puts it.

    Returns:
      Routed(v, a, c): upper poses (..., j, d), their lengths (..., j), and the coupling
      coefficients of the last round (..., i, j).

    Raises:
      ValueError: for a number of rounds below 1 or above `max_iterations`, an unknown `gradient`,
        or a traced number of rounds with gradient "full" and no `max_iterations`.

    Source: Sabour et al. 2017, procedure 1; leaky routing is in their released code.

    >>> dynamic_routing(jnp.ones((2, 6, 3, 4))).v.shape
    (2, 3, 4)
    """
    num_iterations = check_rounds(num_iterations, gradient, max_iterations)
    couple = leaky_softmax if leaky else jax.nn.softmax

    def one_round(votes: Array, bias: Array | None, b: Array) -> tuple[Array, Array]:
        c = couple(b)
        s = jnp.einsum("...ij,...ijd->...jd", c, votes)
        if bias is not None:
            s = s + jnp.expand_dims(bias, range(s.ndim - bias.ndim))
        return squash(s, eps=eps, eps_at=eps_at), c

    # What the logits are computed from: under "stop" the gradient ends here.
    seen, seen_bias = (votes, bias) if gradient == "full" else lax.stop_gradient((votes, bias))

    def update_logits(b: Array) -> Array:
        v, _ = one_round(seen, seen_bias, b)
        return b + jnp.einsum("...ijd,...jd->...ij", seen, v)

    most = None if max_iterations is None else max_iterations - 1
    b = repeat_rounds(update_logits, jnp.zeros_like(votes[..., 0]), num_iterations - 1, most)
    v, c = one_round(votes, bias, b)
    return Routed(v=v, a=safe_norm(v, eps=eps if eps_at == "root" else 0.0), c=c)


def leaky_softmax(b: Float[Array, "*batch j"]) -> Float[Array, "*batch j"]:
    """Softmax over the last axis and one more logit, which is zero and is then left out.

    >>> leaky_softmax(jnp.zeros(3)).tolist()
    [0.25, 0.25, 0.25]
    """
    widths = [(0, 0)] * (b.ndim - 1) + [(1, 0)]
    return jax.nn.softmax(jnp.pad(b, widths))[..., 1:]


@dataclasses.dataclass(frozen=True)
class DynamicRouting:
    """`dynamic_routing` as a value: its settings, and the bias that it wants learned.

    Attributes:
      num_iterations, gradient, max_iterations, leaky, eps, eps_at: as in `dynamic_routing`.
      use_bias: learn a bias (j, d) that is added to the weighted sum in every round.
      bias_init: its initial value.
    """

    num_iterations: int | Int[Array, ""] = 3
    gradient: Gradient = "stop"
    max_iterations: int | None = None
    leaky: bool = False
    use_bias: bool = False
    bias_init: float = 0.1
    eps: float = 1e-7
    eps_at: EpsPlacement = "root"

    def __post_init__(self):
        # A Python integer where possible: arrays are not hashable.
        rounds = check_rounds(self.num_iterations, self.gradient, self.max_iterations)
        object.__setattr__(self, "num_iterations", rounds)

    def learned_arrays(self, i: int, j: int, d: int) -> dict[str, LearnedArray]:
        del i  # the bias belongs to the upper capsules
        if not self.use_bias:
            return {}
        return {"bias": LearnedArray((j, d), jax.nn.initializers.constant(self.bias_init))}

    def __call__(
        self,
        votes: Float[Array, "*batch i j d"],
        activations: Float[Array, "*batch i"],
        learned: Mapping[str, Array],
    ) -> Routed:
        del activations  # a vote's length already carries the activation of its capsule
        return dynamic_routing(votes, **self._settings(learned))

    def route_poses(
        self,
        u: Float[Array, "*batch i p"],
        W: Float[Array, "i j d p"],
        learned: Mapping[str, Array],
        dtype: OperandType = "float32",
    ) -> Routed:
        """As a call with the votes W u, which are never held: see `from_poses`."""
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
        }
