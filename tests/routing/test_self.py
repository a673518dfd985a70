"""Self-routing against slow loops, by hand, and with children that are hardly there."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.layers import ConvCaps
from capsjax.notation import Capsules
from capsjax.routing import make_routing, self_routing
from tests.routing.against_loops import HARD, compare, competition_of, make_votes, normal
from tests.routing.loops import dot, places_of, softmax_of_sets


def slow_routing(votes, activations, u, W_r, b_r, case):
    o_size, _, j_size, d_size = votes.shape
    b = np.zeros(votes.shape[:3])
    for o, i, _ in places_of(case.table()):
        for j in range(j_size):
            b[o, i, j] = dot(W_r[i, j], u[o, i]) + b_r[i, j]
    c = softmax_of_sets(b, case)
    v, a = np.zeros((o_size, j_size, d_size)), np.zeros((o_size, j_size))
    for o in range(o_size):
        present = [i for at, i, _ in places_of(case.table()) if at == o]
        for j in range(j_size):
            mass = sum(activations[o, i] * c[o, i, j] for i in present)
            a[o, j] = mass / sum(activations[o, i] for i in present)
            for i in present:
                v[o, j] += activations[o, i] * c[o, i, j] * votes[o, i, j] / mass
    return {"v": v, "a": a, "c": c}


@pytest.mark.parametrize("name", HARD)
def test_against_slow_loops(name):
    case, j, factor = HARD[name]
    votes = make_votes(name)
    present = votes.any((-1, -2)) | (factor == 0)
    activations = np.abs(normal(1, *case.shape())) * present
    u = normal(2, *case.shape(4)) * present[..., None]
    i = votes.shape[-3]
    W_r, b_r = normal(3, i, j, 4), normal(4, i, j)

    def fast(votes, activations, u):
        arrays = (jnp.asarray(x, votes.dtype) for x in (W_r, b_r))
        return self_routing(votes, activations, u, *arrays, competition=competition_of(case))

    def slow(votes, activations, u):
        return slow_routing(votes, activations, u, W_r, b_r, case)

    compare(fast, slow, case, votes, activations, u)


def test_by_hand():
    # Child 0 has logits (ln 3, 0) and couplings (3/4, 1/4), child 1 has 1/2 and twice the weight.
    votes = jnp.array([[[4.0], [1.0]], [[8.0], [1.0]]])
    u, W_r = jnp.array([[math.log(3)], [5.0]]), jnp.array([[[1.0], [0.0]], [[0.0], [0.0]]])
    routed = self_routing(votes, jnp.array([1.0, 2.0]), u, W_r, jnp.zeros((2, 2)))
    np.testing.assert_allclose(routed.c, [[0.75, 0.25], [0.5, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(routed.a, [1.75 / 3, 1.25 / 3], rtol=1e-6)
    np.testing.assert_allclose(routed.v, [[(3 + 8) / 1.75], [1.0]], rtol=1e-6)


def routed_by(activations):
    votes, u = jnp.asarray(normal(0, 5, 3, 2), jnp.float32), jnp.ones((5, 4))
    W_r = jnp.asarray(normal(1, 5, 3, 4), jnp.float32)
    return self_routing(votes, activations, u, W_r, jnp.zeros((5, 3)))


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-20, 1e-13, 1e-6])
def test_small_activations_are_finite_and_so_are_their_gradients(size):
    activations = jnp.full(5, size)
    routed, pull = jax.vjp(jax.jit(routed_by), activations)
    gradient = pull(jax.tree.map(jnp.ones_like, routed))[0]
    assert all(jnp.isfinite(x).all() for x in (routed.v, routed.a, gradient))
    if size == 0:
        assert not routed.v.any()
        assert not routed.a.any(), "the released code has NaN"


@pytest.mark.slow
def test_only_proportions_of_activations_count():
    activations = jnp.array([0.1, 0.5, 0.0, 0.9, 0.3])
    half = routed_by(activations / 2)
    chex.assert_trees_all_close(routed_by(activations), half, rtol=1e-5)


@pytest.mark.slow
def test_an_activation_of_zero_leaves_the_child_out():
    votes, u = jnp.asarray(normal(0, 5, 3, 2), jnp.float32), jnp.ones((5, 4))
    arrays = jnp.asarray(normal(1, 5, 3, 4), jnp.float32), jnp.zeros((5, 3))
    some = self_routing(votes, jnp.array([1.0, 0, 1, 1, 1]), u, *arrays)
    kept = jnp.array([0, 2, 3, 4])
    others = self_routing(votes[kept], jnp.ones(4), u[kept], *(x[kept] for x in arrays))
    chex.assert_trees_all_close((some.v, some.a), (others.v, others.a), rtol=1e-5)


def test_gradient_is_the_numerical_one():
    with jax.enable_x64(True):

        @jax.jit
        def value(votes, activations, u, W_r, b_r):
            routed = self_routing(votes, jnp.abs(activations), u, W_r, b_r)
            return jnp.sum(normal(3, 3, 2) * routed.v) + jnp.sum(normal(4, 3) * routed.a)

        shapes = ((4, 3, 2), (4,), (4, 5), (4, 3, 5), (4, 3))
        operands = tuple(jnp.asarray(normal(k, *shape)) for k, shape in enumerate(shapes))
        chex.assert_numerical_grads(value, operands, order=1, atol=1e-6, rtol=1e-6, modes=["rev"])


def test_couplings_start_uniform():
    routing = make_routing("self")
    arrays = routing.learned_arrays(5, 3, 4, 2)
    assert {name: array.shape for name, array in arrays.items()} == {
        "W_r": (5, 3, 4),
        "b_r": (5, 3),
    }
    starts = {name: array.init(jax.random.key(0), array.shape) for name, array in arrays.items()}
    votes, u = jnp.ones((2, 5, 3, 2)), jnp.asarray(normal(0, 2, 5, 4), jnp.float32)
    np.testing.assert_allclose(routing(votes, jnp.ones((2, 5)), starts, u=u).c, 1 / 3, rtol=1e-6)


def test_the_control_holds_couplings_where_they_start():
    routing = make_routing("self", uniform=True)
    assert routing.learned_arrays(5, 3, 4, 2) == {}
    votes = jnp.asarray(normal(0, 2, 5, 3, 2), jnp.float32)
    a = jnp.asarray(normal(1, 2, 5), jnp.float32) ** 2
    held = routing(votes, a, {}, u=jnp.ones((2, 5, 4)))
    np.testing.assert_allclose(held.a, 1 / 3, rtol=1e-6)
    means = jnp.einsum("ni,nijd->njd", a, votes) / jnp.sum(a, axis=-1)[:, None, None]
    np.testing.assert_allclose(held.v, means, rtol=1e-5)


@pytest.mark.slow
def test_summed_windows_are_refused_with_the_remedy():
    below = Capsules(jnp.ones((2, 4, 4, 2, 3)), jnp.ones((2, 4, 4, 2)))
    layer = ConvCaps(3, 4, make_routing("self"), windows="summed")
    with pytest.raises(ValueError, match="or windows='gathered'"):
        layer.init(jax.random.key(0), below)
