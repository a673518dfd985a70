"""Rounds of routing whose number is data."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.ops import predict_votes
from capsjax.rounds import check_rounds, repeat_rounds
from capsjax.routing import DynamicRouting, UniformRouting, dynamic_routing, uniform_routing

MOST = 5


@pytest.mark.parametrize("count", [-1, 0, 1, 3, MOST])
def test_the_masked_loop_is_the_plain_loop(count):
    def one_round(x):
        return jnp.cos(x) + 0.5 * x

    expected = jnp.linspace(-1.0, 1.0, 7)
    for _ in range(count):
        expected = one_round(expected)
    start = jnp.linspace(-1.0, 1.0, 7)
    plain = repeat_rounds(one_round, start, count)
    masked = jax.jit(lambda count: repeat_rounds(one_round, start, count, MOST))(count)
    np.testing.assert_allclose(plain, expected, rtol=1e-6)
    np.testing.assert_allclose(masked, expected, rtol=1e-6)


def test_the_gradient_ends_with_the_last_round_that_counts():
    # Three doublings: the rounds after them would double the gradient too.
    def value(x, count):
        return repeat_rounds(lambda x: 2.0 * x, x, count, MOST)

    gradient = jax.jit(jax.grad(value))
    assert [float(gradient(1.0, count)) for count in range(6)] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]


def poses_and_matrices():
    rng = np.random.default_rng(0)
    u = jnp.asarray(rng.normal(size=(3, 12, 4)), jnp.float32)
    W = jnp.asarray(0.4 * rng.normal(size=(12, 5, 6, 4)), jnp.float32)
    return u, W


def routed(u, W, rounds, gradient, most, recomputed):
    routing = DynamicRouting(rounds, gradient, max_iterations=most)
    if recomputed:
        return routing.route_poses(u, W, {})
    return routing(predict_votes(u, W), jnp.ones(u.shape[:-1]), {})


def value_and_gradients(rounds, gradient, most, recomputed):
    u, W = poses_and_matrices()
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(3, 5, 6)), jnp.float32)

    def value(u, W):
        return jnp.sum(weights * routed(u, W, rounds, gradient, most, recomputed).v)

    return jax.value_and_grad(value, (0, 1))(u, W)


jitted = jax.jit(value_and_gradients, static_argnums=(0, 1, 2, 3))


@pytest.mark.ci
@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("gradient", ["stop", "full"])
def test_rounds_as_data_are_rounds_as_a_constant(gradient, recomputed):
    most = MOST if gradient == "full" else None
    traced = jax.jit(lambda rounds: value_and_gradients(rounds, gradient, most, recomputed))
    results = {}
    for rounds in (1, 2, 3, MOST):
        results[rounds] = jitted(rounds, gradient, None, recomputed)
        chex.assert_trees_all_close(traced(rounds), results[rounds], atol=1e-5)
    # Each number of rounds gives something of its own, or the comparison would say nothing.
    assert len({round(float(value), 5) for value, _ in results.values()}) == 4


@pytest.mark.ci
@pytest.mark.parametrize("gradient", ["stop", "full"])
def test_rounds_that_differ_within_a_population(gradient):
    rounds = jnp.array([1, 2, 3, MOST])
    together = jax.jit(jax.vmap(lambda r: value_and_gradients(r, gradient, MOST, True)))(rounds)
    for index, count in enumerate(rounds.tolist()):
        alone = jitted(count, gradient, None, True)
        chex.assert_trees_all_close(jax.tree.map(lambda x: x[index], together), alone, atol=1e-5)  # noqa: B023


@pytest.mark.slow
def test_the_control_knows_no_rounds():
    u, W = poses_and_matrices()
    votes = predict_votes(u, W)
    expected = dynamic_routing(votes, 1).v
    np.testing.assert_array_equal(uniform_routing(votes, 4, max_iterations=7).v, expected)
    by_value = UniformRouting()(votes, jnp.ones(u.shape[:-1]), {})
    np.testing.assert_array_equal(by_value.v, expected)


def test_wrong_numbers_of_rounds():
    votes = jnp.ones((2, 6, 3, 4))
    with pytest.raises(ValueError, match="at least 1, not 0"):
        dynamic_routing(votes, 0)
    with pytest.raises(ValueError, match="at most max_iterations=2, not 3"):
        dynamic_routing(votes, 3, max_iterations=2)
    with pytest.raises(ValueError, match="'stop' or 'full', not 'half'"):
        check_rounds(3, "half", None)
    with pytest.raises(ValueError, match="needs gradient='stop' or max_iterations"):
        jax.jit(lambda rounds: dynamic_routing(votes, rounds, gradient="full"))(3)
