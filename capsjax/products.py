"""Products with rounded operands: the processor's fast number type in, float32 sums inside."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from capsjax.registry import look_up

OperandType = Literal["float32", "bfloat16"]
OPERAND_TYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def product(
    subscripts: str,
    a: Array,
    b: Array,
    dtype: OperandType = "float32",
    result: OperandType = "float32",
) -> Float[Array, "..."]:
    """Compute `jnp.einsum` of two operands that are first rounded to `dtype`.

    Sums are accumulated in float32. The gradient's two products have rounded operands too; without
    this rule JAX would multiply a float32 cotangent by a bfloat16 operand, which runs at the speed
    of float32. The second product's operands are not rounded on a CPU: it sums over the rows of
    both, and XLA turns such operands back to float32 there. Gradients have the types of the
    operands as given.

    Args:
      subscripts: einsum's subscripts, such as "nk,km->nm". Each letter of an operand also appears
        in the other or in the result, and none appears twice in one.
      a, b: the operands. Those that are neither float32 nor bfloat16 are turned to float32 first.
      dtype: type that the operands are rounded to, "float32" or "bfloat16".
      result: type that the result is rounded to; a large result in bfloat16 takes half the memory
        time on an accelerator and is slower on a CPU.

    Raises:
      ValueError: for an unknown dtype.

    >>> float(product("k,k->", jnp.ones(3), jnp.full(3, 1.001), "bfloat16"))
    3.0
    """
    look_up(OPERAND_TYPES, dtype, "number type of operands")
    if dtype == "float32" and result == "float32":
        return jnp.einsum(subscripts, a.astype(jnp.float32), b.astype(jnp.float32))
    # The gradient's products have results of the operands' types, which are these two.
    a, b = (x if x.dtype.name in OPERAND_TYPES else x.astype(jnp.float32) for x in (a, b))
    return _rounded_product(subscripts, dtype, result, (a.dtype.name, b.dtype.name), a, b)


def large_result(dtype: OperandType) -> OperandType:
    """Return the type for a large result of rounded operands that becomes an operand itself.

    On a CPU it is float32, because products that round their results are 2 to 6 times slower.
    """
    return "float32" if jax.default_backend() == "cpu" else dtype


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _rounded_product(subscripts: str, dtype: str, result: str, types, a: Array, b: Array) -> Array:
    del types
    a, b = a.astype(OPERAND_TYPES[dtype]), b.astype(OPERAND_TYPES[dtype])
    return jnp.einsum(subscripts, a, b, preferred_element_type=OPERAND_TYPES[result])


def _forward(subscripts, dtype, result, types, a, b):
    out = _rounded_product(subscripts, dtype, result, types, a, b)
    if jax.default_backend() == "cpu":
        return out, (a, b)
    # Kept until the gradient is computed: half as large when rounded.
    return out, (a.astype(OPERAND_TYPES[dtype]), b.astype(OPERAND_TYPES[dtype]))


def _backward(subscripts, dtype, result, types, operands, cotangent):
    del result
    (of_a, of_b), of_out = subscripts.split("->")[0].split(","), subscripts.split("->")[1]
    (a, b), (type_a, type_b) = operands, types
    da = _rounded_product(
        f"{of_out},{of_b}->{of_a}", dtype, type_a, ("float32", "float32"), cotangent, b
    )
    subscripts = f"{of_a},{of_out}->{of_b}"
    db = product(subscripts, a, cotangent, _of_second_gradient(dtype), type_b)
    return da, db


def _of_second_gradient(dtype: str) -> str:
    return "float32" if jax.default_backend() == "cpu" else dtype


_rounded_product.defvjp(_forward, _backward)


def constant_product(
    matrix: np.ndarray, x: Float[Array, "b c"], dtype: OperandType, result: OperandType
) -> Float[Array, "a c"]:
    """Multiply a constant matrix by x as `product` does, under `jax.vmap` as a batch of products.

    JAX would make a single product of all members, (a, b) by (b, members · c). On an accelerator
    that moves x and the result through memory once more, to bring the members inside and back.

    Args:
      matrix: (a, b).
      x: (b, c).
      dtype, result: as in `product`.

    >>> x = jnp.ones((5, 3, 4))
    >>> jax.vmap(lambda x: constant_product(np.ones((2, 3)), x, "float32", "float32"))(x).shape
    (5, 2, 4)
    """

    # A function that has a rule for batches has no gradient of its own.
    @jax.custom_vjp
    def multiply(x: Array) -> Array:
        return _in_batches(matrix, x, dtype, result)

    def forward(x: Array) -> tuple[Array, None]:
        return multiply(x), None

    def backward(_, cotangent: Array) -> tuple[Array]:
        dx = constant_product(matrix.T, cotangent, _of_second_gradient(dtype), "float32")
        return (dx.astype(x.dtype),)

    multiply.defvjp(forward, backward)
    return multiply(x)


def _in_batches(matrix: np.ndarray, x: Array, dtype: str, result: str) -> Array:
    @jax.custom_batching.custom_vmap
    def multiply(x: Array) -> Array:
        return product("ab,bc->ac", jnp.asarray(matrix), x, dtype, result)

    @multiply.def_vmap
    def multiply_batch(size: int, _: list[bool], x: Array) -> tuple[Array, bool]:
        matrices = jnp.broadcast_to(matrix, (size, *matrix.shape))
        return product("nab,nbc->nac", matrices, x, dtype, result), True

    return multiply(x)
