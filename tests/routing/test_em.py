"""Routing by expectation maximisation: slow loops, values worked by hand, units and settings."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.routing import em_paper_units, em_routing, make_routing
from capsjax.routing.competition import Competition, window_children
from tests.routing.slow_mixtures import slow_em

N, LOWER, UPPER, D = 2, 6, 3, 4
ALL = np.arange(LOWER)[None]
BETA_U, BETA_A = jnp.array([0.3, -0.2, 0.1]), jnp.array([1.0, -2.0, 0.5])
# Activations that differ by much more than the 0.02 of the paper lets them.
HOT = {"final_lambda": 2.0}

STATIC = ("num_iterations", "gradient", "max_iterations", "competition")
route = jax.jit(em_routing, static_argnames=STATIC)


def normal(seed, *shape, scale=1.0):
    return jnp.asarray(np.random.default_rng(seed).normal(scale=scale, size=shape))


def uniform(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).uniform(0.05, 1, size=shape))


def logit(a):
    return jnp.log(a) - jnp.log1p(-a)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def votes():
    return normal(0, N, LOWER, UPPER, D)


@pytest.fixture
def a():
    return uniform(1, N, LOWER)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_against_slow_loops(damping):
    votes, a = normal(0, N, LOWER, UPPER, D), uniform(1, N, LOWER)
    betas = [jnp.asarray(np.asarray(beta), jnp.float64) for beta in (BETA_U, BETA_A)]
    settings = {"damping": damping, "min_var": 1e-2, "min_mass": 1e-3, **HOT}
    fast = jax.jit(
        lambda rounds: em_routing(votes, a, *betas, rounds, max_iterations=5, **settings)
    )
    for rounds in (1, 2, 3, 5):
        got = fast(jnp.array(rounds))
        for n in range(N):
            mean, expected, c = slow_em(votes[n, None], a[n, None], *betas, rounds, ALL, **settings)
            found = (got.v[n], logit(got.a[n]), got.c[n])
            chex.assert_trees_all_close(found, (mean[0], expected[0], c[0]), rtol=1e-9)


HARD = {
    "plain": lambda votes, a: (votes, a),
    "votes times 300": lambda votes, a: (300 * votes, a),
    "votes of zero": lambda votes, a: (0 * votes, a),
    "equal votes": lambda votes, a: (0 * votes + 3.0, a),
    "activations of zero": lambda votes, a: (votes, 0 * a),
    "one child": lambda votes, a: (votes[:, :1], a[:, :1]),
    "one parent": lambda votes, a: (votes[:, :, :1], a),
}


@pytest.mark.parametrize("case", HARD)
def test_single_precision_against_slow_loops(votes, a, case):
    votes, a = HARD[case](votes, a)
    assert votes.dtype == jnp.float32
    betas = BETA_U[: votes.shape[2]], BETA_A[: votes.shape[2]]
    got = route(votes, a, *betas, **HOT)
    children = ALL[:, : votes.shape[1]]
    mean, expected, c = slow_em(votes[0, None], a[0, None], *betas, 3, children, **HOT)
    np.testing.assert_allclose(got.v[0], mean[0], rtol=1e-4, atol=1e-6 * np.abs(votes).max())
    np.testing.assert_allclose(got.a[0], sigmoid(expected[0]), rtol=1e-4)
    np.testing.assert_allclose(got.c[0], c[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("over", "start"), [("all", "set"), ("positions", "types")])
def test_a_convolution_against_slow_loops(over, start, stride):
    """The paper's competition, and the one of the released code."""
    children = window_children((4, 4), 3, stride, 1)
    o, i = children.shape
    votes = normal(2, o, i, UPPER, 2)
    a = uniform(3, o, i)
    competition = Competition(children, over, start)
    for rounds in (1, 3):
        got = route(votes, a, BETA_U, BETA_A, num_iterations=rounds, competition=competition, **HOT)
        expected = slow_em(votes, a, BETA_U, BETA_A, rounds, children, over, start, **HOT)
        np.testing.assert_allclose(got.v, expected[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got.a, sigmoid(expected[1]), rtol=1e-4)
        np.testing.assert_allclose(got.c, expected[2], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("final_lambda", "a_1"), [(0.0, 0.5), (20.0, 1 / (1 + math.sqrt(2)))])
def test_two_rounds_by_hand(final_lambda, a_1):
    # Both children vote 0 for parent 0, and -1 and 1 for parent 1.
    votes = jnp.array([[[0.0], [-1.0]], [[0.0], [1.0]]])
    zeros = jnp.zeros(2)
    settings = {"final_lambda": final_lambda, "min_var": 1.0}
    # Round one: c = 1/2, R = 1, means 0, variances 1 and 2. With λ = 20 · 0.05 = 1 the costs are
    # ln 1 = 0 and ln √2, so that a = (1/2, 1 / (1 + √2)); with λ = 0 both are 1/2.
    once = em_routing(votes, jnp.ones(2), zeros, zeros, 1, **settings)
    np.testing.assert_allclose(once.a, [0.5, a_1], rtol=1e-5)
    p = [0.5 / math.sqrt(2 * math.pi), a_1 / math.sqrt(4 * math.pi) * math.exp(-1 / 4)]
    twice = em_routing(votes, jnp.ones(2), zeros, zeros, 2, **settings)
    np.testing.assert_allclose(twice.c, [[p[0] / sum(p), p[1] / sum(p)]] * 2, rtol=1e-5)
    np.testing.assert_allclose(twice.logits, np.log([p, p]), rtol=1e-5)


def test_the_first_mean_is_weighted_by_activations(votes, a):
    got = route(votes, a, BETA_U, BETA_A, num_iterations=1)
    expected = jnp.einsum("ni,nijd->njd", a / a.sum(-1, keepdims=True), votes)
    np.testing.assert_allclose(got.v, expected, rtol=1e-4, atol=1e-6)


def test_shifted_votes_shift_the_means_and_nothing_else(votes, a):
    shift = normal(5, 1, 1, UPPER, D)
    before = route(votes, a, BETA_U, BETA_A, **HOT)
    after = route(votes + shift, a, BETA_U, BETA_A, **HOT)
    np.testing.assert_allclose(after.v, before.v + shift[:, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after.a, before.a, rtol=1e-4)
    damped = [
        route(each, a, BETA_U, BETA_A, damping=0.1, **HOT).v for each in (votes, votes + shift)
    ]
    assert np.abs(damped[1] - damped[0] - shift[:, 0]).max() > 1e-4


def test_a_damped_first_mean_is_nine_tenths(votes, a):
    plain, damped = (
        route(votes, a, BETA_U, BETA_A, num_iterations=1, damping=damping).v
        for damping in (0.0, 0.1)
    )
    np.testing.assert_allclose(damped, 0.9 * plain, rtol=1e-5)


def test_closer_votes_are_more_active(votes, a):
    logits = [logit(route(scale * votes, a, BETA_U, BETA_A, **HOT).a) for scale in (1.0, 0.5, 0.1)]
    assert (logits[0] < logits[1]).all()
    assert (logits[1] < logits[2]).all()


def test_half_of_the_activations_change_the_logits(votes, a):
    whole, half = (logit(route(votes, x, BETA_U, BETA_A, **HOT).a) for x in (a, a / 2))
    assert np.abs(whole - half).min() > 1e-3


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("sigma_bias", "activation_bias", "beta"), [(0.5, 0.5, 0.01), (2.0, 1.0, 0.0025)]
)
def test_numbers_of_the_released_code_are_converted(sigma_bias, activation_bias, beta):
    votes, a = normal(0, 1, LOWER, UPPER, D), uniform(1, 1, LOWER)
    beta_u, beta_a, final_lambda = em_paper_units(sigma_bias, activation_bias, beta)
    betas = jnp.full(UPPER, beta_u), jnp.full(UPPER, beta_a)
    got = route(votes, a, *betas, num_iterations=1, final_lambda=final_lambda, damping=0.1)
    votes, w = np.asarray(votes[0]), np.asarray(a[0]) / UPPER
    for j in range(UPPER):
        mass = w.sum() + 1e-7
        center = 0.9 * (w[:, None] * votes[:, j]).sum(0) / mass
        variance = 5e-4 + (w[:, None] * (votes[:, j] - center) ** 2).sum(0) / mass
        win = mass * (-np.log(variance).sum() - sigma_bias * D * (math.log(2 * math.pi) + 1))
        released = beta * (1 - 0.95) * (win - activation_bias * 5000)
        assert float(logit(got.a)[0, j]) == pytest.approx(released, rel=1e-9)


def loss(votes, a, beta_u, beta_a, rounds=3, **settings):
    routed = em_routing(votes, a, beta_u, beta_a, rounds, **HOT, **settings)
    return jnp.sum(normal(7, *routed.v.shape) * routed.v) + jnp.sum(routed.a**2)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_full_gradient_is_the_numerical_one(damping):
    operands = normal(0, 1, 4, 2, 2), uniform(1, 1, 4), normal(2, 2), normal(3, 2)
    full = jax.jit(functools.partial(loss, damping=damping))
    chex.assert_numerical_grads(full, operands, order=1, atol=1e-6, rtol=1e-6, modes=["rev"])


@pytest.mark.slow
def test_stopped_gradient_is_that_of_frozen_couplings(votes, a):
    settings = {"damping": 0.1, "gradient": "stop"}
    c = route(votes, a, BETA_U, BETA_A, **settings, **HOT).c
    previous = route(votes, a, BETA_U, BETA_A, num_iterations=2, **settings, **HOT).v

    def frozen(votes, a, beta_u, beta_a):
        w = c * a[..., None]
        mass = w.sum(1) + 1e-7
        mean = 0.9 * jnp.einsum("nij,nijd->njd", w, votes) / mass[..., None] + 0.1 * previous
        squares = (votes - mean[:, None]) ** 2
        variance = jnp.einsum("nij,nijd->njd", w, squares) / mass[..., None] + 5e-4
        cost = (D * beta_u[None] + jnp.log(variance).sum(-1) / 2) * mass
        activations = jax.nn.sigmoid(2.0 * (1 - 0.95**3) * (beta_a[None] - cost))
        return jnp.sum(normal(7, *mean.shape) * mean) + jnp.sum(activations**2)

    operands = votes, a, BETA_U, BETA_A
    got = jax.jit(jax.grad(functools.partial(loss, **settings), range(4)))(*operands)
    expected = jax.jit(jax.grad(frozen, range(4)))(*operands)
    chex.assert_trees_all_close(got, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_every_setting_of_the_value_reaches_the_function(votes, a):
    settings = {"num_iterations": 2, "final_lambda": 3.0, "min_var": 0.1, "min_mass": 0.5}
    settings |= {"damping": 0.3}
    routing = make_routing("em", beta_u_scale=2.0, beta_a_scale=5.0, gradient="stop", **settings)
    got = jax.jit(routing)(votes, a, {"beta_u": BETA_U, "beta_a": BETA_A})
    expected = route(votes, a, 2 * BETA_U, 5 * BETA_A, **settings)
    chex.assert_trees_all_close(got, expected, rtol=1e-6)

    def of_couplings(votes):
        return jnp.sum(routing(votes, a, {"beta_u": BETA_U, "beta_a": BETA_A}).c ** 2)

    assert not jax.grad(of_couplings)(votes).any(), "gradient is 'stop'"


def test_learned_costs_start_in_the_papers_units_and_move_by_thousandths():
    routing = make_routing("em")
    arrays = routing.learned_arrays(1152, 5, 16, 16)
    start = {name: array.init(jax.random.key(0), array.shape) for name, array in arrays.items()}
    beta_u, beta_a, _ = em_paper_units(0.5, 0.5)
    np.testing.assert_allclose(routing.beta_u_scale * start["beta_u"], [beta_u] * 5, rtol=1e-3)
    np.testing.assert_allclose(routing.beta_a_scale * start["beta_a"], [beta_a] * 5, rtol=1e-3)
    # An optimizer such as Adam moves an array by about its learning rate, whatever its size.
    assert all((np.abs(array) <= 1).all() for array in start.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_var": 0.0}, "min_var is above 0, not 0.0"),
        ({"min_mass": -1.0}, "min_mass is above 0"),
        ({"damping": 1.0}, "damping is a share from 0 to below 1, not 1.0"),
        ({"beta_a_scale": 0.0}, "beta_a_scale is above 0"),
        ({"num_iterations": 0}, "num_iterations is at least 1"),
    ],
)
def test_settings_are_checked(votes, a, settings, message):
    with pytest.raises(ValueError, match=message):
        make_routing("em", **settings)
    if "beta_a_scale" not in settings:
        with pytest.raises(ValueError, match=message):
            em_routing(votes, a, BETA_U, BETA_A, **settings)
