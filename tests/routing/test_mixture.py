"""What EM and variational Bayes share: symmetries, who competes, extremes, rounds, memory."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.layers import ConvCaps
from capsjax.notation import Capsules
from capsjax.routing import em_routing, make_routing, vb_routing
from capsjax.routing.competition import DENSE, Competition, window_children

N, LOWER, UPPER, D = 2, 6, 3, 4
FUNCTIONS = {
    # Activations that differ by much more than the 0.02 of the paper lets them.
    "em": functools.partial(em_routing, final_lambda=2.0),
    "vb": vb_routing,
    "full vb": functools.partial(vb_routing, covariance="full"),
}
STATIC = ("num_iterations", "gradient", "max_iterations", "competition")
COMPILED = {name: jax.jit(each, static_argnames=STATIC) for name, each in FUNCTIONS.items()}
# The default generator takes longer to compile than all that is tested here.
KEY = jax.random.key(0, impl="rbg")


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def uniform(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).uniform(0.05, 1, size=shape), jnp.float32)


VOTES, A = normal(0, N, LOWER, UPPER, D), uniform(1, N, LOWER)
BETAS = normal(2, UPPER), normal(3, UPPER)


@pytest.fixture(params=["em", "vb"])
def route(request):
    """The function with its offsets, compiled."""
    return functools.partial(_with_betas, COMPILED[request.param])


@pytest.fixture(params=FUNCTIONS)
def any_route(request):
    """The same, with the full covariance of VB too."""
    return functools.partial(_with_betas, COMPILED[request.param])


def _with_betas(function, votes, a, betas=BETAS, **settings):
    return function(votes, a, *betas, **settings)


close = functools.partial(chex.assert_trees_all_close, rtol=1e-3, atol=1e-4)


def test_children_in_another_order_change_the_couplings_alone(route):
    order = jnp.array([3, 0, 5, 1, 2, 4])
    before, after = route(VOTES, A), route(VOTES[:, order], A[:, order])
    close((after.v, after.a, after.c), (before.v, before.a, before.c[:, order]))


def test_parents_in_another_order_change_everything(route):
    order = jnp.array([2, 0, 1])
    before = route(VOTES, A)
    after = route(VOTES[:, :, order], A, [beta[order] for beta in BETAS])
    expected = before.v[:, order], before.a[:, order], before.c[:, :, order]
    close((after.v, after.a, after.c), expected)


@pytest.mark.slow
def test_a_batch_of_one_gives_the_same_as_a_batch_of_many_and_as_no_batch(route):
    many = route(VOTES, A)
    one, alone = route(VOTES[:1], A[:1]), route(VOTES[0], A[0])
    close(one, jax.tree.map(lambda x: x[:1], many))
    close(alone, jax.tree.map(lambda x: x[0], many))


@pytest.mark.slow
def test_children_that_are_not_active_or_masked_are_not_there(any_route):
    there = jnp.array([0, 1, 3, 5])
    expected = any_route(VOTES[:, there], A[:, there])
    mask = jnp.zeros((N, LOWER)).at[:, there].set(1.0)
    inactive = any_route(VOTES, mask * A)
    # Whatever those that are masked have.
    votes = VOTES.at[:, 2].set(jnp.nan).at[:, 4].set(1e20)
    masked = any_route(votes, A.at[:, 2].set(jnp.nan), mask=mask)
    close((inactive.v, inactive.a), (expected.v, expected.a))
    close((masked.v, masked.a, masked.c[:, there]), (expected.v, expected.a, expected.c))
    assert not masked.c[:, 2].any()
    assert not any_route(votes, A, mask=mask, num_iterations=1).c[:, 2].any()


def test_a_masked_parent_gets_no_vote(route):
    routed = route(VOTES, A, parent_mask=jnp.array([[1.0, 0.0, 1.0]] * N))
    assert not routed.c[:, :, 1].any()
    np.testing.assert_allclose(routed.c.sum(-1), 1.0, rtol=1e-5)


def test_a_masked_parent_is_not_there(any_route):
    there = jnp.array([0, 2])
    masked = any_route(VOTES, A, parent_mask=jnp.array([[1.0, 0.0, 1.0]] * N))
    expected = any_route(VOTES[:, :, there], A, [beta[there] for beta in BETAS])
    got = (masked.v[:, there], masked.a[:, there], masked.c[:, :, there])
    close(got, (expected.v, expected.a, expected.c))


def test_equal_votes_and_offsets_leave_parents_equal(route):
    votes = jnp.broadcast_to(VOTES[:, :, :1], VOTES.shape)
    routed = route(votes, A, [jnp.ones(UPPER)] * 2)
    np.testing.assert_allclose(routed.c, 1 / UPPER, rtol=1e-5)
    np.testing.assert_allclose(routed.v, routed.v[:, :1].repeat(UPPER, 1), rtol=1e-4, atol=1e-6)


@pytest.mark.ci
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_the_couplings_of_a_child_sum_to_one(any_route, stride, scale):
    children = window_children((4, 4), 3, stride, 2)
    o, i = children.shape
    competition = COMPETITIONS[stride]
    routed = any_route(scale * normal(4, o, i, UPPER, D), uniform(5, o, i), competition=competition)
    totals = np.zeros(32)
    np.add.at(totals, children, np.asarray(routed.c.sum(-1)))
    seen = np.isin(np.arange(32), children)
    np.testing.assert_allclose(totals, seen, rtol=1e-4)
    assert seen.all() == (stride == 1)
    dense = any_route(scale * VOTES, A).c.sum(-1)
    np.testing.assert_allclose(dense, 1.0, rtol=1e-5)


COMPETITIONS = {stride: Competition(window_children((4, 4), 3, stride, 2)) for stride in (1, 2)}


@pytest.mark.slow
def test_a_window_of_the_whole_grid_is_dense(route):
    whole = Competition(np.arange(LOWER)[None], "all")
    convolved = route(VOTES[:, None], A[:, None], competition=whole)
    dense = route(VOTES, A, competition=DENSE)
    close((convolved.v[:, 0], convolved.a[:, 0], convolved.c[:, 0]), (dense.v, dense.a, dense.c))


@pytest.mark.ci
@pytest.mark.parametrize("name", ["em", "vb"])
def test_a_convolution_sees_windows_in_the_order_of_slices_and_follows_a_shift(name):
    poses, a = normal(6, 1, 5, 5, 2, 4), uniform(7, 1, 5, 5, 2)
    routing = make_routing(name, num_iterations=1)
    layer = ConvCaps(types=3, pose_size=4, routing=routing, stride=2, over="types")
    (above, _), variables = jax.jit(layer.init_with_output)(KEY, Capsules(poses, a))
    params = variables["params"]
    votes = jnp.einsum("ip,ijdp->ijd", poses[0, :3, :3].reshape(18, 4), params["W"])
    first = routing(votes, a[0, :3, :3].reshape(18), params)
    close((above.poses[0, 0, 0], above.activations[0, 0, 0]), (first.v, first.a))
    shifted = Capsules(jnp.roll(poses, 2, axis=1), jnp.roll(a, 2, axis=1))
    moved, _ = jax.jit(layer.apply)(variables, shifted)
    close(
        (moved.poses[:, 1], moved.activations[:, 1]), (above.poses[:, 0], above.activations[:, 0])
    )


@pytest.mark.ci
@pytest.mark.parametrize("name", ["em", "vb"])
def test_a_rivals_votes_reach_an_activation_if_rounds_are_differentiated(name):
    def gradient(rounds, mode):
        def active(votes):
            return COMPILED[name](votes, A, *BETAS, num_iterations=rounds, gradient=mode).a[0, 0]

        return jax.grad(active)(VOTES)[0]

    for rounds, mode in ((1, "full"), (3, "stop"), (3, "full")):
        got = gradient(rounds, mode)
        assert np.abs(got[:, 0]).max() > 1e-4
        assert (np.abs(got[:, 1]).max() > 1e-6) == (rounds == 3 and mode == "full")


# Votes of zero, activations of zero, equal votes, and votes that are 300 times as long.
EXTREMES = jnp.concatenate([VOTES * x + y for x, y in ((0, 0), (1, 0), (0, 3), (300, 0))])
EXTREME_A = jnp.concatenate([A * x for x in (1, 0, 1, 1)])


@pytest.mark.ci
@pytest.mark.parametrize(
    ("name", "mode", "children", "parents"),
    [
        *[(name, mode, LOWER, UPPER) for name in FUNCTIONS for mode in ("full", "stop")],
        *[(name, "full", *sizes) for name in ("em", "vb") for sizes in ((1, UPPER), (LOWER, 1))],
    ],
)
def test_values_and_gradients_are_finite(name, mode, children, parents):
    @jax.jit
    def with_gradients(votes, a, *betas):
        function = functools.partial(FUNCTIONS[name], gradient=mode)
        routed, pull = jax.vjp(lambda *inputs: function(*inputs), votes, a, *betas)
        return routed, pull(jax.tree.map(jnp.ones_like, routed))

    votes, a = EXTREMES[:, :children, :parents], EXTREME_A[:, :children]
    routed, gradients = with_gradients(votes, a, *(beta[:parents] for beta in BETAS))
    chex.assert_tree_all_finite((routed, gradients))
    chex.assert_shape([routed.v, routed.a], [(4 * N, parents, D), (4 * N, parents)])


def test_a_parent_without_children_is_finite(route):
    competition = Competition(np.array([[0, 1], [-1, -1]]))
    routed = route(VOTES[:, None, :2].repeat(2, 1), A[:, None, :2].repeat(2, 1),
                   competition=competition)  # fmt: skip
    chex.assert_tree_all_finite(routed[:3])
    assert not routed.c[:, 1].any()
    assert not routed.v[:, 1].any()


@pytest.mark.ci
@pytest.mark.parametrize("name", ["em", "vb"])
def test_traced_rounds_and_numbers_are_the_python_ones(name):
    def loss(votes, rounds, **settings):
        routed = FUNCTIONS[name](votes, A, *BETAS, rounds, **settings)
        return jnp.sum(normal(7, *routed.v.shape) * routed.v) + jnp.sum(routed.a)

    traced = {
        "full": jax.jit(jax.value_and_grad(functools.partial(loss, max_iterations=5))),
        "stop": jax.jit(jax.value_and_grad(functools.partial(loss, gradient="stop"))),
    }
    static = jax.jit(jax.value_and_grad(loss), static_argnums=1, static_argnames="gradient")
    for mode, function in traced.items():
        close(function(VOTES, jnp.array(2)), static(VOTES, 2, gradient=mode))
    with pytest.raises(ValueError, match="a traced num_iterations needs gradient='stop'"):
        jax.jit(loss)(VOTES, 2)


@pytest.mark.ci
@pytest.mark.parametrize("name", ["em", "vb"])
def test_settings_that_are_data_can_be_traced(name):
    routing = make_routing(name, max_iterations=3)
    learned = {"beta_u": BETAS[0], "beta_a": BETAS[1]}

    def mean_of(numbers):
        changed = make_routing(name, max_iterations=3, **numbers)
        return changed(VOTES, A, learned).v

    defaults = {setting: jnp.asarray(getattr(routing, setting)) for setting in routing.TRACED}
    numbers = {setting: jnp.stack([value, value]) for setting, value in defaults.items()}
    got = jax.jit(jax.vmap(mean_of))(numbers)
    close(got[1], routing(VOTES, A, learned).v)


def test_votes_of_half_precision_are_routed_in_single(route):
    votes = VOTES.astype(jnp.bfloat16)
    got = route(votes, A)
    assert got.v.dtype == got.c.dtype == jnp.float32
    close(got, route(votes.astype(jnp.float32), A))


@pytest.mark.ci
@pytest.mark.parametrize("name", ["em", "vb"])
def test_more_rounds_do_not_hold_more_votes(name):
    votes, a = jnp.ones((64, UPPER, 16)), jnp.ones(64)

    def bytes_of(rounds):
        def loss(votes):
            return jnp.sum(FUNCTIONS[name](votes, a, *BETAS, rounds).v)

        compiled = jax.jit(jax.grad(loss)).lower(votes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert bytes_of(8) - bytes_of(4) < votes.nbytes


def test_one_round_has_the_first_couplings(route):
    routed = route(VOTES, A, num_iterations=1)
    np.testing.assert_allclose(routed.c, 1 / UPPER, rtol=1e-6)
    assert not routed.logits.any()
    assert route(VOTES, A, num_iterations=2).c.std() > 1e-2
