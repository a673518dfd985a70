"""Heinsen's routing of 2019: Gaussians that use votes, and pay for those that they ignore."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from capsjax.notation import Routed
from capsjax.rounds import check_rounds
from capsjax.routing.competition import DENSE, Competition
from capsjax.routing.dynamic import Gradient
from capsjax.routing.parts import add_leading_axes, find_present, of_present, refine_couplings


def heinsen_2019_routing(
    votes: Float[Array, "*batch i j d"],
    activations: Float[Array, "*batch i"],
    beta_use: Float[Array, "i j"],
    beta_ignore: Float[Array, "i j"],
    num_iterations: int | Int[Array, ""] = 3,
    *,
    gradient: Gradient = "full",
    max_iterations: int | None = None,
    min_var: float = 1e-5,
    competition: Competition = DENSE,
    mask: Float[Array, "*batch i"] | None = None,
    parent_mask: Float[Array, "*batch j"] | None = None,
) -> Routed:
    """Route to Gaussians, each activated by the benefit of the votes it uses less that of the rest.

        c_ij = 1/J; repeat r times:
          use_ij = a_i c_ij;  ignore_ij = a_i - use_ij
          l_j = Σ_i (beta_use_ij use_ij - beta_ignore_ij ignore_ij)
          v_j, var_j = mean and variance of the votes û_ij, weighted by use_ij
          c_ij = softmax_j(log σ(l_j) + log N(û_ij; v_j, var_j))

    One round is the control: couplings held at their start.

    Differs from the released code in that activations are probabilities here, below and above:
    a_j = σ(l_j). The code passes on l_j, and the next layer takes σ of it.

    Args:
      votes: prediction vectors û, (..., i, j, d); matrices are read row by row.
      activations: of the lower capsules, (..., i), in [0, 1].
      beta_use, beta_ignore: benefit and cost of each vote, (i, j).
      num_iterations: rounds r, at least 1, as in `dynamic_routing`.
      gradient: "full" differentiates every round, "stop" takes the couplings as constants.
      max_iterations: as in `dynamic_routing`.
      min_var: added to variances, and to the weights that means are divided by.
      competition, mask, parent_mask: as in `dynamic_routing`.

    Returns:
      Routed(v, a, c, logits): means, activations, couplings and logits of the last round.

    Raises:
      ValueError: as `dynamic_routing`.

    Source: Heinsen 2019, "An algorithm for routing capsules in all domains".

    >>> votes, betas = jnp.ones((2, 6, 3, 4)), (jnp.ones((6, 3)), jnp.ones((6, 3)))
    >>> heinsen_2019_routing(votes, jnp.ones((2, 6)), *betas).v.shape
    (2, 3, 4)
    """
    num_iterations = check_rounds(num_iterations, gradient, max_iterations)
    votes = of_present(votes, mask, 2)
    activations = jnp.where(find_present(votes, competition, mask), activations, 0.0)

    def statistics(c: Array, votes: Array, activations: Array) -> tuple[Array, Array]:
        use = activations[..., None] * c
        use = use / (jnp.sum(use, axis=-2, keepdims=True) + min_var)
        mean = jnp.einsum("...ij,...ijd->...jd", use, votes)
        squares = jnp.square(votes - mean[..., None, :, :])
        return mean, jnp.einsum("...ij,...ijd->...jd", use, squares) + min_var

    def score(c: Array, activations: Array, *betas: Array) -> Array:
        return jnp.sum(weigh_benefits(c, activations, *betas), axis=-2)

    operands = (votes, activations, beta_use, beta_ignore)
    # What the couplings are computed from: under "stop" the gradient ends here.
    constants = operands if gradient == "full" else lax.stop_gradient(operands)

    # Squares as large as the votes are computed again for the gradient, not kept for each round.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def find_logits(c: Array) -> Array:
        mean, variance = statistics(c, *constants[:2])
        squares = jnp.square(constants[0] - mean[..., None, :, :])
        log_p = -0.5 * jnp.einsum("...ijd,...jd->...ij", squares, 1.0 / variance)
        log_p = log_p - 0.5 * jnp.sum(jnp.log(variance), axis=-1)[..., None, :]
        return jax.nn.log_sigmoid(score(c, *constants[1:]))[..., None, :] + log_p

    b, c = refine_couplings(
        find_logits,
        votes,
        num_iterations,
        max_iterations,
        competition,
        mask=mask,
        parent_mask=parent_mask,
    )
    v, _ = statistics(c, votes, activations)
    return Routed(v, jax.nn.sigmoid(score(c, *operands[1:])), c, b)


def weigh_benefits(
    c: Array, activations: Array, beta_use: Array, beta_ignore: Array
) -> Float[Array, "*batch i j"]:
    """Compute what each vote brings: its benefit where it is used, less its cost where not."""
    use = activations[..., None] * c
    ignore = activations[..., None] - use
    return add_leading_axes(beta_use, c.ndim) * use - add_leading_axes(beta_ignore, c.ndim) * ignore
