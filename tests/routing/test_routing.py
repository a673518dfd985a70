"""Routing against slow loops, its gradients, its invariants, and the forms it can be called in."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from capsjax.ops import make_squash
from capsjax.routing import Routing, dynamic_routing, make_routing, uniform_routing
from capsjax.routing.competition import leaky_softmax
from capsjax.routing.dynamic import DynamicRouting
from capsjax.routing.uniform import UniformRouting

N, LOWER, UPPER, D = 3, 5, 4, 2
ROUNDS = (1, 2, 3, 5)

# Compiled once for all tests with the same settings: compiling is what takes the time here.
SETTINGS = ("num_iterations", "gradient", "leaky", "eps", "eps_at")
route = jax.jit(dynamic_routing, static_argnames=SETTINGS)


def weighted(v, a):
    """A scalar that no symmetry of the poses leaves unchanged."""
    return jnp.sum(normal(3, *v.shape) * v) + jnp.sum(normal(4, *a.shape) * a)


def loss(votes, bias, num_iterations, **settings):
    routed = dynamic_routing(votes, num_iterations, bias=bias, **settings)
    return weighted(routed.v, routed.a)


gradients = jax.jit(jax.grad(loss, (0, 1)), static_argnames=SETTINGS)
gradients_traced = jax.jit(jax.grad(loss, (0, 1)), static_argnames=SETTINGS[1:])


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


@pytest.fixture
def votes():
    return normal(0, N, LOWER, UPPER, D)


@pytest.fixture
def bias():
    return normal(1, UPPER, D)


def slow_squash(s, eps, eps_at):
    squared = sum(x * x for x in s)
    norm = math.sqrt(squared + eps) if eps_at == "root" else math.sqrt(squared) + eps
    return [squared / (1 + squared) * x / norm for x in s]


def slow_routing(votes, rounds, bias, leaky, eps, eps_at):
    """Procedure 1 of the paper, one number at a time."""
    votes = np.asarray(votes, np.float64)
    n_size, i_size, j_size, d_size = votes.shape
    c = np.zeros((n_size, i_size, j_size))
    v = np.zeros((n_size, j_size, d_size))
    for n in range(n_size):
        b = np.zeros((i_size, j_size))
        for _ in range(rounds):
            for i in range(i_size):
                total = sum(math.exp(b[i, j]) for j in range(j_size)) + (1 if leaky else 0)
                for j in range(j_size):
                    c[n, i, j] = math.exp(b[i, j]) / total
            for j in range(j_size):
                s = np.zeros(d_size) if bias is None else np.array(bias[j], np.float64)
                for i in range(i_size):
                    s += c[n, i, j] * votes[n, i, j]
                v[n, j] = slow_squash(s, eps, eps_at)
            for i in range(i_size):
                for j in range(j_size):
                    b[i, j] += sum(votes[n, i, j, d] * v[n, j, d] for d in range(d_size))
    return v, c


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("eps_at", ["root", "norm"])
@pytest.mark.parametrize("leaky", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_against_slow_loops(with_bias, leaky, eps_at):
    votes = normal(0, N, LOWER, UPPER, D)
    bias = normal(1, UPPER, D) if with_bias else None
    # An eps this large makes its two placements give different numbers.
    settings = {"bias": bias, "leaky": leaky, "eps": 1e-2, "eps_at": eps_at}
    fast = jax.jit(lambda rounds: dynamic_routing(votes, rounds, **settings))
    for rounds in ROUNDS:
        got = fast(jnp.array(rounds))
        v, c = slow_routing(votes, rounds, **settings)
        a = np.sqrt((v**2).sum(-1) + (1e-2 if eps_at == "root" else 0))
        chex.assert_trees_all_close(tuple(got[:3]), (v, a, c), rtol=1e-9)
        chex.assert_shape(list(got[:3]), [(N, UPPER, D), (N, UPPER), (N, LOWER, UPPER)])


@pytest.mark.parametrize("rounds", ROUNDS)
def test_single_precision_and_a_python_number_of_rounds_against_slow_loops(votes, rounds):
    assert votes.dtype == jnp.float32
    got = route(votes, num_iterations=rounds)
    slow = slow_routing(votes, rounds, None, False, 1e-7, "root")
    chex.assert_trees_all_close((got.v, got.c), slow, atol=1e-5)


def test_two_rounds_by_hand():
    # Two lower capsules agree on upper capsule 0 and have nothing to say to capsule 1.
    votes = jnp.array([[[1.0], [0.0]], [[1.0], [0.0]]])
    routed = dynamic_routing(votes, 2)
    # Round one: c = 1/2, s_0 = 1, v_0 = 1/2, so b_i0 = 1/2.
    c = math.exp(0.5) / (math.exp(0.5) + 1)
    np.testing.assert_allclose(routed.c, [[c, 1 - c]] * 2, rtol=1e-5)
    np.testing.assert_allclose(routed.v, [[(2 * c) ** 2 / (1 + (2 * c) ** 2)], [0.0]], rtol=1e-5)
    np.testing.assert_allclose(routed.v[0, 0], 0.607816, rtol=1e-5)


def test_two_leaky_rounds_by_hand():
    votes = jnp.array([[[1.0], [0.0]], [[1.0], [0.0]]])
    routed = dynamic_routing(votes, 2, leaky=True)
    # Round one: c = 1/3, s_0 = 2/3, v_0 = (4/9) / (13/9) = 4/13 = b_i0.
    total = math.exp(4 / 13) + 2
    np.testing.assert_allclose(routed.c, [[math.exp(4 / 13) / total, 1 / total]] * 2, rtol=1e-5)


def test_coupling_goes_to_the_vote_that_agrees():
    # Four votes for capsule 0 point one way, and the fifth points the other way.
    votes = jnp.ones((5, 2, 1)).at[4, 0].set(-1.0).at[:, 1].set(0.0)
    c = dynamic_routing(votes, 3).c
    assert (c[:4, 0] > 0.5).all()
    assert c[4, 0] < 0.5


@pytest.mark.parametrize("rounds", ROUNDS)
def test_couplings_sum_to_one_over_the_upper_capsules(votes, rounds):
    c = np.asarray(route(votes, num_iterations=rounds).c)
    np.testing.assert_allclose(c.sum(axis=-1), np.ones((N, LOWER)), rtol=1e-6)
    # The trap is a softmax over the lower capsules, whose sums over i would be one.
    assert np.abs(c.sum(axis=-2) - 1).min() > 1e-3


@pytest.mark.parametrize("rounds", [1, 3])
def test_leaky_couplings_sum_to_less_than_one(votes, rounds):
    c = np.asarray(route(votes, num_iterations=rounds, leaky=True).c)
    assert (c > 0).all()
    assert (c.sum(axis=-1) < 1).all()


def test_leaky_softmax_is_a_softmax_with_a_zero_in_front():
    b = normal(2, 3, 4)
    exps = np.exp(np.asarray(b, np.float64))
    expected = exps / (1 + exps.sum(-1, keepdims=True))
    np.testing.assert_allclose(leaky_softmax(b), expected, rtol=1e-5)


def frozen_routing(votes, bias, c):
    """One weighted sum and squash with given couplings, eps 1e-7 inside the root."""
    s = jnp.einsum("nij,nijd->njd", c, votes) + bias[None]
    squared = (s * s).sum(-1, keepdims=True)
    v = squared / (1 + squared) * s / jnp.sqrt(squared + 1e-7)
    return v, jnp.sqrt((v * v).sum(-1) + 1e-7)


@pytest.mark.parametrize("leaky", [False, True])
def test_stopped_gradient_is_that_of_frozen_couplings(votes, bias, leaky):
    frozen = jax.jit(jax.grad(lambda *args: weighted(*frozen_routing(*args)), (0, 1)))
    c_of = jax.jit(lambda rounds: dynamic_routing(votes, rounds, bias=bias, leaky=leaky).c)
    for rounds in map(jnp.array, ROUNDS):
        got = gradients_traced(votes, bias, rounds, leaky=leaky)
        chex.assert_trees_all_close(got, frozen(votes, bias, c_of(rounds)), atol=1e-5)


@pytest.mark.parametrize("gradient", ["stop", "full"])
def test_couplings_are_constants_to_the_stopped_gradient_alone(votes, gradient):
    routing = make_routing("dynamic", num_iterations=2, gradient=gradient)

    def of_couplings(votes):
        return jnp.sum(routing(votes, jnp.ones((N, LOWER)), {}).c ** 2)

    largest = np.abs(jax.jit(jax.grad(of_couplings))(votes)).max()
    assert largest > 1e-2 if gradient == "full" else largest == 0


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("rounds", "leaky", "eps_at"),
    [(1, False, "root"), (2, True, "norm"), (3, False, "root")],
)
def test_full_gradient_is_the_numerical_one(rounds, leaky, eps_at):
    @jax.jit
    def full(votes, bias):
        return loss(votes, bias, rounds, gradient="full", leaky=leaky, eps_at=eps_at)

    operands = normal(0, 1, 3, 2, 2), normal(1, 2, 2)
    chex.assert_numerical_grads(full, operands, order=1, atol=1e-7, rtol=1e-7, modes=["rev"])


@pytest.mark.slow
def test_gradients_are_the_same_for_one_round_and_differ_for_more(votes, bias):
    for rounds in (1, 3):
        stop, full = (gradients(votes, bias, rounds, gradient=name) for name in ("stop", "full"))
        differences = [np.abs(x - y).max() for x, y in zip(stop, full, strict=True)]
        assert max(differences) < 1e-5 if rounds == 1 else min(differences) > 1e-2


def test_gradient_setting_does_not_change_the_values(votes):
    full = route(votes, num_iterations=3, gradient="full")
    chex.assert_trees_all_close(route(votes, num_iterations=3), full, rtol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"gradient": "stop"},
        {"gradient": "stop", "leaky": True, "eps_at": "norm"},
        {"gradient": "full"},
        {"gradient": "full", "leaky": True, "eps_at": "norm"},
    ],
)
def test_gradients_are_finite_at_zero_votes(settings):
    zeros = jnp.zeros((N, LOWER, UPPER, D)), jnp.zeros((UPPER, D))
    chex.assert_tree_all_finite(gradients(*zeros, 3, **settings))


def test_zero_votes_route_to_zero_poses():
    routed = route(jnp.zeros((N, LOWER, UPPER, D)), num_iterations=3)
    np.testing.assert_array_equal(routed.v, 0.0)
    np.testing.assert_allclose(routed.c, 0.25)


def test_traced_rounds_under_jit_are_the_python_ones_with_one_trace(votes):
    def traced(votes, rounds):
        return dynamic_routing(votes, rounds)

    traced = jax.jit(chex.assert_max_traces(traced, n=1))
    for rounds in ROUNDS:
        got = traced(votes, jnp.array(rounds))
        chex.assert_trees_all_close(got, route(votes, num_iterations=rounds), atol=1e-6)


@pytest.mark.parametrize("rounds", ROUNDS)
def test_gradient_for_traced_rounds_is_that_for_the_python_ones(votes, bias, rounds):
    got = gradients_traced(votes, bias, jnp.array(rounds), leaky=False)
    chex.assert_trees_all_close(got, gradients(votes, bias, rounds, gradient="stop"), atol=1e-5)


def test_traced_rounds_under_vmap_are_the_python_ones(votes, bias):
    together = jax.jit(jax.vmap(lambda rounds: dynamic_routing(votes, rounds)))
    one_by_one = [route(votes, num_iterations=rounds) for rounds in ROUNDS]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one)
    chex.assert_trees_all_close(together(jnp.array(ROUNDS)), stacked, atol=1e-6)

    together = jax.jit(jax.vmap(lambda rounds: jax.grad(loss, (0, 1))(votes, bias, rounds)))
    one_by_one = [gradients(votes, bias, rounds, gradient="stop") for rounds in ROUNDS]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one)
    chex.assert_trees_all_close(together(jnp.array(ROUNDS)), stacked, atol=1e-5)


def test_traced_rounds_below_one_count_as_one(votes):
    traced = jax.jit(dynamic_routing)
    for rounds in (0, -3):
        once = route(votes, num_iterations=1)
        chex.assert_trees_all_close(traced(votes, jnp.array(rounds)), once, rtol=1e-6)


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap])
def test_traced_rounds_need_the_stopped_gradient(votes, transform):
    traced = transform(lambda rounds: dynamic_routing(votes, rounds, gradient="full").v)
    with pytest.raises(ValueError, match="gradient='stop'"):
        traced(jnp.array([2]) if transform is jax.vmap else jnp.array(2))


@pytest.mark.parametrize("rounds", [0, -1])
def test_rounds_below_one_are_refused(votes, rounds):
    with pytest.raises(ValueError, match=f"at least 1, not {rounds}"):
        dynamic_routing(votes, rounds)
    with pytest.raises(ValueError, match=f"at least 1, not {rounds}"):
        make_routing("dynamic", num_iterations=rounds)


def test_unknown_gradient_is_refused(votes):
    with pytest.raises((ValueError, TypeError)):
        dynamic_routing(votes, gradient="half")
    with pytest.raises((ValueError, TypeError)):
        make_routing("dynamic", gradient="half")


@pytest.mark.parametrize("leaky", [False, True])
def test_a_batch_of_one_gives_the_same_as_a_batch_of_many(votes, leaky):
    many = route(votes, num_iterations=3, leaky=leaky)
    for n in range(N):
        one = route(votes[n : n + 1], num_iterations=3, leaky=leaky)
        chex.assert_trees_all_close(one, jax.tree.map(lambda x, n=n: x[n : n + 1], many), atol=1e-6)


@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_any_leading_axes(bias, batch):
    votes = normal(5, *batch, LOWER, UPPER, D)
    routed = route(votes, num_iterations=2, bias=bias)
    chex.assert_shape([routed.v, routed.a], [(*batch, UPPER, D), (*batch, UPPER)])
    flat = route(votes.reshape(-1, LOWER, UPPER, D), num_iterations=2, bias=bias)
    chex.assert_trees_all_close(routed.v.reshape(-1, UPPER, D), flat.v, atol=1e-6)
    chex.assert_trees_all_close(routed.c.reshape(-1, LOWER, UPPER), flat.c, atol=1e-6)


@pytest.mark.slow
def test_vmap_is_a_loop_and_jit_is_eager(votes):
    eager = dynamic_routing(votes, 3)
    chex.assert_trees_all_close(route(votes, num_iterations=3), eager, atol=1e-6)
    loop = [route(one, num_iterations=3) for one in votes]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *loop)
    mapped = jax.jit(jax.vmap(lambda one: dynamic_routing(one, 3)))(votes)
    chex.assert_trees_all_close(mapped, stacked, atol=1e-6)
    chex.assert_trees_all_close(mapped, eager, atol=1e-6)


@pytest.mark.parametrize("leaky", [False, True])
def test_permuting_the_lower_capsules_permutes_the_couplings_alone(votes, leaky):
    order = jnp.array([3, 0, 4, 1, 2])
    before = route(votes, num_iterations=3, leaky=leaky)
    after = route(votes[:, order], num_iterations=3, leaky=leaky)
    chex.assert_trees_all_close((after.v, after.a), (before.v, before.a), atol=1e-6)
    chex.assert_trees_all_close(after.c, before.c[:, order], atol=1e-6)


@pytest.mark.parametrize("leaky", [False, True])
def test_permuting_the_upper_capsules_permutes_everything(votes, bias, leaky):
    order = jnp.array([2, 0, 3, 1])
    before = route(votes, num_iterations=3, bias=bias, leaky=leaky)
    after = route(votes[:, :, order], num_iterations=3, bias=bias[order], leaky=leaky)
    chex.assert_trees_all_close(after.v, before.v[:, order], atol=1e-6)
    chex.assert_trees_all_close(after.a, before.a[:, order], atol=1e-6)
    chex.assert_trees_all_close(after.c, before.c[:, :, order], atol=1e-6)


@pytest.mark.parametrize("leaky", [False, True])
def test_uniform_couplings_are_all_alike_and_it_is_the_first_round(votes, bias, leaky):
    routed = uniform_routing(votes, bias=bias, leaky=leaky)
    np.testing.assert_allclose(routed.c, 1 / (UPPER + leaky), rtol=1e-6)
    first_round = route(votes, num_iterations=1, bias=bias, leaky=leaky)
    chex.assert_trees_all_close(routed, first_round, atol=1e-6)


def test_uniform_pose_by_hand():
    votes = jnp.array([[[3.0, 4.0], [0.0, 0.0]], [[9.0, 12.0], [0.0, 0.0]]])
    # s_0 = (3 + 9, 4 + 12) / 2 = (6, 8), of length 10, which squash shrinks to 100/101.
    routed = uniform_routing(votes)
    np.testing.assert_allclose(routed.v, [[60 / 101, 80 / 101], [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(routed.a[0], 100 / 101, rtol=1e-6)


def test_the_squash_is_the_one_that_is_named():
    votes = jnp.array([[[3.0, 4.0], [0.0, 0.0]], [[9.0, 12.0], [0.0, 0.0]]])
    length = 1 - math.exp(-10)  # s_0 as above
    routed = uniform_routing(votes, squash="exponential")
    np.testing.assert_allclose(routed.v, [[0.6 * length, 0.8 * length], [0, 0]], rtol=1e-6)
    first_round = make_routing("dynamic", num_iterations=1, squash="exponential")
    chex.assert_trees_all_equal(first_round(votes, jnp.ones(2), {}), routed)
    with pytest.raises((ValueError, jaxtyping.TypeCheckError), match="hinton"):
        make_squash("hinton")


@pytest.mark.parametrize("settings", [{"num_iterations": 5}, {"gradient": "full"}])
def test_uniform_routing_ignores_rounds_and_gradient(votes, settings):
    plain = uniform_routing(votes)
    chex.assert_trees_all_equal(uniform_routing(votes, **settings), plain)
    chex.assert_trees_all_equal(make_routing("uniform")(votes, jnp.ones((N, LOWER)), {}), plain)


@pytest.mark.parametrize(
    ("name", "function"), [("dynamic", dynamic_routing), ("uniform", uniform_routing)]
)
def test_every_setting_of_the_value_reaches_the_function(votes, bias, name, function):
    settings = {"leaky": True, "eps": 1e-2, "eps_at": "norm"}
    if name == "dynamic":
        settings["num_iterations"] = 2
    routing = make_routing(name, use_bias=True, **settings)
    got = jax.jit(routing)(votes, jnp.ones((N, LOWER)), {"bias": bias})
    expected = jax.jit(functools.partial(function, **settings))(votes, bias=bias)
    chex.assert_trees_all_close(got, expected, rtol=1e-6)


def test_make_routing_makes_the_named_algorithm():
    assert make_routing("dynamic") == DynamicRouting(num_iterations=3, gradient="stop")
    uniform = make_routing("uniform")
    assert isinstance(uniform, UniformRouting)
    assert uniform != make_routing("dynamic")
    for name in ("dynamic", "uniform"):
        assert isinstance(make_routing(name), Routing)


def test_make_routing_names_the_nearest_algorithm():
    with pytest.raises(ValueError, match="did you mean 'dynamic'"):
        make_routing("dinamic")


def test_make_routing_names_the_nearest_setting():
    with pytest.raises(
        ValueError, match="no setting 'num_iteration'; did you mean 'num_iterations'"
    ):
        make_routing("dynamic", num_iteration=2)


@pytest.mark.parametrize("name", ["dynamic", "uniform"])
def test_the_value_is_hashable_and_static_to_jit(votes, name):
    make = functools.partial(make_routing, name, eps=1e-3)
    assert make() == make()
    assert hash(make()) == hash(make())
    assert make() != make(leaky=True)

    def apply(routing, votes):
        return routing(votes, jnp.ones((N, LOWER)), {})

    chex.clear_trace_counter()
    apply = jax.jit(chex.assert_max_traces(apply, n=1), static_argnums=0)
    first = apply(make(), votes)
    # An equal value is the same program: a second trace would fail.
    chex.assert_trees_all_equal(apply(make(), votes), first)


@pytest.mark.parametrize("name", ["dynamic", "uniform"])
def test_learned_arrays(name):
    assert make_routing(name).learned_arrays(1152, 10, 8, 16) == {}
    arrays = make_routing(name, use_bias=True, bias_init=0.25).learned_arrays(1152, 10, 8, 16)
    assert list(arrays) == ["bias"]
    assert arrays["bias"].shape == (10, 16)
    initial = arrays["bias"].init(jax.random.key(0), arrays["bias"].shape)
    np.testing.assert_allclose(initial, np.full((10, 16), 0.25))


def test_the_bias_starts_at_a_tenth():
    bias = make_routing("dynamic", use_bias=True).learned_arrays(6, 3, 4, 2)["bias"]
    np.testing.assert_allclose(bias.init(jax.random.key(0), bias.shape), 0.1, rtol=1e-6)


def test_the_bias_may_start_as_an_initializer_makes_it():
    made = make_routing("dynamic", use_bias=True, bias_init="uniform(0.5)")
    bias = made.learned_arrays(6, 30, 4, 40)["bias"]
    values = np.abs(bias.init(jax.random.key(0), bias.shape))
    assert values.shape == (30, 40)
    assert values.min() < 0.01 < 0.49 < values.max() <= 0.5


@pytest.mark.slow
def test_concrete_rounds_of_any_integer_type_are_python_integers():
    votes = jnp.ones((2, 3, 4, 2))
    rounds = jnp.array(3)

    def loss(votes):
        return dynamic_routing(votes, rounds, gradient="full").v.sum()

    chex.assert_trees_all_close(jax.jit(jax.grad(loss))(votes), jax.grad(loss)(votes), atol=1e-6)
    assert hash(make_routing("dynamic", num_iterations=rounds)) == hash(make_routing("dynamic"))
    with pytest.raises(ValueError, match="at least 1, not 0"):
        dynamic_routing(votes, jnp.array(0))
