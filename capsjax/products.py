"""Products with rounded operands: the processor's fast number type in, float32 out."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from capsjax.registry import look_up

OperandType = Literal["float32", "bfloat16"]
OPERAND_TYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def product(
    subscripts: str, a: Array, b: Array, dtype: OperandType = "float32"
) -> Float[Array, "..."]:
    """`jnp.einsum` of two float32 arrays whose operands are rounded to `dtype` first.

    Sums are accumulated, and the result is given, in float32. The gradient's two products have
    rounded operands too; without this rule JAX would multiply a float32 cotangent by a bfloat16
    operand, which runs at the speed of float32. The second's are not rounded on a CPU: it sums
    over the rows of both, and XLA turns such operands back to float32 there.

    Args:
      subscripts: as of einsum, such as "nk,km->nm". Each letter of an operand stands in the
        other or in the result, and none twice in one.
      a, b: the operands.
      dtype: "float32" or "bfloat16".

    Raises:
      ValueError: for another dtype.

    >>> float(product("k,k->", jnp.ones(3), jnp.full(3, 1.001), "bfloat16"))
    3.0
    """
    look_up(OPERAND_TYPES, dtype, "number type of operands")
    if dtype == "float32":
        return jnp.einsum(subscripts, a, b)
    return _rounded_product(subscripts, dtype, a, b)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _rounded_product(subscripts: str, dtype: str, a: Array, b: Array) -> Array:
    a, b = a.astype(OPERAND_TYPES[dtype]), b.astype(OPERAND_TYPES[dtype])
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.float32)


def _forward(subscripts, dtype, a, b):
    return _rounded_product(subscripts, dtype, a, b), (a, b)


def _backward(subscripts, dtype, operands, cotangent):
    (of_a, of_b), of_out = subscripts.split("->")[0].split(","), subscripts.split("->")[1]
    a, b = operands
    da = _rounded_product(f"{of_out},{of_b}->{of_a}", dtype, cotangent, b)
    dtype = "float32" if jax.default_backend() == "cpu" else dtype
    db = product(f"{of_a},{of_out}->{of_b}", a, cotangent, dtype)
    return da, db


_rounded_product.defvjp(_forward, _backward)
