"""Routing by variational Bayes."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import digamma
from jaxtyping import Array, Float, Int

from capsjax.kernels.moments import squared_distances, weighted_squares, weighted_sum
from capsjax.notation import LearnedArray, Routed
from capsjax.registry import look_up
from capsjax.rounds import settle_rounds
from capsjax.routing.competition import DENSE, Competition
from capsjax.routing.dynamic import Gradient
from capsjax.routing.mixture import fit_mixture, in_single_precision

Number = float | Float[Array, ""]
Activation = Literal["sigmoid", "logit"]


class Posterior(NamedTuple):
    """Upper capsules as distributions over Gaussians.

    Attributes:
      mean: m, (..., j, d).
      kappa, nu: number of observations behind the mean, and behind the precision, (..., j).
      log_weight: E ln π, (..., j).
      log_precision: E ln |Λ|, (..., j).
      whitening: what makes Ψ the identity: its root (..., j, d), or (..., j, d, d).
    """

    mean: Float[Array, "*batch j d"]
    kappa: Float[Array, "*batch j"]
    nu: Float[Array, "*batch j"]
    log_weight: Float[Array, "*batch j"]
    log_precision: Float[Array, "*batch j"]
    whitening: Float[Array, "..."]


def vb_routing(
    votes: Float[Array, "*batch i j d"],
    activations: Float[Array, "*batch i"],
    beta_u: float | Float[Array, "j"] = 0.0,
    beta_a: float | Float[Array, "j"] = 0.0,
    num_iterations: int | Int[Array, ""] = 3,
    *,
    covariance: str = "diagonal",
    alpha_0: Number = 1.0,
    kappa_0: Number = 1.0,
    m_0: Number = 0.0,
    psi_0: Number = 1.0,
    nu_above_d: Number = 1.0,
    activation: Activation = "sigmoid",
    gradient: Gradient = "full",
    max_iterations: int | None = None,
    competition: Competition = DENSE,
    mask: Float[Array, "*batch i"] | None = None,
    parent_mask: Float[Array, "*batch j"] | None = None,
) -> Routed:
    """Explain the votes as a Bayesian mixture of Gaussians, one for each upper capsule.

        c_ij = 1 / size of the set; repeat r times:
          w_ij = c_ij a_i;  R_j = Σ_i w_ij;  α_j = α_0 + R_j;  κ_j = κ_0 + R_j;  ν_j = ν_0 + R_j
          m_j = (κ_0 m_0 + Σ_i w_ij û_ij) / κ_j
          Ψ_j⁻¹ = Ψ_0⁻¹ + Σ_i w_ij (û_ij - m_j)(û_ij - m_j)ᵀ + κ_0 (m_j - m_0)(m_j - m_0)ᵀ
          E ln π_j = ψ(α_j) - ψ(Σ_k α_k)
          E ln|Λ_j| = Σ_h ψ((ν_j + 1 - h) / 2) + d ln 2 + ln|Ψ_j|,  h = 1, ..., d
          c_ij = softmax_j(E ln π_j + ½ [E ln|Λ_j| - d ln 2π - d / κ_j
                                         - ν_j (û_ij - m_j)ᵀ Ψ_j (û_ij - m_j)])
        H_j = ½ d ln 2πe - ½ E ln|Λ_j|;  a_j = sigmoid(β_a,j - exp(E ln π_j) H_j - β_u,j)

    ψ is the digamma function, and Σ_k runs over the types at one position. With one round the
    couplings stay at their start: the control for the rounds, with the same activations.

    Ψ⁻¹ is written about m and not about the mean of the votes; both are equal, and this one divides
    by no mass, which may be 0. As the released code, "diagonal" keeps the digamma functions of a
    full precision. An entropy H above 0, as with few votes, makes a capsule less active the more
    votes it wins.

    Args:
      votes: û, (..., i, j, d).
      activations: a of the lower capsules, (..., i).
      beta_u, beta_a: offsets of the activations' logits, (j,), or a number for all. A batch norm of
        the logits removes them.
      num_iterations: rounds r, at least 1. A traced integer needs gradient "stop" or
        `max_iterations`; one below 1 counts as 1.
      covariance: "diagonal", or "full", with a matrix (d, d) for each upper capsule.
      alpha_0, kappa_0: prior numbers of observations, for the weights and for the means.
      m_0: each entry of the prior means.
      psi_0: Ψ_0 is this number times the identity.
      nu_above_d: prior degrees of freedom ν_0 above d.
      activation: "sigmoid", or "logit" to return the logits in place of the activations, for a
        layer that normalises them before the sigmoid.
      gradient: "full" differentiates all rounds; for "stop" the couplings of earlier rounds are
        constants.
      max_iterations: compute this many rounds and keep the first num_iterations, which may be
        traced and may not be larger.
      competition: the set that a lower capsule divides itself among. With a table of children, as
        in a convolution, votes are (..., o, i, j, d), and all that follows has the axis o too. The
        paper's is over "all", with start "types".
      mask: 0 for a lower capsule that takes no part, (..., i).
      parent_mask: 0 for an upper capsule that gets no vote, (..., j).

    Returns:
      Routed(v, a, c, logits): posterior means m (..., j, d), activations or their logits (..., j),
      the coupling coefficients of the last round (..., i, j), and their logits; 0 for one round.

    Raises:
      ValueError: for a number of rounds below 1 or above `max_iterations`, an unknown `gradient`,
        `covariance` or `activation`, a traced number of rounds with gradient "full" and no
        `max_iterations`, or a prior that is none.

    Source: De Sousa Ribeiro et al. 2020; the posterior is that of Bishop 2006.

    >>> vb_routing(jnp.ones((2, 6, 3, 4)), jnp.ones((2, 6))).v.shape
    (2, 3, 4)
    """
    _check(covariance, activation, alpha_0, kappa_0, psi_0, nu_above_d)
    form = COVARIANCES[covariance]
    d = votes.shape[-1]

    def fit(_: Array, c: Array, previous: Array, votes: Array, a: Array) -> Posterior:
        del previous  # a posterior does not depend on the one before
        w = c * a[..., None, :]
        mass = jnp.sum(w, axis=-1)
        alpha, kappa, nu = alpha_0 + mass, kappa_0 + mass, d + nu_above_d + mass
        mean = (kappa_0 * m_0 + weighted_sum(w, votes)) / kappa[..., None]
        taking_part = alpha if parent_mask is None else jnp.where(parent_mask > 0, alpha, 0.0)
        # The prior is one more child, which votes for its mean.
        log_det, whitening = form.invert(w, votes, mean, kappa_0, mean - m_0, 1 / psi_0)
        degrees = 0.5 * (nu[..., None] - jnp.expand_dims(jnp.arange(d), range(nu.ndim)))
        return Posterior(
            mean,
            kappa,
            nu,
            digamma(alpha) - digamma(jnp.sum(taking_part, axis=-1, keepdims=True)),
            jnp.sum(digamma(degrees), axis=-1) + d * math.log(2) + log_det,
            whitening,
        )

    def explain(parents: Posterior, votes: Array) -> Array:
        mean, kappa, nu, log_weight, log_precision, whitening = parents
        per_parent = log_weight + 0.5 * (log_precision - d * math.log(2 * math.pi) - d / kappa)
        distances = form.distances(whitening, votes, mean)
        return per_parent[..., None] - 0.5 * nu[..., None] * distances

    parents, c, logits = fit_mixture(
        fit,
        explain,
        in_single_precision(votes),
        (activations,),
        num_iterations,
        gradient=gradient,
        max_iterations=max_iterations,
        competition=competition,
        mask=mask,
        parent_mask=parent_mask,
    )
    entropy = 0.5 * (d * math.log(2 * math.pi * math.e) - parents.log_precision)
    offset = jnp.broadcast_to(jnp.subtract(beta_a, beta_u), entropy.shape[-1:])
    a = jnp.expand_dims(offset, range(entropy.ndim - 1)) - jnp.exp(parents.log_weight) * entropy
    return Routed(parents.mean, a if activation == "logit" else jax.nn.sigmoid(a), c, logits)


class Covariance(NamedTuple):
    """How the covariance of an upper capsule is represented.

    Attributes:
      invert: (w, votes, m, kappa_0, deviation of the prior mean, entries of Ψ_0⁻¹) ->
        ln|Ψ| (..., j) and the root of Ψ.
      distances: (root of Ψ, votes, m) -> squared distances of the votes, (..., j, i).
    """

    invert: Callable[..., tuple[Array, Array]]
    distances: Callable[[Array, Array, Array], Array]


def _invert_diagonal(
    w: Array, votes: Array, mean: Array, kappa_0: Number, of_prior: Array, floor: Number
) -> tuple[Array, Array]:
    scatter = weighted_squares(w, votes, mean) + kappa_0 * jnp.square(of_prior) + floor
    return -jnp.sum(jnp.log(scatter), axis=-1), lax.rsqrt(scatter)


def _diagonal_distances(root: Array, votes: Array, mean: Array) -> Array:
    return squared_distances(votes, mean, jnp.square(root))


def _invert_full(
    w: Array, votes: Array, mean: Array, kappa_0: Number, of_prior: Array, floor: Number
) -> tuple[Array, Array]:
    scatter = _sum_of_squares(w, votes - mean[..., None, :])
    scatter += kappa_0 * of_prior[..., None] * of_prior[..., None, :]
    # Rounding must not make the smallest eigenvalue negative.
    rounding = 16 * jnp.finfo(scatter.dtype).eps
    floor = floor + rounding * jnp.trace(scatter, axis1=-2, axis2=-1)
    identity = jnp.broadcast_to(jnp.eye(scatter.shape[-1], dtype=scatter.dtype), scatter.shape)
    root = jnp.linalg.cholesky(scatter + floor[..., None, None] * identity)
    logs = jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1))
    return -2 * jnp.sum(logs, axis=-1), lax.linalg.triangular_solve(
        root, identity, left_side=True, lower=True
    )


def _sum_of_squares(w: Array, deviations: Array) -> Array:
    """Sum w x xᵀ over the lower capsules, (..., j, d, d).

    In groups: one sum of thousands of similar terms would round each of them in the same direction.
    """
    i = w.shape[-1]
    size = math.isqrt(i)
    fill = -i % size

    def group(x: Array) -> Array:
        x = jnp.concatenate([x, jnp.zeros_like(x[..., :fill, :])], axis=-2)
        return x.reshape(*x.shape[:-2], -1, size, x.shape[-1])

    products = jnp.einsum(
        "...id,...ie->...de",
        group(w[..., None] * deviations),
        group(deviations),
        precision=lax.Precision.HIGHEST,
    )
    return jnp.sum(products, axis=-3)


def _full_distances(root: Array, votes: Array, mean: Array) -> Array:
    exact = {"precision": lax.Precision.HIGHEST}
    deviations = votes - mean[..., None, :]
    whitened = jnp.einsum("...ed,...id->...ie", root, deviations, **exact)
    return jnp.sum(jnp.square(whitened), axis=-1)


COVARIANCES = {
    "diagonal": Covariance(_invert_diagonal, _diagonal_distances),
    "full": Covariance(_invert_full, _full_distances),
}


@dataclasses.dataclass(frozen=True)
class VBRouting:
    """`vb_routing` as a value: its settings, and the two offsets β that it learns.

    Attributes:
      num_iterations, covariance, alpha_0, kappa_0, m_0, psi_0, nu_above_d, activation, gradient,
        max_iterations: as in `vb_routing`.
      beta_u_init, beta_a_init: initial values of the offsets.
    """

    num_iterations: int | Int[Array, ""] = 3
    covariance: str = "diagonal"
    alpha_0: Number = 1.0
    kappa_0: Number = 1.0
    m_0: Number = 0.0
    psi_0: Number = 1.0
    nu_above_d: Number = 1.0
    activation: Activation = "sigmoid"
    gradient: Gradient = "full"
    max_iterations: int | None = None
    beta_u_init: float = 0.0
    beta_a_init: float = 0.0

    # Layers route groups of images where that is faster, see `capsjax.kernels.compute`.
    IN_GROUPS = True
    # Settings that may be data of a compiled program, and so differ within a population.
    TRACED = ("num_iterations", "alpha_0", "kappa_0", "m_0", "psi_0", "nu_above_d")

    def __post_init__(self):
        settle_rounds(self)
        priors = (self.alpha_0, self.kappa_0, self.psi_0, self.nu_above_d)
        _check(self.covariance, self.activation, *priors)

    def learned_arrays(self, i: int, j: int, p: int, d: int) -> dict[str, LearnedArray]:
        starts = {"beta_u": self.beta_u_init, "beta_a": self.beta_a_init}
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
        return vb_routing(
            votes,
            activations,
            learned["beta_u"],
            learned["beta_a"],
            self.num_iterations,
            covariance=self.covariance,
            alpha_0=self.alpha_0,
            kappa_0=self.kappa_0,
            m_0=self.m_0,
            psi_0=self.psi_0,
            nu_above_d=self.nu_above_d,
            activation=self.activation,
            gradient=self.gradient,
            max_iterations=self.max_iterations,
            competition=competition,
            mask=mask,
            parent_mask=parent_mask,
        )


def _check(
    covariance: str,
    activation: str,
    alpha_0: Number,
    kappa_0: Number,
    psi_0: Number,
    nu_above_d: Number,
) -> None:
    """Raise ValueError for names that are unknown and priors that are none, if not traced."""
    look_up(COVARIANCES, covariance, "covariance")
    if activation not in ("sigmoid", "logit"):
        raise ValueError(f"activation is 'sigmoid' or 'logit', not {activation!r}")
    limits = {"alpha_0": (alpha_0, 0), "kappa_0": (kappa_0, 0), "psi_0": (psi_0, 0)}
    limits["nu_above_d"] = (nu_above_d, -1)
    for name, (value, limit) in limits.items():
        if not isinstance(value, jax.core.Tracer) and value <= limit:
            raise ValueError(f"{name} is above {limit}, not {value}")
