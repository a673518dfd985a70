"""Elementary operations on capsules: norm, squash, votes and masks.

Every function works on arrays with any leading axes. In float32 and bfloat16 its gradient is finite
at all vectors shorter than 1e18, zero vectors included; the squares of longer ones are infinite.
float16 is too narrow for squares and for eps: the squashes compute its vectors in float32.
"""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from capsjax.products import OperandType, product

EpsPlacement = Literal["root", "norm"]
SquashName = Literal["rational", "exponential"]


def safe_norm(
    s: Float[Array, "..."], axis: int = -1, keepdims: bool = False, eps: float = 1e-7
) -> Float[Array, "..."]:
    """Compute the Euclidean length, with a finite gradient at zero.

        |s| = sqrt(sum_k s_k² + eps)

    eps is inside the root: the derivative of the bare root is infinite at zero, and its product
    with the derivative of the square, which is zero, is NaN. With eps = 0 the value is the
    exact length and the gradient at a zero vector is taken to be zero.

    Args:
      s: vectors, along `axis`.
      axis: the axis of the vectors' components.
      keepdims: whether the result keeps `axis` with size 1.
      eps: added to the squared length; 0 for the exact length.

    Returns:
      The lengths, shaped like `s` without `axis`.

    >>> float(safe_norm(jnp.array([3.0, 4.0])))
    5.0
    """
    squared = jnp.sum(jnp.square(s), axis=axis, keepdims=keepdims)
    if eps:
        return jnp.sqrt(squared + eps)
    # Both branches of a `where` are differentiated, so the root is never taken of zero.
    nonzero = squared > 0
    return jnp.where(nonzero, jnp.sqrt(jnp.where(nonzero, squared, 1.0)), 0.0)


def squash(
    s: Float[Array, "..."], axis: int = -1, eps: float = 1e-7, *, eps_at: EpsPlacement = "root"
) -> Float[Array, "..."]:
    """Shrink vectors to a length below one and keep their direction.

        squash(s) = |s|² / (1 + |s|²) · s / |s|

    Differs from the paper by eps, which keeps the gradient finite at s = 0. Published
    implementations put it in one of two places, which `eps_at` selects.

    Args:
      s: vectors, along `axis`.
      axis: the axis of the vectors' components.
      eps: the small number.
      eps_at: "root" divides by sqrt(|s|² + eps), "norm" by |s| + eps.

    Returns:
      Vectors shaped like `s`, each of length below one.

    Raises:
      ValueError: for another `eps_at`, or an eps that is not above 0.

    Source: Sabour et al. 2017, equation 1.

    >>> round(float(safe_norm(squash(jnp.array([0.0, 3.0])))), 4)
    0.9
    """
    if eps <= 0:
        raise ValueError(f"eps is above 0, not {eps}: without it squash(0) is 0/0")
    if s.dtype == jnp.float16:
        return squash(s.astype(jnp.float32), axis, eps, eps_at=eps_at).astype(s.dtype)
    squared = jnp.sum(jnp.square(s), axis=axis, keepdims=True)
    shrunk = squared / (1.0 + squared)
    # In these orders, because (1 + |s|²) · |s| overflows for long vectors, also where XLA makes it.
    if eps_at == "root":
        return shrunk / jnp.sqrt(squared + eps) * s
    if eps_at == "norm":
        return shrunk * (s / (safe_norm(s, axis=axis, keepdims=True, eps=0.0) + eps))
    raise ValueError(f"eps_at is 'root' or 'norm', not {eps_at!r}")


def exponential_squash(s: Float[Array, "..."], axis: int = -1) -> Float[Array, "..."]:
    """Shrink vectors to a length below one, short ones hardly at all, and keep their direction.

        squash(s) = (1 - exp(-|s|)) s / |s|

    Its Jacobian at s = 0 is the identity, where that of `squash` is zero.

    Args:
      s: vectors, along `axis`.
      axis: the axis of the vectors' components.

    Returns:
      Vectors shaped like `s`, each of length at most one.

    Source: Mazzia et al. 2021, section "Self-attention routing".

    >>> round(float(safe_norm(exponential_squash(jnp.array([0.0, 3.0])))), 4)
    0.9502
    """
    if s.dtype == jnp.float16:
        return exponential_squash(s.astype(jnp.float32), axis).astype(s.dtype)
    norm = safe_norm(s, axis=axis, keepdims=True, eps=0.0)
    # The derivative of the quotient divides by |s|², which must not be 0 in single precision.
    short = norm < 1e-15
    norm = jnp.where(short, 1.0, norm)
    return jnp.where(short, 1.0, -jnp.expm1(-norm) / norm) * s


def make_squash(
    name: SquashName = "rational", eps: float = 1e-7, eps_at: EpsPlacement = "root"
) -> Callable[[Array], Array]:
    """Return the squash of a given name, as a function of vectors along the last axis.

    Args:
      name: "rational" for `squash`, "exponential" for `exponential_squash`.
      eps, eps_at: as in `squash`; without effect on the other one.

    Raises:
      ValueError: for another name.

    >>> round(float(make_squash("rational")(jnp.array([0.0, 3.0]))[1]), 4)
    0.9
    """
    if name == "rational":
        return functools.partial(squash, eps=eps, eps_at=eps_at)
    if name == "exponential":
        return exponential_squash
    raise ValueError(f"squash is 'rational' or 'exponential', not {name!r}")


def standardize(x: Float[Array, "..."], eps: float = 1e-5) -> Float[Array, "..."]:
    """Shift and scale vectors, along the last axis, to mean 0 and variance 1.

    Vectors of one component are returned unchanged: their difference from the mean is 0.

    Args:
      x: vectors, (..., d).
      eps: added to the variance.

    Source: Ba et al. 2016, without the learned scale and bias.

    >>> standardize(jnp.array([1.0, 3.0])).round(3).tolist()
    [-1.0, 1.0]
    """
    if x.shape[-1] == 1:
        return x
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred * lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + eps)


def predict_votes(
    u: Float[Array, "*batch i p"], W: Float[Array, "i j d p"], dtype: OperandType = "float32"
) -> Float[Array, "*batch i j d"]:
    """Compute prediction vectors: the pose of each upper capsule that each lower one expects.

        u_hat_j|i = W_ij u_i

    Args:
      u: poses of the lower capsules, (..., i, p).
      W: transformation matrices, (i, j, d, p), shared by all leading axes of `u`.
      dtype: what u and W are rounded to before they are multiplied; sums are float32.

    Returns:
      The votes, (..., i, j, d).

    Raises:
      ValueError: if the numbers of lower capsules or pose dimensions disagree.

    Source: Sabour et al. 2017, equation 2.

    >>> predict_votes(jnp.ones((5, 3, 8)), jnp.ones((3, 10, 16, 8))).shape
    (5, 3, 10, 16)
    """
    check_votes(u, W)
    if dtype == "float32":
        return jnp.einsum("...ip,ijdp->...ijd", u, W)
    votes = product("nip,ijdp->nijd", u.reshape(-1, *u.shape[-2:]), W, dtype)
    return votes.reshape(*u.shape[:-2], *votes.shape[1:])


def check_votes(u: Array, W: Array) -> None:
    """Raise ValueError if poses u (..., i, p) do not fit matrices W (i, j, d, p)."""
    if W.ndim != 4 or u.ndim < 2 or (W.shape[0], W.shape[3]) != u.shape[-2:]:
        raise ValueError(
            f"u of shape (..., i, p) = {u.shape} does not fit W of shape (i, j, d, p) = {W.shape}"
        )


def mask_of_labels(labels: Int[Array, "*batch"], num_classes: int) -> Float[Array, "*batch j"]:
    """Make a one-hot mask that selects the capsule of each label.

    >>> mask_of_labels(jnp.array([2]), 4).tolist()
    [[0.0, 0.0, 1.0, 0.0]]
    """
    return jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)


def mask_of_longest(lengths: Float[Array, "*batch j"]) -> Float[Array, "*batch j"]:
    """Make a one-hot mask that selects the longest capsule, the first of equals.

    >>> mask_of_longest(jnp.array([[0.2, 0.9, 0.9]])).tolist()
    [[0.0, 1.0, 0.0]]
    """
    return mask_of_labels(jnp.argmax(lengths, axis=-1), lengths.shape[-1])


def mask_poses(
    v: Float[Array, "*batch j d"], mask: Float[Array, "*batch j"]
) -> Float[Array, "*batch j d"]:
    """Set to zero the poses of all capsules but those that the mask selects.

    Args:
      v: poses, (..., j, d).
      mask: 1 for a capsule to keep and 0 for one to set to zero, (..., j).

    Returns:
      The masked poses, (..., j, d).

    Source: Sabour et al. 2017, section 4.1.

    >>> mask_poses(jnp.ones((2, 1)), jnp.array([0.0, 1.0])).tolist()
    [[0.0], [1.0]]
    """
    return v * mask[..., None]
