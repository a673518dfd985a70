"""Dynamic routing that never holds the votes.

The votes of a batch are the largest array of a capsule network: 94 MB for the paper's at batch
128, and 40 times as much for images of 96x96 pixels. Routing needs them for two things alone,
and both are had from the poses u and the matrices W, one upper capsule j at a time:

    s_j  = Σ_i c_ij û_j|i           = Σ_ip (c_ij u_ip) W_ijdp
    b_ij = û_j|i · (v_j + v_j' + …) = Σ_p u_ip (Σ_d W_ijdp (v_jd + v_jd' + …))

The logits are a sum over rounds of û · v with the same û: so the sum of the poses of the rounds
so far is all that one round hands to the next. It is more arithmetic than with held votes, but
in matrix products whose operands stay in the cache; and their gradient is of the same kind.
"""

import functools
import math
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from capsjax.chunks import join, split
from capsjax.notation import Routed
from capsjax.ops import EpsPlacement, check_votes, safe_norm, squash
from capsjax.routing.rounds import repeat_rounds

# Of c_ij u_i for one upper capsule and as many images as are routed at once: it should stay in
# the cache, but W is read once for each such group of images, so there should not be few.
MAX_GROUP_BYTES = 16 * 2**20
MIN_GROUP = 32


def dynamic_routing_from_poses(
    u: Float[Array, "*batch i p"],
    W: Float[Array, "i j d p"],
    num_iterations: int | Int[Array, ""] = 3,
    *,
    bias: Float[Array, "j d"] | None = None,
    gradient: str = "stop",
    max_iterations: int | None = None,
    leaky: bool = False,
    eps: float = 1e-7,
    eps_at: EpsPlacement = "root",
) -> Routed:
    """`dynamic_routing(predict_votes(u, W), ...)` without the votes, equal but for rounding.

    Args:
      u: poses of the lower capsules, (..., i, p).
      W: transformation matrices, (i, j, d, p).
      num_iterations: rounds, checked by the caller.
      bias, gradient, max_iterations, leaky, eps, eps_at: as in `dynamic_routing`.

    Returns:
      Routed(v, a, c) as `dynamic_routing` does.

    Raises:
      ValueError: if u and W do not fit.

    >>> dynamic_routing_from_poses(jnp.ones((2, 6, 8)), jnp.ones((6, 3, 4, 8))).v.shape
    (2, 3, 4)
    """
    check_votes(u, W)
    *batch, i, p = u.shape
    # The axis of the lower capsules stands last, because it is long: (n, p, i) and (j, d, p·i).
    # Behind a barrier, because XLA would transpose W anew for each of its readers, 3 ms each.
    u = u.reshape(math.prod(batch), i, p).transpose(0, 2, 1)
    u, W = lax.optimization_barrier((u, W.transpose(1, 2, 3, 0)))
    j, d = W.shape[:2]
    if bias is None:
        bias = jnp.zeros((j, d), u.dtype)
    route_group = functools.partial(
        _route_group,
        W=W.reshape(j, d, p * i),
        bias=bias,
        num_iterations=num_iterations,
        gradient=gradient,
        max_iterations=max_iterations,
        leaky=leaky,
        squash=functools.partial(squash, eps=eps, eps_at=eps_at),
    )

    def route(u: Array) -> tuple[Array, Array]:
        v, c = route_group(u)
        return v.transpose(1, 0, 2), c.transpose(1, 2, 0)

    n, size = len(u), _size_of_groups(*u.shape)
    v, c = route(u) if size == n else (join(x, n) for x in lax.map(route, split(u, size)))
    v, c = v.reshape(*batch, j, d), c.reshape(*batch, i, j)
    return Routed(v=v, a=safe_norm(v, eps=eps if eps_at == "root" else 0.0), c=c)


def _size_of_groups(n: int, p: int, i: int) -> int:
    """How many images are routed at once: groups of equal size."""
    groups = max(1, -(-n // max(MIN_GROUP, MAX_GROUP_BYTES // (4 * p * i))))
    return -(-n // groups)


def _route_group(
    u, W, bias, num_iterations, gradient, max_iterations, leaky, squash
) -> tuple[Array, Array]:
    """Poses (j, n, d) and coupling coefficients (j, n, i) for u (n, p, i) and W (j, d, p·i)."""
    n, p, i = u.shape
    num_upper, d, _ = W.shape
    bias = bias[:, None]

    def alike(u: Array, W: Array, bias: Array) -> tuple[Array, Array]:
        """The first round, whose logits are zero: one product for all upper capsules."""
        c = 1.0 / (num_upper + leaky)
        s = c * (u.reshape(n, p * i) @ W.reshape(num_upper * d, -1).T)
        s = s.reshape(n, num_upper, d).transpose(1, 0, 2)
        return squash(s + bias), jnp.full((num_upper, n, i), c, u.dtype)

    def agreeing(total: Array, u: Array, W: Array) -> Array:
        """Coupling coefficients, from the sum of the poses of all rounds so far (j, n, d)."""
        return couple(lax.map(lambda of_j: _agreement(*of_j, u), (total, W)), leaky)

    def send(c: Array, u: Array, W: Array, bias: Array) -> Array:
        return squash(lax.map(lambda of_j: _weighted_sum(*of_j, u), (c, W)) + bias)

    # What the coupling coefficients are computed from: under "stop" the gradient ends here.
    seen = (u, W, bias) if gradient == "full" else lax.stop_gradient((u, W, bias))

    def next_round(total: Array) -> Array:
        return total + send(agreeing(total, *seen[:2]), *seen)

    if isinstance(num_iterations, int):
        if num_iterations == 1:
            return alike(u, W, bias)
        total = repeat_rounds(next_round, alike(*seen)[0], num_iterations - 2)
    else:
        # No pose at all makes logits of zero: the first round, if there is only one.
        most = None if max_iterations is None else max_iterations - 1
        none = jnp.zeros((num_upper, n, d))
        total = repeat_rounds(next_round, none, num_iterations - 1, most)
    c = agreeing(total, *seen[:2])
    return send(c, u, W, bias), c


# Both are recomputed for a gradient: what they hold is as large as the votes of capsule j.


@jax.checkpoint
def _agreement(total: Array, W: Array, u: Array) -> Array:
    """Logits (n, i) of an upper capsule, from poses (n, d), W (d, p·i) and u (n, p, i)."""
    pulled = (total @ W).reshape(u.shape)
    # Term by term: XLA's reduction over this short axis takes three times as long on a CPU.
    return _sum([pulled[:, p] * u[:, p] for p in range(u.shape[1])])


@jax.checkpoint
def _weighted_sum(c: Array, W: Array, u: Array) -> Array:
    """The sum (n, d) of an upper capsule's votes, weighted by c (n, i)."""
    return (c[:, None] * u).reshape(len(u), W.shape[1]) @ W.T


def couple(b: Float[Array, "j *rest"], leaky: bool = False) -> Float[Array, "j *rest"]:
    """Softmax over the first axis; leaky: and over one more logit, which is zero.

    Written term by term, for the reason above.

    >>> couple(jnp.zeros((3, 1)), leaky=True)[0, 0].item()
    0.25
    """
    zero = [jnp.zeros_like(b[0])] if leaky else []
    largest = lax.stop_gradient(functools.reduce(jnp.maximum, [*b, *zero]))
    e = jnp.exp(b - largest[None])
    return e / _sum([*e, *(jnp.exp(-largest) for _ in zero)])[None]


def _sum(terms: Sequence[Array]) -> Array:
    return functools.reduce(operator.add, terms)
