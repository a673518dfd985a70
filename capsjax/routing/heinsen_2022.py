"""Heinsen's routing of 2022: vectors that predict the inputs which they use."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from capsjax.notation import Routed
from capsjax.ops import standardize
from capsjax.rounds import check_rounds
from capsjax.routing.competition import DENSE, Competition
from capsjax.routing.dynamic import Gradient
from capsjax.routing.heinsen_2019 import weigh_benefits
from capsjax.routing.mixture import in_single_precision
from capsjax.routing.parts import add_leading_axes, find_present, of_present, refine_couplings


def heinsen_2022_routing(
    votes: Float[Array, "*batch i j d"],
    activations: Float[Array, "*batch i"],
    u: Float[Array, "*batch i p"],
    learned: Mapping[str, Array],
    num_iterations: int | Int[Array, ""] = 2,
    *,
    normalize: bool = True,
    gradient: Gradient = "full",
    max_iterations: int | None = None,
    norm_eps: float = 1e-5,
    competition: Competition = DENSE,
    mask: Float[Array, "*batch i"] | None = None,
    parent_mask: Float[Array, "*batch j"] | None = None,
) -> Routed:
    """Route to vectors that predict the inputs which they use.

        c_ij = 1/J; repeat r times:
          use_ij = a_i c_ij;  ignore_ij = a_i - use_ij
          v_j = Σ_i (beta_use_ij use_ij - beta_ignore_ij ignore_ij) û_ij
          ũ_j = (LN(v_j) G_1) ⊙ G_2,j + G_bias,j, the input that v_j predicts
          c_ij = softmax_j(log σ(S_ij u_i · ũ_j + S_bias,ij))
        v_j ← LN(v_j)

    LN is a layer norm over d without scale and bias; it is skipped where d = 1. One round is the
    control: couplings held at their start.

    Args:
      votes: prediction vectors û, (..., i, j, d); see `factored_votes` for the published ones.
      activations: of the lower capsules, (..., i), in [0, 1]: σ of a score; see `input_activations`
        for the published one.
      u: poses of the lower capsules, (..., i, p).
      learned: beta_use, beta_ignore, S and S_bias (i, j), G_1 (d, p), G_2 and G_bias (j, p).
      num_iterations: rounds r, at least 1, as in `dynamic_routing`.
      normalize: whether the last LN is applied.
      gradient, max_iterations: as in `heinsen_2019_routing`.
      norm_eps: added to variances in LN.
      competition, mask, parent_mask: as in `dynamic_routing`.

    Returns:
      Routed(v, a, c, logits): the algorithm has no activations of its outputs, so a is 1.

    Raises:
      ValueError: as `dynamic_routing`.

    Source: Heinsen 2022, "An algorithm for routing vectors in sequences".
    """
    num_iterations = check_rounds(num_iterations, gradient, max_iterations)
    votes, u = of_present(in_single_precision(votes), mask, 2), of_present(u, mask, 1)
    activations = jnp.where(find_present(votes, competition, mask), activations, 0.0)

    def vectors(c: Array, votes: Array, activations: Array, learned: Mapping[str, Array]) -> Array:
        phi = weigh_benefits(c, activations, learned["beta_use"], learned["beta_ignore"])
        if parent_mask is not None:
            phi = jnp.where(parent_mask[..., None, :] > 0, phi, 0.0)
        return jnp.einsum("...ij,...ijd->...jd", phi, votes)

    operands = (votes, activations, learned)
    # What the couplings are computed from: under "stop" the gradient ends here.
    constants, inputs = (operands, u) if gradient == "full" else lax.stop_gradient((operands, u))

    def find_logits(c: Array) -> Array:
        arrays = {name: add_leading_axes(x, c.ndim) for name, x in constants[2].items()}
        v = standardize(vectors(c, *constants), norm_eps)
        predicted = jnp.einsum("...jd,dp->...jp", v, constants[2]["G_1"])
        predicted = predicted * arrays["G_2"] + arrays["G_bias"]
        similarity = jnp.einsum("...ip,...jp->...ij", inputs, predicted)
        return jax.nn.log_sigmoid(similarity * arrays["S"] + arrays["S_bias"])

    b, c = refine_couplings(
        find_logits,
        votes,
        num_iterations,
        max_iterations,
        competition,
        mask=mask,
        parent_mask=parent_mask,
    )
    v = vectors(c, *operands)
    v = standardize(v, norm_eps) if normalize else v
    return Routed(v, jnp.ones_like(v[..., 0]), c, b)


def factored_votes(
    u: Float[Array, "*batch i p"],
    F_1: Float[Array, "j p"],
    F_2: Float[Array, "p d"],
    F_bias: Float[Array, "j d"],
) -> Float[Array, "*batch i j d"]:
    """Compute votes by matrices that share a factor: û_ij = (u_i ⊙ F_1,j) F_2 + F_bias,j.

    Args:
      u: poses of the lower capsules, (..., i, p); in the paper divided by the root of their number.
      F_1, F_2, F_bias: (j, p), (p, d) and (j, d).

    Source: Heinsen 2022.

    >>> factored_votes(jnp.ones((6, 5)), jnp.ones((3, 5)), jnp.ones((5, 4)), jnp.ones((3, 4))).shape
    (6, 3, 4)
    """
    votes = jnp.einsum("...ip,jp,pd->...ijd", u, F_1, F_2)
    return votes + add_leading_axes(F_bias, votes.ndim)


def input_activations(
    u: Float[Array, "*batch i p"], A: Float[Array, "i p"], A_bias: Float[Array, "i"]
) -> Float[Array, "*batch i"]:
    """Compute activations of lower capsules from their poses: a_i = σ(u_i · A_i + A_bias,i).

    Args:
      u: poses of the lower capsules, (..., i, p); in the paper divided by the root of their number.
      A, A_bias: (i, p) and (i,).

    Source: Heinsen 2022.

    >>> input_activations(jnp.ones((2, 5)), jnp.zeros((2, 5)), jnp.zeros(2)).tolist()
    [0.5, 0.5]
    """
    scores = jnp.einsum("...ip,ip->...i", u, A)
    return jax.nn.sigmoid(scores + add_leading_axes(A_bias, scores.ndim))
