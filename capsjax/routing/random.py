"""A control for routing algorithms: couplings that are random and fixed."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from capsjax.notation import LearnedArray, Routed
from capsjax.ops import EpsPlacement, SquashName
from capsjax.routing.competition import DENSE, Competition
from capsjax.routing.dynamic import dynamic_routing, learned_bias
from capsjax.routing.parts import add_leading_axes


def random_routing(
    votes: Float[Array, "*batch i j d"],
    draws: Float[Array, "i j"],
    *,
    bias: Float[Array, "j d"] | None = None,
    eps: float = 1e-7,
    eps_at: EpsPlacement = "root",
    squash: SquashName = "rational",
    competition: Competition = DENSE,
    mask: Float[Array, "*batch i"] | None = None,
    parent_mask: Float[Array, "*batch j"] | None = None,
) -> Routed:
    """Send each lower capsule's vote to the upper capsules in proportions that were drawn once.

        c_ij = softmax_j(draws_ij);  v_j = squash(Σ_i c_ij û_ij + bias_j)

    What `uniform_routing` is for equal couplings this is for unequal ones: if routing finds nothing
    in the votes, an algorithm is no better than it. The gradient does not reach the draws.

    Args:
      votes: prediction vectors û, (..., i, j, d).
      draws: standard normal numbers, (i, j), the same for all images, and for all positions of a
        convolution.
      bias, eps, eps_at, squash, competition, mask, parent_mask: as in `dynamic_routing`.

    Returns:
      Routed(v, a, c, logits): as `dynamic_routing`; the logits are the draws.

    >>> draws = jax.random.normal(jax.random.key(0), (6, 3))
    >>> random_routing(jnp.ones((2, 6, 3, 4)), draws).v.shape
    (2, 3, 4)
    """
    draws = add_leading_axes(lax.stop_gradient(draws), votes.ndim - 1)
    return dynamic_routing(
        votes,
        1,
        bias=bias,
        eps=eps,
        eps_at=eps_at,
        squash=squash,
        competition=competition,
        mask=mask,
        parent_mask=parent_mask,
        logits=jnp.broadcast_to(draws, votes.shape[:-1]),
    )


@dataclasses.dataclass(frozen=True)
class RandomRouting:
    """`random_routing` as a value: its settings, its draws, and the bias that it learns.

    The draws are an array of the layer like those that are learned, so that each layer and each
    seed has its own and a checkpoint contains them, but training leaves them as they are.

    Attributes:
      use_bias, bias_init, eps, eps_at, squash: as in `DynamicRouting`.
    """

    use_bias: bool = False
    bias_init: float | str = 0.1
    eps: float = 1e-7
    eps_at: EpsPlacement = "root"
    squash: SquashName = "rational"

    def learned_arrays(self, i: int, j: int, p: int, d: int) -> dict[str, LearnedArray]:
        draws = LearnedArray((i, j), jax.nn.initializers.normal(1.0))
        return {"draws": draws, **learned_bias(self.use_bias, self.bias_init, j, d)}

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
        return random_routing(
            votes,
            learned["draws"],
            bias=learned.get("bias"),
            eps=self.eps,
            eps_at=self.eps_at,
            squash=self.squash,
            competition=competition,
            mask=mask,
            parent_mask=parent_mask,
        )
