"""Moments of votes under weights, and distances from them, with gradients that hold no more.

Arrays of the size of the votes are (..., j, i, d), parents first: a sum over the children or over
the dimensions of a pose is then a batch of products of a vector and a matrix, which a CPU computes
as fast as it reads the votes. Its fused loops take up to seven times as long. An accelerator would
round the operands of products, and hold them, so that it sums in loops.

The gradients are written out: derived from these sums, they hold deviations and their squares.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def weighted_sum(
    w: Float[Array, "*batch j i"], x: Float[Array, "*batch j i d"]
) -> Float[Array, "*batch j d"]:
    """Sum over the children: Σ_i w_ji x_jid.

    Args:
      w: a weight for each pair of capsules.
      x: votes.

    >>> weighted_sum(jnp.array([[1.0, 2.0]]), jnp.array([[[3.0], [4.0]]])).tolist()
    [[11.0]]
    """
    return _over_children(w, x)


@jax.custom_vjp
def weighted_squares(
    w: Float[Array, "*batch j i"],
    x: Float[Array, "*batch j i d"],
    centre: Float[Array, "*batch j d"],
) -> Float[Array, "*batch j d"]:
    """Sum squared deviations over the children: Σ_i w_ji (x_jid - centre_jd)².

    Args:
      w: a weight for each pair of capsules.
      x: votes.
      centre: what they deviate from, such as their mean.

    >>> x, centre = jnp.array([[[3.0], [4.0]]]), jnp.array([[2.0]])
    >>> weighted_squares(jnp.array([[1.0, 2.0]]), x, centre).tolist()
    [[9.0]]
    """
    return _over_children(w, jnp.square(_deviations(x, centre)))


@jax.custom_vjp
def squared_distances(
    x: Float[Array, "*batch j i d"],
    centre: Float[Array, "*batch j d"],
    precision: Float[Array, "*batch j d"],
) -> Float[Array, "*batch j i"]:
    """Sum squared deviations over the dimensions: Σ_d (x_jid - centre_jd)² precision_jd.

    Args:
      x: votes.
      centre: what they deviate from, such as their mean.
      precision: a weight for each dimension, such as 1 / variance.

    >>> x, centre = jnp.array([[[3.0], [4.0]]]), jnp.array([[2.0]])
    >>> squared_distances(x, centre, jnp.array([[0.5]])).tolist()
    [[0.5, 2.0]]
    """
    return _over_dimensions(jnp.square(_deviations(x, centre)), precision)


def _gradient_of_sum(operands: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    w, x = operands
    return _over_dimensions(x, g), w[..., None] * g[..., None, :]


def _gradient_of_squares(operands: tuple[Array, ...], g: Array) -> tuple[Array, Array, Array]:
    w, x, centre = operands
    x = _deviations(x, centre)
    of_x = w[..., None] * x * (2 * g)[..., None, :]
    return _over_dimensions(jnp.square(x), g), of_x, -2 * g * _over_children(w, x)


def _gradient_of_distances(operands: tuple[Array, ...], g: Array) -> tuple[Array, Array, Array]:
    x, centre, precision = operands
    x = _deviations(x, centre)
    of_x = g[..., None] * x * (2 * precision)[..., None, :]
    of_centre = -2 * precision * _over_children(g, x)
    return of_x, of_centre, _over_children(g, jnp.square(x))


for function, gradient in (
    (weighted_sum, _gradient_of_sum),
    (weighted_squares, _gradient_of_squares),
    (squared_distances, _gradient_of_distances),
):
    function.defvjp(lambda *operands, function=function: (function(*operands), operands), gradient)


def _deviations(x: Array, centre: Array) -> Array:
    return x - centre[..., None, :]


def _over_children(w: Array, x: Array) -> Array:
    if jax.default_backend() == "cpu":
        return jnp.einsum("...ji,...jid->...jd", w, x)
    return jnp.sum(w[..., None] * x, axis=-2)


def _over_dimensions(x: Array, y: Array) -> Array:
    if jax.default_backend() == "cpu":
        return jnp.einsum("...jid,...jd->...ji", x, y)
    return jnp.sum(x * y[..., None, :], axis=-1)
