"""Routing by expectation maximisation."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from capsjax.kernels.moments import squared_distances, weighted_squares, weighted_sum
from capsjax.notation import LearnedArray, Routed
from capsjax.rounds import settle_rounds
from capsjax.routing.competition import DENSE, Competition
from capsjax.routing.dynamic import Gradient
from capsjax.routing.mixture import fit_mixture, in_single_precision

Number = float | Float[Array, ""]


class Gaussians(NamedTuple):
    """Upper capsules as Gaussians over votes.

    Attributes:
      mean, variance: along each dimension of a pose, (..., j, d).
      logit: of the activation, (..., j).
    """

    mean: Float[Array, "*batch j d"]
    variance: Float[Array, "*batch j d"]
    logit: Float[Array, "*batch j"]


def em_routing(
    votes: Float[Array, "*batch i j d"],
    activations: Float[Array, "*batch i"],
    beta_u: Float[Array, "j"],
    beta_a: Float[Array, "j"],
    num_iterations: int | Int[Array, ""] = 3,
    *,
    final_lambda: Number = 0.02,
    min_var: Number = 5e-4,
    min_mass: Number = 1e-7,
    damping: Number = 0.0,
    gradient: Gradient = "full",
    max_iterations: int | None = None,
    competition: Competition = DENSE,
    mask: Float[Array, "*batch i"] | None = None,
    parent_mask: Float[Array, "*batch j"] | None = None,
) -> Routed:
    """Explain the votes as a mixture of Gaussians, one for each upper capsule.

        c_ij = 1 / size of the set; for t = 1, 2, ..., r:
          w_ij = c_ij a_i;  R_j = Σ_i w_ij;  μ_jh = Σ_i w_ij û_ijh / R_j
          σ²_jh = Σ_i w_ij (û_ijh - μ_jh)² / R_j;  cost_jh = (β_u,j + ln σ_jh) R_j
          a_j = sigmoid(λ_t (β_a,j - Σ_h cost_jh)),  λ_t = final_lambda (1 - 0.95^t)
          c_ij = softmax_j(ln a_j + ln N(û_ij; μ_j, σ²_j))

    An upper capsule is active if its votes are many and close to each other. With one round the
    couplings stay at their start: the control for the rounds, with the same activations.

    Differs from the paper by `min_var` and `min_mass`, which keep it finite for equal votes and
    without any. λ and β are in the paper's units; `em_paper_units` converts those of the authors'
    released code, which damps the means by 0.1. There, λ has half the size, 0.01 for convolutions
    and 0.0025 for classes.

    Args:
      votes: û, (..., i, j, d).
      activations: a of the lower capsules, (..., i).
      beta_u: cost of describing a lower capsule, for each dimension of its vote, (j,).
      beta_a: minus the cost of an upper capsule's mean and variance, (j,).
      num_iterations: rounds r, at least 1. A traced integer needs gradient "stop" or
        `max_iterations`; one below 1 counts as 1.
      final_lambda: limit of the inverse temperature λ.
      min_var: added to the variances.
      min_mass: added to R.
      damping: share of the previous round's mean in a mean, from 0 to below 1; before the first
        round it is 0. The variance is taken about the damped mean.
      gradient: "full" differentiates all rounds; for "stop" the couplings and means of earlier
        rounds are constants.
      max_iterations: compute this many rounds and keep the first num_iterations, which may be
        traced and may not be larger.
      competition: the set that a lower capsule divides itself among. With a table of children, as
        in a convolution, votes are (..., o, i, j, d), and all that follows has the axis o too. The
        paper's is over "all"; the released code's over "positions", with start "types".
      mask: 0 for a lower capsule that takes no part, (..., i).
      parent_mask: 0 for an upper capsule that gets no vote, (..., j).

    Returns:
      Routed(v, a, c, logits): means (..., j, d), activations (..., j), the coupling coefficients
      of the last round (..., i, j), and their logits ln a_j + ln N; 0 for one round.

    Raises:
      ValueError: for a number of rounds below 1 or above `max_iterations`, an unknown `gradient`,
        a traced number of rounds with gradient "full" and no `max_iterations`, a `min_var` or
        `min_mass` of 0, or a `damping` that is not a share below 1.

    Source: Hinton et al. 2018; schedule of λ, damping and `min_var` are in their
    released code.

    >>> em_routing(jnp.ones((2, 6, 3, 4)), jnp.ones((2, 6)), jnp.zeros(3), jnp.zeros(3)).v.shape
    (2, 3, 4)
    """
    _check_numbers(min_var=min_var, min_mass=min_mass, damping=damping)

    def fit(t: Array, c: Array, previous: Array, votes: Array, *others: Array) -> Gaussians:
        a, beta_u, beta_a = others
        w = c * a[..., None, :]
        mass = jnp.sum(w, axis=-1) + min_mass
        share = w / mass[..., None]
        mean = (1 - damping) * weighted_sum(share, votes) + damping * previous
        variance = weighted_squares(share, votes, mean) + min_var
        upper = range(mass.ndim - 1)
        beta_u, beta_a = (jnp.expand_dims(beta, upper) for beta in (beta_u, beta_a))
        cost = (votes.shape[-1] * beta_u + 0.5 * jnp.sum(jnp.log(variance), axis=-1)) * mass
        inverse_temperature = final_lambda * (1 - 0.95**t)
        return Gaussians(mean, variance, inverse_temperature * (beta_a - cost))

    votes = in_single_precision(votes)
    parents, c, logits = fit_mixture(
        fit,
        _log_joint,
        votes,
        (activations, beta_u, beta_a),
        num_iterations,
        gradient=gradient,
        max_iterations=max_iterations,
        competition=competition,
        mask=mask,
        parent_mask=parent_mask,
    )
    return Routed(parents.mean, jax.nn.sigmoid(parents.logit), c, logits)


def _log_joint(parents: Gaussians, votes: Array) -> Array:
    """Compute ln a_j + ln N(û_ij; μ_j, σ²_j), (..., j, i)."""
    mean, variance, logit = parents
    per_parent = jax.nn.log_sigmoid(logit) - 0.5 * jnp.sum(jnp.log(2 * jnp.pi * variance), axis=-1)
    return per_parent[..., None] - 0.5 * squared_distances(votes, mean, 1 / variance)


def em_paper_units(
    sigma_bias: Any, activation_bias: Any, final_beta: Any = 0.01
) -> tuple[Any, Any, Any]:
    """Convert numbers of the authors' released code to the paper's units.

        β_u = sigma_bias (ln 2π + 1) / 2;  β_a = -2500 activation_bias;  λ = 2 final_beta

    The released cost is of ln σ² = 2 ln σ, so that λ is twice its number.

    Args:
      sigma_bias, activation_bias: its variables of these names; they start at 0.5 and 0.5 in
        convolutions, and at 2 and 1 in the layer of classes.
      final_beta: its number of this name; the layer of classes has a quarter of it.

    Returns:
      beta_u, beta_a and final_lambda, as in `em_routing`.

    >>> [round(each, 4) for each in em_paper_units(0.5, 0.5)]
    [0.7095, -1250.0, 0.02]
    """
    return sigma_bias * (math.log(2 * math.pi) + 1) / 2, -2500 * activation_bias, 2 * final_beta


@dataclasses.dataclass(frozen=True)
class EMRouting:
    """`em_routing` as a value: its settings, and the two costs β that it learns.

    An optimizer whose steps have about the size of its learning rate, as Adam's, would need ten
    thousands of them to move a β_a of -1250. So what is learned is β divided by a fixed scale.

    Attributes:
      num_iterations, final_lambda, min_var, min_mass, damping, gradient, max_iterations: as in
        `em_routing`.
      beta_u_init, beta_a_init: initial costs in the paper's units: those of the released code's
        convolutions; its layer of classes has 2.838 and -2500.
      beta_u_scale, beta_a_scale: what a learned number is multiplied with; those of the released
        code.
    """

    num_iterations: int | Int[Array, ""] = 3
    final_lambda: Number = 0.02
    min_var: Number = 5e-4
    min_mass: Number = 1e-7
    damping: Number = 0.0
    gradient: Gradient = "full"
    max_iterations: int | None = None
    beta_u_init: float = 0.709
    beta_a_init: float = -1250.0
    beta_u_scale: float = 1.419
    beta_a_scale: float = 2500.0

    # Layers route groups of images where that is faster, see `capsjax.kernels.compute`.
    IN_GROUPS = True
    # Settings that may be data of a compiled program, and so differ within a population.
    TRACED = ("num_iterations", "final_lambda", "min_var", "min_mass", "damping")

    def __post_init__(self):
        settle_rounds(self)
        _check_numbers(
            min_var=self.min_var,
            min_mass=self.min_mass,
            damping=self.damping,
            beta_u_scale=self.beta_u_scale,
            beta_a_scale=self.beta_a_scale,
        )

    def learned_arrays(self, i: int, j: int, p: int, d: int) -> dict[str, LearnedArray]:
        starts = {
            "beta_u": self.beta_u_init / self.beta_u_scale,
            "beta_a": self.beta_a_init / self.beta_a_scale,
        }
        constant = jax.nn.initializers.constant
        return {name: LearnedArray((j,), constant(start)) for name, start in starts.items()}

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
        return em_routing(
            votes,
            activations,
            self.beta_u_scale * learned["beta_u"],
            self.beta_a_scale * learned["beta_a"],
            self.num_iterations,
            final_lambda=self.final_lambda,
            min_var=self.min_var,
            min_mass=self.min_mass,
            damping=self.damping,
            gradient=self.gradient,
            max_iterations=self.max_iterations,
            competition=competition,
            mask=mask,
            parent_mask=parent_mask,
        )


def _check_numbers(*, damping: Number, **positive: Number) -> None:
    """Raise ValueError for numbers that make no mixture; traced ones cannot be checked."""
    for name, value in positive.items():
        if not isinstance(value, jax.core.Tracer) and value <= 0:
            raise ValueError(f"{name} is above 0, not {value}")
    if not isinstance(damping, jax.core.Tracer) and not 0 <= damping < 1:
        raise ValueError(f"damping is a share from 0 to below 1, not {damping}")
