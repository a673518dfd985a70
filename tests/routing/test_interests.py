"""Dynamic routing of masked sequences to several interests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.routing import count_interests, multi_interest_routing
from tests.routing.against_loops import normal
from tests.routing.loops import dot, squash

ITEMS, INTERESTS = 7, 3


def slow_routing(u, W, num_items, active, b, rounds):
    """One history: its items that are there, and its interests that are active."""
    votes = [[dot(row, u[i]) for row in W] for i in range(num_items)]
    b = np.array(b[:num_items, :active], np.float64)
    v = np.zeros((active, len(W)))
    for _ in range(rounds):
        e = np.array([[np.exp(b[i, j]) for j in range(active)] for i in range(num_items)])
        c = [[e[i, j] / sum(e[i]) for j in range(active)] for i in range(num_items)]
        for j in range(active):
            s = sum(c[i][j] * np.array(votes[i]) for i in range(num_items))
            v[j] = squash(s)
        for i in range(num_items):
            for j in range(active):
                b[i, j] += dot(votes[i], v[j])
    return v


def make_history():
    u, W = (
        jnp.asarray(normal(k, *shape), jnp.float32)
        for k, shape in ((0, (3, ITEMS, 4)), (1, (5, 4)))
    )
    mask = (jnp.arange(ITEMS)[None] < jnp.array([7, 4, 1])[:, None]).astype(jnp.float32)
    return u, W, mask


@pytest.mark.ci
@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_against_slow_loops_over_the_items_that_are_there(rounds):
    u, W, mask = make_history()
    key = jax.random.key(3)
    got = multi_interest_routing(u, W, mask, key, INTERESTS, rounds).v
    b = jax.random.normal(key, (3, ITEMS, INTERESTS))
    for n, (num_items, active) in enumerate(((7, 2), (4, 2), (1, 1))):
        expected = slow_routing(np.asarray(u[n]), np.asarray(W), num_items, active, b[n], rounds)
        np.testing.assert_allclose(got[n, :active], expected, rtol=1e-4, atol=1e-5)
        assert not got[n, active:].any(), "the other interests have no vote"


def test_what_fills_up_a_history_changes_nothing():
    u, W, mask = make_history()
    other = jnp.where(mask[..., None] > 0, u, jnp.nan)
    got, again = (
        multi_interest_routing(x, W, mask, jax.random.key(0), INTERESTS).v for x in (u, other)
    )
    np.testing.assert_array_equal(got, again)


def test_the_number_of_interests_grows_with_the_logarithm_of_the_items():
    assert count_interests(jnp.array([1, 3, 8, 16]), 4).tolist() == [1, 1, 3, 4]
    assert count_interests(jnp.array([0, 2, 4, 7, 1000]), 20).tolist() == [1, 1, 2, 2, 9]
    powers = 2 ** jnp.arange(31)
    assert count_interests(powers, 99).tolist() == [1, *range(1, 31)], "whole numbers are exact"


def test_interests_differ_by_the_draws_of_their_history_alone():
    u, W, mask = make_history()
    u, mask = jnp.broadcast_to(u[:1], u.shape), jnp.ones_like(mask)
    routed = multi_interest_routing(u, W, mask, jax.random.key(0), INTERESTS)
    assert float(jnp.abs(routed.v[0, 0] - routed.v[0, 1]).max()) > 1e-3
    assert float(jnp.abs(routed.v[0] - routed.v[1]).max()) > 1e-3, "one draw for each history"
    again = multi_interest_routing(u, W, mask, jax.random.key(0), INTERESTS)
    np.testing.assert_array_equal(routed.v, again.v)


@pytest.mark.slow
def test_the_gradient_is_that_of_fixed_couplings():
    u, W, mask = make_history()
    key = jax.random.key(0)
    c = multi_interest_routing(u, W, mask, key, INTERESTS).c
    weights = jnp.asarray(normal(4, 3, INTERESTS, 5), jnp.float32)

    def fixed(W):
        s = jnp.einsum("nij,nip,dp->njd", c, u, W)
        squared = jnp.sum(s * s, -1, keepdims=True)
        return jnp.sum(weights * squared / (1 + squared) * s / jnp.sqrt(squared + 1e-7))

    def value(W):
        return jnp.sum(weights * multi_interest_routing(u, W, mask, key, INTERESTS).v)

    np.testing.assert_allclose(jax.grad(value)(W), jax.grad(fixed)(W), rtol=1e-4, atol=1e-5)
