"""The shared notation: symbols, axis letters, and the few common types.

Symbols are those of Sabour, Frosst and Hinton, "Dynamic Routing Between Capsules"
(2017, arXiv 1710.09829), and each is the name of a variable wherever it appears.

    symbol  shape         meaning                                             equation
    u       (..., i, p)   poses of the lower capsules                         2
    W       (i, j, d, p)  transformation matrices, one for each pair (i, j)   2
    u_hat   (..., i, j, d)  prediction vectors, or votes: u_hat_j|i = W_ij u_i  2
    b       (..., i, j)   routing logits                                      3
    c       (..., i, j)   coupling coefficients: c_i = softmax_j(b_i)         3
    s       (..., j, d)   weighted sum of votes: s_j = sum_i c_ij u_hat_j|i   2
    v       (..., j, d)   poses of the upper capsules: v_j = squash(s_j)      1
    a       (..., j)      activations of the upper capsules: here |v_j|       section 3

    axis  meaning                              axis  meaning
    n     images of a batch                    p     dimensions of a lower pose
    i     lower capsules                       d     dimensions of an upper pose
    j     upper capsules                       y x   rows and columns of the capsule grid
    k     classes                              h w c   rows, columns, channels of an image

The capsule axis stands before the pose axis; images are (n, h, w, c). "SSE" is the squared
error summed over the pixels of one image, "MSE" the same averaged over them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float

PRNGKey = jax.Array
Initializer = Callable[..., Array]


class Capsules(NamedTuple):
    """Capsules as they pass from layer to layer.

    Attributes:
      poses: (n, *grid, i, p): i capsules at each position of a grid (y, x), or without a grid.
      activations: confidence of each capsule, (n, *grid, i); the length of its pose, where that
        expresses confidence.
    """

    poses: Float[Array, "n *grid i p"]
    activations: Float[Array, "n *grid i"]


class Routed(NamedTuple):
    """The result of every routing algorithm.

    Attributes:
      v: poses of the upper capsules.
      a: activations of the upper capsules; for routing by agreement the length of v.
      c: coupling coefficients of the last round.
      logits: the routing logits behind them; None for an algorithm without any.
      memory: what the algorithm needs at the next call of its layer, where a network calls its
        layers several times; None for nothing.
    """

    v: Float[Array, "*batch j d"]
    a: Float[Array, "*batch j"]
    c: Float[Array, "*batch i j"]
    logits: Float[Array, "*batch i j"] | None = None
    memory: Any = None


class LearnedArray(NamedTuple):
    """An array that a routing algorithm learns: its layer declares it and passes it in."""

    shape: tuple[int, ...]
    init: Initializer


# Names of arrays of routing algorithms that keep their initial values.
CONSTANT = ("draws",)
