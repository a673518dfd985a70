"""Dynamic routing that never stores the votes.

The votes of a batch are the largest array of a capsule network: 94 MB for the paper's at batch
128, and 40 times as much for images of 96x96 pixels. Routing needs them for only two things, and
both follow from the poses u and the matrices W:

    s_j  = Σ_i c_ij û_j|i           = Σ_ip (c_ij u_ip) W_ijdp
    b_ij = û_j|i · (v_j + v_j' + …) = Σ_p u_ip (Σ_d W_ijdp (v_jd + v_jd' + …))

The logits are a sum over rounds of û · v with the same û, so a round passes on only the sum of the
poses of the rounds so far. This takes more arithmetic than stored votes do, but in matrix
products, and so does its gradient. A CPU computes one upper capsule at a time, so that operands
stay in the cache, an accelerator all at once.
"""

import functools
import math
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from capsjax.kernels.chunks import join, split
from capsjax.kernels.coupling import kernel_weighs, weigh
from capsjax.kernels.rearrangement import rearrange
from capsjax.notation import Routed
from capsjax.ops import EpsPlacement, SquashName, check_votes, make_squash, safe_norm
from capsjax.products import OPERAND_TYPES, OperandType, large_result, product
from capsjax.rounds import repeat_rounds

# Bytes of c_ij u_i in memory at once where one upper capsule is computed at a time: they should
# stay in the cache, but W is read once for each group of images, so a group should not be small.
MAX_GROUP_BYTES = 16 * 2**20
MIN_GROUP = 32
# The same where all upper capsules are computed at once: a 12 GB card should fit several of them.
MAX_BYTES_AT_ONCE = 512 * 2**20


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
    squash: SquashName = "rational",
    dtype: OperandType = "float32",
    at_once: bool | None = None,
) -> Routed:
    """Compute `dynamic_routing(predict_votes(u, W), ...)` without votes, equal up to rounding.

    Args:
      u: poses of the lower capsules, (..., i, p).
      W: transformation matrices, (i, j, d, p).
      num_iterations: number of rounds, checked by the caller.
      bias, gradient, max_iterations, leaky, eps, eps_at, squash: as in `dynamic_routing`.
      dtype: type that the operands of products are rounded to where all upper capsules are
        computed at once; one at a time they are float32.
      at_once: compute all upper capsules at once; None for what suits the default device.

    Returns:
      Routed(v, a, c), as `dynamic_routing` does.

    Raises:
      ValueError: if u and W do not fit.

    >>> dynamic_routing_from_poses(jnp.ones((2, 6, 8)), jnp.ones((6, 3, 4, 8))).v.shape
    (2, 3, 4)
    """
    check_votes(u, W)
    if at_once is None:
        at_once = jax.default_backend() != "cpu"
    *batch, i, p = u.shape
    j, d = W.shape[1:3]
    form = AllAtOnce(dtype) if at_once else OneAtATime()
    # Behind a barrier, because XLA would transpose W anew for each of its readers.
    u, W = lax.optimization_barrier(form.lay_out(u.reshape(math.prod(batch), i, p), W))
    route_group = functools.partial(
        _route_group,
        W=W,
        form=form,
        bias=jnp.zeros((j, 1, d)) if bias is None else bias[:, None],
        num_iterations=num_iterations,
        gradient=gradient,
        max_iterations=max_iterations,
        leaky=leaky,
        shrink=make_squash(squash, eps, eps_at),
    )

    def route(u: Array) -> tuple[Array, Array]:
        v, c = route_group(u)
        return v.transpose(1, 0, 2), c.transpose(1, 2, 0)

    n, size = len(u), form.size_of_groups(math.prod(batch), j, i, p)
    v, c = route(u) if size >= n else (join(x, n) for x in lax.map(route, split(u, size)))
    v, c = v.reshape(*batch, j, d), c.reshape(*batch, i, j)
    return Routed(v=v, a=safe_norm(v, eps=eps if eps_at == "root" else 0.0), c=c)


def _route_group(
    u, W, form, bias, num_iterations, gradient, max_iterations, leaky, shrink
) -> tuple[Array, Array]:
    """Return poses (j, n, d) and couplings (j, n, i), from u and W as the form lays them out."""

    def first_round(u: Array, W: Array, bias: Array) -> tuple[Array, Array]:
        """Compute the first round, whose logits are zero: one product for all upper capsules."""
        c = 1.0 / (len(bias) + leaky)
        couplings = jnp.full((len(bias), len(u), u.shape[-1]), c, u.dtype)
        return shrink(c * form.sum_of_votes(u, W) + bias), couplings

    def later_round(total: Array, u: Array, W: Array, bias: Array) -> tuple[Array, Array]:
        """Compute a round from the sum of all rounds' poses so far (j, n, d)."""
        s, c = form.routed_sum(total, u, W, gradient, leaky)
        return shrink(s + bias), c

    # What all rounds but the last are computed from: under "stop" the gradient ends here.
    constants = (u, W, bias) if gradient == "full" else lax.stop_gradient((u, W, bias))

    def next_round(total: Array) -> Array:
        return total + later_round(total, *constants)[0]

    if isinstance(num_iterations, int):
        if num_iterations == 1:
            return first_round(u, W, bias)
        total = repeat_rounds(next_round, first_round(*constants)[0], num_iterations - 2)
    else:
        # Poses of zero give logits of zero: the first round, if there is only one.
        most = None if max_iterations is None else max_iterations - 1
        none = jnp.zeros((len(bias), len(u), bias.shape[-1]))
        total = repeat_rounds(next_round, none, num_iterations - 1, most)
    return later_round(total, u, W, bias)


class _Form:
    """What both ways to compute routing's sums have in common."""

    def routed_sum(
        self, total: Float[Array, "j n d"], u: Array, W: Array, gradient: str, leaky: bool
    ) -> tuple[Float[Array, "j n d"], Float[Array, "j n i"]]:
        """Return the weighted sums of votes and their couplings, from the poses so far.

        Under "stop" the couplings are constants to the gradient.
        """
        constants = (u, W) if gradient == "full" else lax.stop_gradient((u, W))
        c = couple(self.logits(total, *constants), leaky)
        return self.weighted_sum(c, u, W), c


class OneAtATime(_Form):
    """Routing's sums for one upper capsule at a time, in float32.

    u is (n, p, i) and W (j, d, p·i).
    """

    def lay_out(self, u: Array, W: Array) -> tuple[Array, Array]:
        """Return u (n, i, p) and W (i, j, d, p) in the layout of the other methods."""
        i, j, d, p = W.shape
        # Once, and when the poses are there: XLA would do it early, and for each reader anew.
        W = rearrange(lambda W: W.transpose(1, 2, 3, 0), W, after=u)
        return u.transpose(0, 2, 1), W.reshape(j, d, p * i)

    def size_of_groups(self, n: int, j: int, i: int, p: int) -> int:
        """Return how many images are routed at once, in groups of equal size."""
        del j
        groups = max(1, -(-n // max(MIN_GROUP, MAX_GROUP_BYTES // (4 * p * i))))
        return -(-n // groups)

    def sum_of_votes(self, u: Array, W: Array) -> Float[Array, "j n d"]:
        """Return the sum of all votes for each upper capsule."""
        (j, d, k), n = W.shape, len(u)
        s = u.reshape(n, k) @ W.reshape(j * d, k).T
        return s.reshape(n, j, d).transpose(1, 0, 2)

    def logits(self, total: Float[Array, "j n d"], u: Array, W: Array) -> Float[Array, "j n i"]:
        """Return the agreement of votes with poses: û · total."""
        return lax.map(lambda of_j: _logits_of_one(*of_j, u), (total, W))

    def weighted_sum(self, c: Float[Array, "j n i"], u: Array, W: Array) -> Float[Array, "j n d"]:
        """Return the sum of votes, weighted by c."""
        return lax.map(lambda of_j: _weighted_sum_of_one(*of_j, u), (c, W))


# Both are recomputed for a gradient: their intermediates are as large as the votes of capsule j.


@jax.checkpoint
def _logits_of_one(total: Array, W: Array, u: Array) -> Array:
    """Return an upper capsule's logits (n, i) from poses (n, d), W (d, p·i) and u (n, p, i)."""
    pulled = (total @ W).reshape(u.shape)
    # Term by term: XLA's reduction over this short axis takes three times as long on a CPU.
    return sum_of([pulled[:, p] * u[:, p] for p in range(u.shape[1])])


@jax.checkpoint
def _weighted_sum_of_one(c: Array, W: Array, u: Array) -> Array:
    """Return the sum (n, d) of an upper capsule's votes, weighted by c (n, i)."""
    return (c[:, None] * u).reshape(len(u), W.shape[1]) @ W.T


class AllAtOnce(_Form):
    """Routing's sums for all upper capsules at once: u is (n, p, i) and W (p, j, d, i).

    The products are batched over p and j, so that there are enough of them for an accelerator, and
    their results are summed over p afterwards.

    Args:
      dtype: type that operands are rounded to, and that arrays as large as the votes have.
    """

    def __init__(self, dtype: OperandType):
        self._dtype, self._held = dtype, large_result(dtype)

    def lay_out(self, u: Array, W: Array) -> tuple[Array, Array]:
        """Return u (n, i, p) and W (i, j, d, p) in the layout of the other methods."""
        dtype = OPERAND_TYPES[self._dtype]
        return u.transpose(0, 2, 1), W.transpose(3, 1, 2, 0).astype(dtype)

    def size_of_groups(self, n: int, j: int, i: int, p: int) -> int:
        """Return how many images are routed at once, in groups of equal size."""
        of_image = jnp.dtype(OPERAND_TYPES[self._held]).itemsize * j * i * p
        groups = max(1, -(-n // max(1, MAX_BYTES_AT_ONCE // of_image)))
        return -(-n // groups)

    def sum_of_votes(self, u: Array, W: Array) -> Float[Array, "j n d"]:
        """Return the sum of all votes for each upper capsule."""
        s = product("pni,pjdi->pnjd", u.transpose(1, 0, 2), W, self._dtype)
        return jnp.sum(s, axis=0).transpose(1, 0, 2)

    def logits(self, total: Float[Array, "j n d"], u: Array, W: Array) -> Float[Array, "j n i"]:
        """Return the agreement of votes with poses: û · total."""
        pulled = self._pulled(total, W)
        return sum_of([pulled[p].astype(jnp.float32) * u[:, p][None] for p in range(len(W))])

    def weighted_sum(self, c: Float[Array, "j n i"], u: Array, W: Array) -> Float[Array, "j n d"]:
        """Return the sum of votes, weighted by c."""
        weighted_poses = (c[None] * u.transpose(1, 0, 2)[:, None]).astype(OPERAND_TYPES[self._held])
        return self._sum(weighted_poses, W)

    def routed_sum(
        self, total: Float[Array, "j n d"], u: Array, W: Array, gradient: str, leaky: bool
    ) -> tuple[Float[Array, "j n d"], Float[Array, "j n i"]]:
        """Return what `_Form` does, by a kernel where there is one."""
        (p, j, _, i), n = W.shape, len(u)
        if gradient == "full" or self._held == "float32" or not kernel_weighs((p, j, n, i)):
            return super().routed_sum(total, u, W, gradient, leaky)
        pulled = self._pulled(*lax.stop_gradient((total, W)))
        weighted_poses, c = weigh(leaky, pulled, u)
        return self._sum(weighted_poses, W), c

    def _pulled(self, total: Array, W: Array) -> Float[Array, "p j n i"]:
        of_each = jnp.broadcast_to(total, (len(W), *total.shape))
        return product("pjnd,pjdi->pjni", of_each, W, self._dtype, self._held)

    def _sum(self, weighted_poses: Array, W: Array) -> Float[Array, "j n d"]:
        return jnp.sum(product("pjni,pjdi->pjnd", weighted_poses, W, self._dtype), axis=0)


def couple(b: Float[Array, "j *rest"], leaky: bool = False) -> Float[Array, "j *rest"]:
    """Take the softmax over the first axis; if leaky, with one more logit, which is zero.

    Written term by term, because XLA's reduction over a short axis is slow on a CPU.

    >>> couple(jnp.zeros((3, 1)), leaky=True)[0, 0].item()
    0.25
    """
    zero = [jnp.zeros_like(b[0])] if leaky else []
    largest = lax.stop_gradient(functools.reduce(jnp.maximum, [*b, *zero]))
    e = jnp.exp(b - largest[None])
    return e / sum_of([*e, *(jnp.exp(-largest) for _ in zero)])[None]


def sum_of(terms: Sequence[Array]) -> Array:
    """Add terms one by one."""
    return functools.reduce(operator.add, terms)
