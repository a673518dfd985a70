"""Couplings and weighted poses in one pass: as without the kernel, in value and gradient."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.kernels import routing, triton
from capsjax.kernels.coupling import kernel_weighs, weigh
from capsjax.kernels.routing import couple, dynamic_routing_from_poses

# p, j, n, i: of two, three and one programs, the last of which has all images, and of two with more
# numbers than larger programs have registers.
SHAPES = [(3, 4, 4, 256), (1, 2, 3, 128), (2, 5, 4, 32), (7, 12, 4, 128)]
N, LOWER, UPPER, D, P = 4, 64, 5, 6, 4


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def operands(p, j, n, i, size=1.0):
    return (size * normal(0, p, j, n, i)).astype(jnp.bfloat16), normal(1, n, p, i)


def logits_of(pulled, u):
    return jnp.einsum("pjni,npi->jni", pulled.astype(jnp.float32), u)


def plain(leaky, pulled, u):
    b = logits_of(pulled, u)
    c = jax.nn.softmax(jnp.pad(b, ((0, int(leaky)), (0, 0), (0, 0))), axis=0)[: len(b)]
    c = jax.lax.stop_gradient(c)
    return c[None] * u.transpose(1, 0, 2)[:, None], c


@pytest.mark.usefixtures("kernels_run")
@pytest.mark.parametrize("leaky", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_poses_are_weighted_by_the_softmax_of_the_logits(shape, leaky):
    pulled, u = operands(*shape)
    weighted, c = jax.jit(weigh, static_argnums=0)(leaky, pulled, u)
    of_poses, couplings = plain(leaky, pulled, u)
    assert (weighted.dtype, c.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(c, couplings, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(weighted.astype(jnp.float32), of_poses, rtol=1e-2, atol=1e-6)


@pytest.mark.usefixtures("kernels_run")
@pytest.mark.parametrize("leaky", [False, True])
@pytest.mark.parametrize("sign", [None, -1.0])
def test_large_logits_do_not_overflow(leaky, sign):
    pulled, u = operands(2, 4, 2, 128, size=1e3)
    if sign:
        # All logits are far below zero: the leak's alone is large.
        pulled, u = sign * jnp.abs(pulled) - 1e3, jnp.abs(u) + 1.0
    _, c = jax.jit(weigh, static_argnums=0)(leaky, pulled, u)
    expected = couple(logits_of(pulled, u), leaky)
    np.testing.assert_allclose(c, expected, atol=1e-2)
    assert np.isfinite(c).all()
    assert c.max() == (0.0 if leaky and sign else 1.0)


@pytest.mark.usefixtures("kernels_run")
@pytest.mark.parametrize("leaky", [False, True])
def test_the_gradient_is_that_of_the_poses_alone(leaky):
    pulled, u = operands(*SHAPES[0])
    of_weighted, of_couplings = normal(2, *pulled.shape), normal(3, *pulled.shape[1:])

    def value(weigh, pulled, u):
        weighted, c = weigh(leaky, pulled, u)
        return jnp.sum(of_weighted * weighted.astype(jnp.float32)) + jnp.sum(of_couplings * c)

    gradient = jax.jit(jax.grad(value, (1, 2)), static_argnums=0)
    got, expected = (gradient(f, pulled, u) for f in (weigh, plain))
    chex.assert_trees_all_equal_shapes_and_dtypes(got, expected)
    np.testing.assert_array_equal(got[0], 0.0)
    # The cotangent of the weighted poses has their type.
    np.testing.assert_allclose(got[1], expected[1], atol=2e-2)
    assert np.abs(expected[1]).max() > 1.0


@pytest.mark.slow
@pytest.mark.usefixtures("kernels_run")
def test_several_under_vmap_are_each_alone():
    pairs = zip(operands(2, 3, 2, 128), operands(2, 3, 2, 128, 2.0), strict=True)
    pulled, u = map(jnp.stack, pairs)
    apply = functools.partial(weigh, True)
    together = jax.jit(jax.vmap(apply))(pulled, u)
    for k in range(2):
        alone = jax.jit(apply)(pulled[k], u[k])
        chex.assert_trees_all_close([x[k] for x in together], list(alone), rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "weighs"),
    [
        ((8, 10, 128, 1152), True),  # of the paper
        ((10, 10, 2, 64), True),
        ((10, 12, 2, 64), True),
        ((10, 13, 2, 64), False),  # too many numbers
        ((8, 10, 3, 64), False),  # 192 lower capsules are no multiple of 128
        ((8, 10, 0, 1152), False),
    ],
)
def test_which_shapes_the_kernel_takes(monkeypatch, shape, weighs):
    monkeypatch.setattr(triton, "runs", lambda: True)
    assert kernel_weighs(shape) == weighs
    monkeypatch.setattr(triton, "runs", lambda: False)
    assert not kernel_weighs(shape)


@pytest.fixture
def weighings(monkeypatch):
    """The shapes that the kernel has weighed in routing, on what says it is a GPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    shapes = []

    def watched(leaky, pulled, u):
        shapes.append(pulled.shape)
        return weigh(leaky, pulled, u)

    monkeypatch.setattr(routing, "weigh", watched)
    return shapes


def routed_and_gradients(rounds, dtype="bfloat16", lower=LOWER, **settings):
    """What routing gives, and the gradients of a scalar that no symmetry preserves."""

    def weighted(rounds, u, W, bias):
        routed = dynamic_routing_from_poses(
            u, W, rounds, bias=bias, dtype=dtype, at_once=True, **settings
        )._replace(logits=None)
        return sum(jnp.sum(normal(seed, *x.shape) * x) for seed, x in enumerate(routed[:3])), routed

    arrays = normal(10, N, lower, P), 0.3 * normal(11, lower, UPPER, D, P), normal(12, UPPER, D)
    gradient = jax.grad(weighted, (1, 2, 3), has_aux=True)
    if isinstance(rounds, int):
        gradients, routed = jax.jit(functools.partial(gradient, rounds))(*arrays)
    else:
        gradients, routed = jax.jit(gradient)(rounds, *arrays)
    return {**routed._asdict(), **dict(zip(("du", "dW", "dbias"), gradients, strict=True))}


def without_kernels(monkeypatch, *arguments, **settings):
    with monkeypatch.context() as patch:
        patch.setattr(triton, "runs", lambda: False)
        return routed_and_gradients(*arguments, **settings)


def assert_close(got, expected):
    chex.assert_trees_all_equal_shapes_and_dtypes(got, expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)) < 5e-3


@pytest.mark.slow
@pytest.mark.usefixtures("kernels_run")
@pytest.mark.parametrize("leaky", [False, True])
@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_routing_with_the_kernel_is_routing_without(monkeypatch, weighings, rounds, leaky):
    expected = without_kernels(monkeypatch, rounds, leaky=leaky)
    assert weighings == []
    got = routed_and_gradients(rounds, leaky=leaky)
    assert set(weighings) == ({(P, UPPER, N, LOWER)} if rounds > 1 else set())
    assert_close(got, expected)
    assert rounds == 1 or np.ptp(got["c"]) > 0.1


@pytest.mark.slow
@pytest.mark.usefixtures("kernels_run")
@pytest.mark.parametrize("rounds", [1, 3])
def test_a_traced_number_of_rounds_takes_the_kernel_too(monkeypatch, weighings, rounds):
    got = routed_and_gradients(jnp.array(rounds))
    assert set(weighings) == {(P, UPPER, N, LOWER)}
    # Here the first round, too, has its couplings from logits, of zero.
    assert_close(got, without_kernels(monkeypatch, jnp.array(rounds)))


@pytest.mark.slow
@pytest.mark.usefixtures("kernels_run", "weighings")
@pytest.mark.parametrize(
    "settings",
    # The last has 36 lower capsules of each of four images: not a multiple of 128.
    [{"gradient": "full"}, {"dtype": "float32"}, {"lower": 36}],
    ids=str,
)
def test_where_the_kernel_does_not_fit_routing_is_without(monkeypatch, settings):
    def refuse(*_):
        raise AssertionError("the kernel was asked for")

    monkeypatch.setattr(routing, "weigh", refuse)
    expected = without_kernels(monkeypatch, 2, **settings)
    chex.assert_trees_all_equal(routed_and_gradients(2, **settings), expected)
