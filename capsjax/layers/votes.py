"""Votes of lower capsules on the poses of upper ones: one class for each kind, and their names."""

import dataclasses
import math
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from capsjax import registry
from capsjax.ops import predict_votes
from capsjax.products import OperandType


@runtime_checkable
class Votes(Protocol):
    """The interface of all kinds of votes: a hashable value, a frozen dataclass of its settings."""

    def shape_of_matrices(self, i: int, j: int, d: int, p: int) -> tuple[int, ...]:
        """Return W's shape, i first, for i lower and j upper capsules of p and d dimensions."""

    def __call__(self, u: Array, W: Array, dtype: OperandType) -> Array:
        """Compute votes (..., i, j, d) from poses u (..., i, p)."""


@dataclasses.dataclass(frozen=True)
class FullVotes:
    """Votes by a full matrix (d, p) for each pair of capsules.

    Source: Sabour et al. 2017, equation 2.
    """

    def shape_of_matrices(self, i: int, j: int, d: int, p: int) -> tuple[int, ...]:
        return (i, j, d, p)

    def __call__(
        self, u: Float[Array, "*batch i p"], W: Float[Array, "i j d p"], dtype: OperandType
    ) -> Float[Array, "*batch i j d"]:
        return predict_votes(u, W, dtype)


@dataclasses.dataclass(frozen=True)
class MatrixVotes:
    """Votes of poses that are square matrices, by matrices of the same size: V_ij = M_i W_ij.

    A pose of p = r·r numbers is read row by row; with r = 4 a pair needs 16 weights, not 256.

    Source: Hinton et al. 2018, section 2.
    """

    def shape_of_matrices(self, i: int, j: int, d: int, p: int) -> tuple[int, ...]:
        r = math.isqrt(p)
        if r * r != p or d != p:
            raise ValueError(
                f"matrix votes need poses of one square number of dimensions, not {p} and {d}"
            )
        return (i, j, r, r)

    def __call__(
        self, u: Float[Array, "*batch i p"], W: Float[Array, "i j r q"], dtype: OperandType
    ) -> Float[Array, "*batch i j d"]:
        del dtype  # 4 x 4 products are too small for an accelerator's units
        *batch, i, _ = u.shape
        j, r = W.shape[1:3]
        # One product for each child, whose gradients need its votes in the same order.
        rows = jnp.moveaxis(u.reshape(-1, i, r, r), 1, 0).reshape(i, -1, r)
        columns = W.transpose(0, 2, 1, 3).reshape(i, r, j * r)
        votes = _products(rows, columns).reshape(i, *batch, r, j, r)
        return jnp.moveaxis(votes, (0, -2), (-4, -3)).reshape(*batch, i, j, r * r)


@jax.custom_vjp
def _products(rows: Float[Array, "i m r"], columns: Float[Array, "i r k"]) -> Float[Array, "i m k"]:
    return jnp.einsum("imr,irk->imk", rows, columns)


def _gradients_of_products(operands: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    rows, columns = operands
    return jnp.einsum("imk,irk->imr", g, columns), jnp.einsum("imr,imk->irk", rows, g)


_products.defvjp(lambda *operands: (_products(*operands), operands), _gradients_of_products)


VOTES = {"full": FullVotes, "matrix": MatrixVotes}


def register(name: str, votes: type) -> type:
    """Register a kind of votes for the setting `votes` of capsule layers.

    Raises:
      ValueError: for a name that is taken, or a class that is no dataclass.
    """
    return registry.register_component(VOTES, name, votes, "kind of votes")
