"""Routing by variational Bayes: slow loops, priors, what becomes of its activations, settings."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.routing import make_routing, vb_routing
from capsjax.routing.competition import Competition, window_children
from tests.equations import equations
from tests.routing.slow_mixtures import slow_vb

N, LOWER, UPPER, D = 2, 6, 3, 4
ALL = np.arange(LOWER)[None]
BETAS = jnp.array([0.3, -0.2, 0.1]), jnp.array([1.0, -2.0, 0.5])
# None at its default.
PRIORS = {"alpha_0": 0.7, "kappa_0": 1.5, "m_0": 0.3, "psi_0": 2.0, "nu_above_d": 0.5}
FORMS = ("diagonal", "full")

STATIC = ("num_iterations", "covariance", "activation", "gradient", "competition")
route = jax.jit(vb_routing, static_argnames=STATIC)


def normal(seed, *shape, scale=1.0):
    return jnp.asarray(np.random.default_rng(seed).normal(scale=scale, size=shape))


def uniform(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).uniform(0.05, 1, size=shape))


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


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("covariance", FORMS)
def test_against_slow_loops(covariance):
    votes, a = normal(0, N, LOWER, UPPER, D), uniform(1, N, LOWER)
    betas = normal(2, UPPER), normal(3, UPPER)
    settings = {"covariance": covariance, **PRIORS}
    fast = jax.jit(
        lambda rounds: vb_routing(
            votes, a, *betas, rounds, activation="logit", max_iterations=5, **settings
        )
    )
    for rounds in (1, 2, 3, 5):
        got = fast(jnp.array(rounds))
        for n in range(N):
            mean, logit, c = slow_vb(
                votes[n, None],
                a[n, None],
                rounds,
                ALL,
                beta_u=betas[0],
                beta_a=betas[1],
                **settings,
            )
            found = (got.v[n], got.a[n], got.c[n])
            chex.assert_trees_all_close(found, (mean[0], logit[0], c[0]), rtol=1e-9)


HARD = {
    "plain": lambda votes, a: (votes, a),
    "votes times 300": lambda votes, a: (300 * votes, a),
    "votes of zero": lambda votes, a: (0 * votes, a),
    "equal votes": lambda votes, a: (0 * votes + 3.0, a),
    "activations of zero": lambda votes, a: (votes, 0 * a),
    "one child": lambda votes, a: (votes[:, :1], a[:, :1]),
    "one parent": lambda votes, a: (votes[:, :, :1], a),
}


@pytest.mark.parametrize(
    ("case", "covariance"),
    # Fewer votes than dimensions, 300 long, leave a full covariance no digits for the prior.
    [
        *[(case, "diagonal") for case in HARD],
        *[(case, "full") for case in HARD if case != "votes times 300"],
    ],
)
def test_single_precision_against_slow_loops(votes, a, case, covariance):
    votes, a = HARD[case](votes, a)
    assert votes.dtype == jnp.float32
    got = route(votes, a, covariance=covariance, activation="logit")
    children = ALL[:, : votes.shape[1]]
    mean, logit, c = slow_vb(votes[0, None], a[0, None], 3, children, covariance=covariance)
    np.testing.assert_allclose(got.v[0], mean[0], rtol=1e-4, atol=1e-6 * np.abs(votes).max())
    np.testing.assert_allclose(got.a[0], logit[0], rtol=1e-4)
    np.testing.assert_allclose(got.c[0], c[0], rtol=1e-4, atol=1e-6)


def test_long_votes_of_many_children_have_a_full_covariance(votes, a):
    votes, a = 300 * normal(4, 1, 40, UPPER, D), uniform(5, 1, 40)
    got = route(votes, a, covariance="full", activation="logit")
    mean, logit, c = slow_vb(votes, a, 3, np.arange(40)[None], covariance="full")
    np.testing.assert_allclose(got.v, mean, rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(got.a, logit, rtol=1e-4)
    np.testing.assert_allclose(got.c, c, rtol=1e-3, atol=1e-5)


@pytest.mark.ci
@pytest.mark.parametrize("covariance", FORMS)
@pytest.mark.parametrize("clusters", [1, 2])
def test_thousands_of_long_votes_in_a_plane_make_no_nan(clusters, covariance):
    """Unshifted exponentials and a division by the mass make NaN of much shorter votes."""
    centers = normal(0, clusters, 1, 8, scale=300)
    votes = jnp.repeat(centers[np.arange(2000) % clusters], 2, axis=1)

    @jax.jit
    def with_gradient(votes):
        routed, pull = jax.vjp(
            lambda votes: vb_routing(votes, jnp.ones(2000), covariance=covariance), votes
        )
        return routed, pull(jax.tree.map(jnp.ones_like, routed))

    routed, gradient = with_gradient(votes)
    chex.assert_tree_all_finite((routed, gradient))
    np.testing.assert_allclose(routed.c.sum(-1), 1.0, rtol=1e-5)


def test_no_sum_of_squares_has_thousands_of_terms():
    """A device may add them one by one, and round similar ones in the same direction."""
    votes = jnp.ones((2000, 1, 8))
    jaxpr = jax.make_jaxpr(lambda x: vb_routing(x, jnp.ones(2000), covariance="full").v)(votes)
    sums = [
        each.invars[0].aval.shape[axis]
        for each in equations(jaxpr.jaxpr)
        if each.primitive.name == "dot_general" and each.outvars[0].aval.shape[-2:] == (8, 8)
        for axis in each.params["dimension_numbers"][0][0]
    ]
    assert sums
    assert max(sums) < 50


@pytest.mark.ci
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("covariance", FORMS)
def test_a_convolution_against_slow_loops(covariance, stride):
    children = window_children((4, 4), 3, stride, 1)
    o, i = children.shape
    votes, a = normal(2, o, i, UPPER, 2), uniform(3, o, i)
    settings = {"covariance": covariance}
    competition = Competition(children, "all", "types")
    for rounds in (1, 3):
        got = route(
            votes, a, num_iterations=rounds, competition=competition, activation="logit", **settings
        )
        mean, logit, c = slow_vb(votes, a, rounds, children, **settings)
        np.testing.assert_allclose(got.v, mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got.a, logit, rtol=1e-4)
        np.testing.assert_allclose(got.c, c, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("covariance", FORMS)
def test_one_round_by_hand(covariance):
    # One child votes 2 for the only parent: R = 1, κ = 2, m = 1, Ψ⁻¹ = 1 + 1 + 1 = 3, ν = 3.
    routed = vb_routing(
        jnp.full((1, 1, 1), 2.0), jnp.ones(1), num_iterations=1, covariance=covariance
    )
    # E ln π = 0 and E ln Λ = ψ(3/2) + ln 2 - ln 3, with ψ(3/2) = 2 - γ - 2 ln 2.
    log_precision = 2 - np.euler_gamma - 2 * math.log(2) + math.log(2) - math.log(3)
    entropy = (math.log(2 * math.pi * math.e) - log_precision) / 2
    np.testing.assert_allclose(routed.v, [[1.0]], rtol=1e-6)
    np.testing.assert_allclose(routed.a, [1 / (1 + math.exp(entropy))], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("covariance", FORMS)
def test_without_activations_the_posterior_is_the_prior(votes, a, covariance):
    routed = route(votes, 0 * a, covariance=covariance, activation="logit", **PRIORS)
    np.testing.assert_allclose(routed.v, 0.3, rtol=1e-6)
    nothing = route(votes[:, :1], 0 * a[:, :1], covariance=covariance, activation="logit", **PRIORS)
    np.testing.assert_allclose(routed.a, nothing.a, rtol=1e-5)
    np.testing.assert_allclose(routed.a[0, 0], routed.a[1, 2], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_a_rotation_of_the_poses_rotates_the_means_of_a_full_covariance_alone():
    votes, a = normal(0, 1, 20, UPPER, D), uniform(1, 1, 20)
    rotation = jnp.linalg.qr(normal(6, D, D))[0]
    differences = {}
    for covariance in FORMS:
        plain, rotated = (
            route(each, a, covariance=covariance) for each in (votes, votes @ rotation)
        )
        differences[covariance] = np.abs(plain.v @ rotation - rotated.v).max()
    assert differences["full"] < 1e-9
    assert differences["diagonal"] > 1e-3


def test_closer_votes_are_more_active(votes, a):
    """With one round the masses are equal."""
    logits = [
        route(scale * votes, a, num_iterations=1, activation="logit").a for scale in (1.0, 0.5, 0.1)
    ]
    assert (logits[0] < logits[1]).all()
    assert (logits[1] < logits[2]).all()


@pytest.mark.slow
@pytest.mark.parametrize(("children", "winner_is"), [(6, "least active"), (3000, "most active")])
def test_few_votes_make_the_capsule_that_wins_them_the_least_active(children, winner_is):
    votes = normal(0, children, UPPER, 16, scale=3.0).at[:, 0].multiply(0.01)
    routed = route(votes, jnp.ones(children), activation="logit")
    assert (routed.c[:, 0] > 0.99).all()
    order = np.argsort(routed.a)
    assert order[0 if winner_is == "least active" else -1] == 0


def test_offsets_have_no_gradient_behind_a_batch_norm(votes, a):
    def loss(beta_u, beta_a, normalised):
        logits = vb_routing(votes, a, beta_u, beta_a, activation="logit").a
        if normalised:
            centred = logits - logits.mean(0, keepdims=True)
            logits = centred / jnp.sqrt((centred**2).mean(0, keepdims=True))
        return jnp.sum(normal(3, *logits.shape) * logits)

    gradient = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)
    plain, dead = (gradient(*BETAS, normalised) for normalised in (False, True))
    assert min(np.abs(each).min() for each in plain) > 1e-2
    assert max(np.abs(each).max() for each in dead) < 1e-3


def loss(votes, a, beta_u, beta_a, **settings):
    routed = vb_routing(votes, a, beta_u, beta_a, **settings)
    return jnp.sum(normal(7, *routed.v.shape) * routed.v) + jnp.sum(routed.a**2)


@pytest.mark.ci
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("covariance", FORMS)
def test_full_gradient_is_the_numerical_one(covariance):
    operands = normal(0, 1, 4, 2, 2), uniform(1, 1, 4), normal(2, 2), normal(3, 2)
    full = jax.jit(functools.partial(loss, covariance=covariance))
    chex.assert_numerical_grads(full, operands, order=1, atol=1e-6, rtol=1e-6, modes=["rev"])


@pytest.mark.slow
def test_stopped_gradient_is_that_of_frozen_couplings(votes, a):
    c = route(votes, a).c

    def frozen(votes, a):
        w = c * a[..., None]
        kappa = 1 + w.sum(1)[..., None]
        mean = jnp.einsum("nij,nijd->njd", w, votes) / kappa
        return jnp.sum(normal(7, *mean.shape) * mean)

    def means(votes, a):
        routed = vb_routing(votes, a, gradient="stop")
        return jnp.sum(normal(7, *routed.v.shape) * routed.v)

    got = jax.jit(jax.grad(means, (0, 1)))(votes, a)
    chex.assert_trees_all_close(got, jax.grad(frozen, (0, 1))(votes, a), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("covariance", FORMS)
def test_every_setting_of_the_value_reaches_the_function(votes, a, covariance):
    settings = {"num_iterations": 2, "covariance": covariance, "activation": "logit", **PRIORS}
    routing = make_routing("vb", gradient="stop", **settings)
    learned = dict(zip(("beta_u", "beta_a"), BETAS, strict=True))
    got = jax.jit(routing)(votes, a, learned)
    chex.assert_trees_all_close(got, route(votes, a, *BETAS, **settings), rtol=1e-4)
    gradient = jax.jit(jax.grad(lambda votes: jnp.sum(routing(votes, a, learned).c ** 2)))
    assert not gradient(votes).any(), "gradient is 'stop'"


@pytest.mark.slow
def test_the_activation_is_the_sigmoid_of_its_logit(votes, a):
    logits = route(votes, a, *BETAS, activation="logit").a
    np.testing.assert_allclose(route(votes, a, *BETAS).a, jax.nn.sigmoid(logits), rtol=1e-5)


def test_learned_offsets():
    arrays = make_routing("vb", beta_a_init=0.5).learned_arrays(1152, 5, 16, 16)
    start = {name: array.init(jax.random.key(0), array.shape) for name, array in arrays.items()}
    chex.assert_trees_all_equal(start, {"beta_u": jnp.zeros(5), "beta_a": jnp.full(5, 0.5)})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"covariance": "ful"}, "unknown covariance 'ful'; did you mean 'full'"),
        ({"activation": "softmax"}, "activation is 'sigmoid' or 'logit', not 'softmax'"),
        ({"alpha_0": 0.0}, "alpha_0 is above 0, not 0.0"),
        ({"kappa_0": 0.0}, "kappa_0 is above 0"),
        ({"psi_0": -1.0}, "psi_0 is above 0"),
        ({"nu_above_d": -1.0}, "nu_above_d is above -1"),
    ],
)
def test_settings_are_checked(settings, message):
    error = (TypeError, ValueError) if "activation" in settings else ValueError
    with pytest.raises(error, match=None if "activation" in settings else message):
        make_routing("vb", **settings)
