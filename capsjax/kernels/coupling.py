"""Coupling coefficients and weighted poses in one pass: for routing without votes on a GPU.

XLA makes five passes over arrays as large as the votes, or a tenth of them, for what follows from
each number alone: the logits, their softmax over the upper capsules, and c_ij u_ip.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from capsjax.kernels import triton

# Lower capsules, of an image or of neighbouring ones, that a program takes at once, and the most
# numbers of a pose and upper capsules with which its registers suffice.
MOST_NUMBERS = {512: 18, 256: 22}
# A program has four warps, of 32 threads each: a smaller one would leave some without work.
FEWEST = 128


def kernel_weighs(pulled: tuple[int, ...]) -> bool:
    """Return whether `weigh` runs here, and for an array of such a shape, (p, j, n, i)."""
    p, j, n, i = pulled
    fits = p + j <= max(MOST_NUMBERS.values()) and n * i > 0 and n * i % FEWEST == 0
    return fits and triton.runs()


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def weigh(
    leaky: bool,
    pulled: Float[Array, "p j n i"],
    u: Float[Array, "n p i"],
) -> tuple[Float[Array, "p j n i"], Float[Array, "j n i"]]:
    """Weigh poses by coupling coefficients, which are constants to the gradient.

        b_ji = Σ_p pulled_pji u_pi;  c_ji = softmax_j(b_ji);  weighted_pji = c_ji u_pi

    Args:
      leaky: as in `dynamic_routing`.
      pulled: W times the poses of the upper capsules.
      u: poses of the lower capsules.

    Returns:
      The weighted poses, of the type of `pulled`, and the couplings.
    """
    return _forward(leaky, pulled, u)[0]


def _forward(leaky, pulled, u):
    p, j, n, i = pulled.shape
    size = n * i
    block = max(block for block, most in MOST_NUMBERS.items() if p + j <= most)
    block = min(block, size & -size)
    pl, _ = triton.pallas()

    def kernel(pulled, u, weighted, couplings):
        at = pl.ds(pl.program_id(0) * block, block)
        pose = [u[index, at] for index in range(p)]
        b = [
            sum(pulled[index, upper, at].astype(jnp.float32) * pose[index] for index in range(p))
            for upper in range(j)
        ]
        largest = functools.reduce(jnp.maximum, b)
        largest = jnp.maximum(largest, 0.0) if leaky else largest
        e = [jnp.exp(logit - largest) for logit in b]
        share = 1.0 / (sum(e) + (jnp.exp(-largest) if leaky else 0.0))
        for upper in range(j):
            c = e[upper] * share
            couplings[upper, at] = c
            for index in range(p):
                weighted[index, upper, at] = (c * pose[index]).astype(weighted.dtype)

    shapes = [
        jax.ShapeDtypeStruct((p, j, size), pulled.dtype),
        jax.ShapeDtypeStruct((j, size), jnp.float32),
    ]
    call = triton.call_kernel(kernel, shapes, (size // block,), warps=4, name="couple")
    weighted, c = call(pulled.reshape(p, j, size), u.transpose(1, 0, 2).reshape(p, size))
    c = c.reshape(j, n, i)
    return (weighted.reshape(pulled.shape), c), c


def _backward(leaky, c, cotangents):
    del leaky
    weighted, _ = cotangents
    du = jnp.sum(c[None] * weighted.astype(jnp.float32), axis=1)
    return jnp.zeros_like(weighted), du.transpose(1, 0, 2)


weigh.defvjp(_forward, _backward)
