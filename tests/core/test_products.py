"""Products with rounded operands: what is rounded, what is not, and in which type it multiplies."""

import chex
import jax
import jax.numpy as jnp
import jaxtyping
import ml_dtypes
import numpy as np
import pytest

from capsjax.ops import predict_votes
from capsjax.products import OPERAND_TYPES, constant_product, product
from tests.equations import equations

# Plain matrices, votes, a letter that is summed in neither, a vector, and scalars as results.
PRODUCTS = {
    "nk,km->nm": ((4, 5), (5, 3)),
    "nip,ijdp->nijd": ((2, 5, 3), (5, 4, 2, 3)),
    "nk,nk->n": ((3, 4), (3, 4)),
    "nm,m->nm": ((3, 4), (4,)),
    "k,k->": ((6,), (6,)),
}
each_product = pytest.mark.parametrize(
    ("subscripts", "shapes"), PRODUCTS.items(), ids=list(PRODUCTS)
)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def operands(shapes):
    return normal(0, *shapes[0]), normal(1, *shapes[1])


def rounded(x):
    """By hand, in numpy: bfloat16 values as float32 numbers."""
    return jnp.asarray(np.asarray(x).astype(ml_dtypes.bfloat16).astype(np.float32))


def gradients(subscripts, dtype, a, b):
    """Gradients of a product weighted by a cotangent that rounding changes."""
    out = jax.eval_shape(lambda a, b: jnp.einsum(subscripts, a, b), a, b)
    cotangent = normal(2, *out.shape)
    _, pull = jax.vjp(lambda a, b: product(subscripts, a, b, dtype), a, b)
    return cotangent, pull(cotangent)


@each_product
def test_float32_is_einsum(subscripts, shapes):
    a, b = operands(shapes)
    got, expected = product(subscripts, a, b), jnp.einsum(subscripts, a, b)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(product(subscripts, a, b, "float32"), expected)


@each_product
def test_bfloat16_rounds_the_operands_and_nothing_else(subscripts, shapes):
    a, b = operands(shapes)
    got = product(subscripts, a, b, "bfloat16")
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(
        got, jnp.einsum(subscripts, rounded(a), rounded(b)), rtol=1e-6, atol=1e-6
    )
    exact = np.asarray(jnp.einsum(subscripts, a, b))
    assert 1e-4 < np.abs(got - exact).max() / np.abs(exact).max() < 2e-2


def test_one_number_by_hand():
    # Of 1 + 1/128 + 1/256 bfloat16 keeps 7 bits behind the point: a tie, rounded to the even.
    a, b = jnp.array([1 + 3 / 256]), jnp.array([3.0])
    assert float(product("k,k->", a, b, "bfloat16")) == 3 * (1 + 4 / 256)
    assert float(product("k,k->", a, b)) == 3 * (1 + 3 / 256)


def test_sums_are_not_rounded():
    # 256 + 1 is not a bfloat16 number, so a sum of ones in bfloat16 would stop at 256.
    ones = jnp.ones(1000)
    assert float(product("k,k->", ones, ones, "bfloat16")) == 1000
    assert float(product("k,k->", jnp.ones(257), jnp.ones(257), "bfloat16")) == 257


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@each_product
def test_gradients_are_products_of_rounded_operands(monkeypatch, subscripts, shapes, backend):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    a, b = operands(shapes)
    cotangent, (da, db) = gradients(subscripts, "bfloat16", a, b)
    # The product is linear in either operand.
    _, pull = jax.vjp(lambda a, b: jnp.einsum(subscripts, a, b), a, b)
    _, pull_rounded = jax.vjp(lambda a, b: jnp.einsum(subscripts, a, b), rounded(a), rounded(b))
    of_rounded = pull_rounded(rounded(cotangent))
    chex.assert_trees_all_close(da, of_rounded[0], rtol=1e-6, atol=1e-6)
    expected = pull(cotangent)[1] if backend == "cpu" else of_rounded[1]
    chex.assert_trees_all_close(db, expected, rtol=1e-6, atol=1e-6)
    _, exact = gradients(subscripts, "float32", a, b)
    for x, y in zip((da, db), exact, strict=True):
        assert x.dtype == jnp.float32
        error = np.abs(x - y).max() / np.abs(y).max()
        assert error < 1e-6 if x is db and backend == "cpu" else 1e-4 < error < 2e-2


@pytest.mark.parametrize("dtype", OPERAND_TYPES)
@each_product
def test_every_product_multiplies_in_the_asked_type_and_gives_float32(subscripts, shapes, dtype):
    def loss(a, b):
        return jnp.sum(jnp.sin(product(subscripts, a, b, dtype)))

    traced = jax.make_jaxpr(jax.grad(loss, (0, 1)))(*operands(shapes))
    types = [
        [str(var.aval.dtype) for var in (*equation.invars, *equation.outvars)]
        for equation in equations(traced.jaxpr)
        if equation.primitive.name == "dot_general"
    ]
    # The last is the second operand's gradient, not rounded on a CPU.
    assert types[:-1] == [[dtype, dtype, "float32"]] * (len(types) - 1)
    assert types[-1] == ["float32"] * 3


def test_a_gradient_takes_two_more_products():
    # Forward once, and once for either operand.
    def loss(a, b):
        return jnp.sum(jnp.sin(product("nk,km->nm", a, b, "bfloat16")))

    traced = jax.make_jaxpr(jax.grad(loss, (0, 1)))(normal(0, 4, 5), normal(1, 5, 3))
    assert [e.primitive.name for e in equations(traced.jaxpr)].count("dot_general") == 3


def test_vmap_and_jit_are_a_loop():
    a, b = normal(0, 3, 4, 5), normal(1, 5, 2)

    def apply(a):
        return product("nk,km->nm", a, b, "bfloat16")

    together = jax.jit(jax.vmap(apply))(a)
    np.testing.assert_allclose(together, jnp.stack([apply(one) for one in a]), rtol=1e-6)


MATRIX = np.asarray(normal(3, 4, 5))


def constantly(x):
    return constant_product(MATRIX, x, "bfloat16", "float32")


def plainly(x):
    return product("ab,bc->ac", jnp.asarray(MATRIX), x, "bfloat16")


def of_cubes(f):
    return lambda x: jnp.sum(f(x) ** 3)


def gradient_of_cubes(f):
    return jax.grad(lambda x: jnp.sum(f(x) ** 3))


ORDERS = {
    "value": lambda f: f,
    "gradient": gradient_of_cubes,
    "gradient of the gradient": lambda f: gradient_of_cubes(gradient_of_cubes(f)),
}


@pytest.mark.parametrize("of", ORDERS.values(), ids=list(ORDERS))
@pytest.mark.parametrize("dims", [0, 1, 2])
def test_a_constant_product_is_the_product_for_each_member(of, dims):
    expected, found, x = of(plainly), of(constantly), 0.3 * normal(0, *(2, 3)[:dims], 5, 6)
    for _ in range(dims):
        expected, found = jax.vmap(expected), jax.vmap(found)
    np.testing.assert_allclose(found(x), expected(x), rtol=1e-4, atol=1e-4)


def test_members_are_a_batch_of_products_and_are_not_moved():
    traced = jax.make_jaxpr(jax.vmap(constantly))(normal(0, 3, 5, 6))
    dots = [e for e in equations(traced.jaxpr) if e.primitive.name == "dot_general"]
    assert [e.params["dimension_numbers"][1] for e in dots] == [((0,), (0,))]
    assert "transpose" not in [e.primitive.name for e in equations(traced.jaxpr)]


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_votes_are_rounded_alike_for_any_leading_axes(batch):
    u, W = normal(0, *batch, 5, 3), normal(1, 5, 4, 2, 3)
    votes = predict_votes(u, W, "bfloat16")
    assert votes.dtype == jnp.float32
    expected = predict_votes(rounded(u), rounded(W))
    chex.assert_trees_all_close(votes, expected, rtol=1e-6, atol=1e-6)
    assert np.abs(votes - predict_votes(u, W)).max() > 1e-4


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_operands_of_another_type_have_gradients_of_their_type(monkeypatch, backend):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    a, b = (x.astype(jnp.float16) for x in operands(PRODUCTS["nk,km->nm"]))
    wide = (a.astype(jnp.float32), b.astype(jnp.float32))
    _, found = gradients("nk,km->nm", "bfloat16", a, b)
    _, expected = gradients("nk,km->nm", "bfloat16", *wide)
    assert [x.dtype for x in found] == [jnp.float16] * 2
    chex.assert_trees_all_equal(found, tuple(x.astype(jnp.float16) for x in expected))
    chex.assert_trees_all_equal(
        product("nk,km->nm", a, b, "bfloat16"), product("nk,km->nm", *wide, "bfloat16")
    )


def test_unknown_type_names_the_nearest(monkeypatch):
    # Without type checking, which is on in tests alone and has errors of its own.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match="'float31'; did you mean 'float32'"):
        product("k,k->", jnp.ones(2), jnp.ones(2), "float31")
