"""Heinsen's two algorithms against slow loops, by hand, and the arrays that they learn."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.layers import ConvCaps, DenseCaps
from capsjax.notation import Capsules
from capsjax.routing import (
    factored_votes,
    heinsen_2019_routing,
    heinsen_2022_routing,
    input_activations,
    make_routing,
)
from tests.routing.against_loops import HARD, compare, competition_of, make_votes, normal
from tests.routing.loops import (
    CASES,
    dot,
    layer_norm,
    log_sigmoid,
    places_of,
    softmax_of_sets,
)

NAMES = ("v", "a", "c")
P = 4
KEY = jax.random.key(0, impl="rbg")


def use_and_ignore(activations, c, o, i, j):
    use = activations[o, i] * c[o, i, j]
    return use, activations[o, i] - use


def slow_2019(votes, activations, beta_use, beta_ignore, rounds, case):
    o_size, _, j_size, d_size = votes.shape
    b, eps = np.zeros(votes.shape[:3]), 1e-5
    for _ in range(rounds):
        c = softmax_of_sets(b, case)
        v, score = np.zeros((o_size, j_size, d_size)), np.zeros((o_size, j_size))
        b = np.zeros(votes.shape[:3])
        for o in range(o_size):
            present = [i for at, i, _ in places_of(case.table()) if at == o]
            for j in range(j_size):
                both = {i: use_and_ignore(activations, c, o, i, j) for i in present}
                for i, (use, ignore) in both.items():
                    score[o, j] += beta_use[i, j] * use - beta_ignore[i, j] * ignore
                mass = sum(use for use, _ in both.values()) + eps
                var = np.full(d_size, eps)
                for i in present:
                    v[o, j] += both[i][0] / mass * votes[o, i, j]
                for i in present:
                    var += both[i][0] / mass * (votes[o, i, j] - v[o, j]) ** 2
                for i in present:
                    b[o, i, j] = log_sigmoid(score[o, j])
                    for d in range(d_size):
                        b[o, i, j] -= (votes[o, i, j, d] - v[o, j, d]) ** 2 / (2 * var[d])
                        b[o, i, j] -= math.log(math.sqrt(var[d]))
    return {"v": v, "a": np.exp(np.vectorize(log_sigmoid)(score)), "c": c}


def slow_2022(votes, activations, u, learned, rounds, case, normalize=True):
    o_size, _, j_size, d_size = votes.shape
    b = np.zeros(votes.shape[:3])
    for _ in range(rounds):
        c = softmax_of_sets(b, case)
        v = np.zeros((o_size, j_size, d_size))
        for o, i, _ in places_of(case.table()):
            for j in range(j_size):
                use, ignore = use_and_ignore(activations, c, o, i, j)
                phi = learned["beta_use"][i, j] * use - learned["beta_ignore"][i, j] * ignore
                v[o, j] += phi * votes[o, i, j]
        b = np.zeros(votes.shape[:3])
        for o, i, _ in places_of(case.table()):
            for j in range(j_size):
                y = layer_norm(v[o, j], 1e-5)
                predicted = [
                    dot(y, learned["G_1"][:, q]) * learned["G_2"][j, q] + learned["G_bias"][j, q]
                    for q in range(P)
                ]
                similarity = dot(u[o, i], predicted)
                b[o, i, j] = log_sigmoid(learned["S"][i, j] * similarity + learned["S_bias"][i, j])
    if normalize:
        v = np.array([[layer_norm(pose, 1e-5) for pose in row] for row in v])
    return {"v": v, "a": np.ones(v.shape[:2]), "c": c}


def arrays_2022(i, j, d):
    shapes = {name: array.shape for name, array in VALUE.learned_arrays(i, j, P, d).items()}
    return {name: normal(10 + k, *shape) for k, (name, shape) in enumerate(shapes.items())}


VALUE = make_routing("heinsen", votes="factored")


def in_dtype(arrays, votes):
    return {name: jnp.asarray(array, votes.dtype) for name, array in arrays.items()}


def make_case(name):
    """Votes, activations and lower poses; arbitrary activations where there is no child."""
    case, j, _ = HARD[name]
    votes = make_votes(name)
    activations = 1 / (1 + np.exp(-normal(1, *case.shape())))
    return case, j, votes, activations, normal(2, *case.shape(P))


@pytest.mark.parametrize("name", HARD)
def test_2019_against_slow_loops(name):
    case, j, votes, activations, _ = make_case(name)
    betas = [normal(seed, votes.shape[-3], j) for seed in (3, 4)]

    def fast(votes, activations):
        arrays = (jnp.asarray(beta, votes.dtype) for beta in betas)
        return heinsen_2019_routing(votes, activations, *arrays, competition=competition_of(case))

    compare(fast, lambda *of: slow_2019(*of, *betas, 3, case), case, votes, activations)


@pytest.mark.parametrize("name", HARD)
def test_2022_against_slow_loops(name):
    case, j, votes, activations, u = make_case(name)
    learned = arrays_2022(votes.shape[-3], j, 3)

    def fast(votes, activations, u):
        arrays = in_dtype(learned, votes)
        return heinsen_2022_routing(
            votes, activations, u, arrays, 3, competition=competition_of(case)
        )

    compare(fast, lambda *of: slow_2022(*of, learned, 3, case), case, votes, activations, u)


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_any_traced_number_of_rounds(rounds):
    case, j, votes, activations, u = make_case("dense")
    learned = arrays_2022(5, j, 3)
    betas = learned["beta_use"], learned["beta_ignore"]

    def fast_2019(votes, activations):
        arrays = (jnp.asarray(beta, votes.dtype) for beta in betas)
        return heinsen_2019_routing(
            votes, activations, *arrays, jnp.array(rounds), max_iterations=5
        )

    def fast_2022(votes, activations, u):
        arrays = in_dtype(learned, votes)
        return heinsen_2022_routing(
            votes, activations, u, arrays, jnp.array(rounds), max_iterations=5, normalize=False
        )

    slow = lambda *of: slow_2019(*of, *betas, rounds, case)  # noqa: E731
    compare(fast_2019, slow, case, votes, activations)
    slow = lambda *of: slow_2022(*of, learned, rounds, case, normalize=False)  # noqa: E731
    compare(fast_2022, slow, case, votes, activations, u)


def test_2019_by_hand():
    # One round: c = 1/2, use = (1/2, 1/4), ignore the same, and the mean is (2·4 + 1·1) / 3.
    votes = jnp.array([[[4.0], [4.0]], [[1.0], [1.0]]])
    betas = jnp.array([[3.0, 0.0], [1.0, 0.0]]), jnp.array([[1.0, 0.0], [1.0, 0.0]])
    routed = heinsen_2019_routing(votes, jnp.array([1.0, 0.5]), *betas, 1)
    np.testing.assert_allclose(routed.v, [[3.0], [3.0]], rtol=1e-4)
    # (3/2 - 1/2) + (1/4 - 1/4) = 1, and 0.
    np.testing.assert_allclose(routed.a, [1 / (1 + math.exp(-1)), 0.5], rtol=1e-6)
    again = heinsen_2019_routing(votes, jnp.array([1.0, 0.5]), *betas, 2)
    # Both Gaussians are the same, so that the activations decide.
    share = (1 / (1 + math.exp(-1))) / (1 / (1 + math.exp(-1)) + 0.5)
    np.testing.assert_allclose(again.c, [[share, 1 - share]] * 2, rtol=1e-5)


def test_2022_by_hand():
    # phi = 1/2 · 1 · (2 - 1) = 1/2 for child 0, and 1/2 · 1/2 · (0 - 1) = -1/4 for child 1.
    votes = jnp.array([[[4.0], [4.0]], [[1.0], [1.0]]])
    pairs = jnp.array([[2.0, 2.0], [0.0, 0.0]])
    learned = {
        "beta_use": pairs,
        "beta_ignore": jnp.ones((2, 2)),
        "G_1": jnp.ones((1, 1)),
        "G_2": jnp.array([[1.0], [0.0]]),
        "G_bias": jnp.zeros((2, 1)),
        "S": jnp.ones((2, 2)),
        "S_bias": jnp.zeros((2, 2)),
    }
    a, u = jnp.array([1.0, 0.5]), jnp.array([[2.0], [0.0]])
    once = heinsen_2022_routing(votes, a, u, learned, 1)
    np.testing.assert_allclose(once.v, [[1.75], [1.75]], rtol=1e-6)
    twice = heinsen_2022_routing(votes, a, u, learned, 2)
    # Parent 0 predicts 1.75 of input 2; parent 1 predicts 0, and σ(0) = 1/2.
    good = 1 / (1 + math.exp(-3.5))
    share = good / (good + 0.5)
    np.testing.assert_allclose(twice.c, [[share, 1 - share], [0.5, 0.5]], rtol=1e-5)


@pytest.mark.slow
def test_the_published_votes_and_activations_of_2022_are_those_of_slow_loops():
    """The value divides poses by the root of their number, and computes both from them."""
    u = normal(0, 2, 5, P)
    learned = arrays_2022(5, 3, 2)
    routed = VALUE(
        jnp.full((2, 5, 3, 2), jnp.nan), jnp.zeros((2, 5)), in_dtype(learned, jnp.ones(1)),
        u=jnp.asarray(u, jnp.float32),
    )  # fmt: skip
    case = CASES["dense"]
    for n in range(2):
        x = u[n] / math.sqrt(5)
        scores = [dot(x[i], learned["A"][i]) + learned["A_bias"][i] for i in range(5)]
        activations = np.array([[math.exp(log_sigmoid(score)) for score in scores]])
        votes = np.zeros((1, 5, 3, 2))
        for i in range(5):
            for j in range(3):
                for h in range(2):
                    votes[0, i, j, h] = learned["F_bias"][j, h] + sum(
                        x[i, q] * learned["F_1"][j, q] * learned["F_2"][q, h] for q in range(P)
                    )
        expected = slow_2022(votes, activations, u[n : n + 1], learned, 2, case)
        np.testing.assert_allclose(routed.v[n], expected["v"][0], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(routed.c[n], expected["c"][0], rtol=1e-4)


def test_votes_of_the_layer_are_divided_by_the_root_of_the_number_of_children():
    routing = make_routing("heinsen")
    learned = in_dtype(arrays_2022(5, 3, 2), jnp.ones(1))
    votes = jnp.asarray(normal(0, 2, 5, 3, 2), jnp.float32)
    u = jnp.asarray(normal(1, 2, 5, P), jnp.float32)
    got = routing(votes, jnp.zeros((2, 5)), learned, u=u)
    a = input_activations(u / math.sqrt(5), learned["A"], learned["A_bias"])
    expected = heinsen_2022_routing(votes / math.sqrt(5), a, u, learned)
    chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.ci
@pytest.mark.parametrize("version", [2019, 2022])
def test_a_mask_leaves_children_out(version):
    routing = make_routing("heinsen", version=version)
    i, j, d = 5, 3, 2
    learned = {
        name: jnp.asarray(normal(k, *array.shape), jnp.float32)
        for k, (name, array) in enumerate(routing.learned_arrays(i, j, P, d).items())
    }
    votes, u = (jnp.asarray(normal(k, 2, 5, *n), jnp.float32) for k, n in ((0, (j, d)), (1, (P,))))
    a, kept = jnp.asarray(np.linspace(0.1, 0.9, 10).reshape(2, 5)), np.array([0, 2, 4])
    masked = routing(votes, a, learned, u=u, mask=jnp.array([[1.0, 0, 1, 0, 1]] * 2))
    of_children = {
        name: array[kept] if array.shape[0] == i else array for name, array in learned.items()
    }
    others = routing(votes[:, kept], a[:, kept], of_children, u=u[:, kept])
    chex.assert_trees_all_close((masked.v, masked.a), (others.v, others.a), rtol=1e-3, atol=1e-4)


@pytest.mark.ci
@pytest.mark.parametrize("gradient", ["full", "stop"])
@pytest.mark.parametrize("version", [2019, 2022])
def test_gradient_is_the_numerical_one_of_all_rounds_or_of_the_last(version, gradient):
    with jax.enable_x64(True):
        learned = {name: jnp.asarray(x) for name, x in arrays_2022(4, 3, 2).items()}
        betas = learned["beta_use"], learned["beta_ignore"]

        def route(votes, activations, u, betas, **settings):
            if version == 2019:
                return heinsen_2019_routing(votes, activations, *betas, 3, **settings)
            arrays = {**learned, "beta_use": betas[0], "beta_ignore": betas[1]}
            return heinsen_2022_routing(
                votes, activations, u, arrays, 3, normalize=False, **settings
            )

        def value(votes, activations, u, betas, gradient=gradient):
            routed = route(votes, activations, u, betas, gradient=gradient)
            return jnp.sum(normal(3, 3, 2) * routed.v) + jnp.sum(normal(4, 3) * routed.a)

        operands = (
            jnp.asarray(normal(0, 4, 3, 2)),
            jnp.asarray([0.2, 0.5, 0.9, 0.7]),
            jnp.asarray(normal(2, 4, P)),
            betas,
        )
        c = route(*operands).c

        def last_round(votes, activations, u, betas):
            use = activations[:, None] * c
            phi = betas[0] * use - betas[1] * (activations[:, None] - use)
            if version == 2022:
                v, a = jnp.einsum("ij,ijd->jd", phi, votes), jnp.ones(3)
            else:
                share = use / (use.sum(0, keepdims=True) + 1e-5)
                v, a = jnp.einsum("ij,ijd->jd", share, votes), jax.nn.sigmoid(phi.sum(0))
            return jnp.sum(normal(3, 3, 2) * v) + jnp.sum(normal(4, 3) * a)

        got = jax.jit(jax.grad(value, (0, 1, 3)))(*operands)
        if gradient == "full":
            chex.assert_numerical_grads(
                jax.jit(value), operands, order=1, atol=1e-5, rtol=1e-5, modes=["rev"]
            )
        else:
            expected = jax.grad(last_round, (0, 1, 3))(*operands)
            chex.assert_trees_all_close(got, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.ci
def test_2019_is_finite_without_activations_and_so_is_its_gradient():
    votes = jnp.asarray(normal(0, 5, 3, 2), jnp.float32)
    betas = jnp.ones((5, 3)), jnp.ones((5, 3))

    def value(votes, a):
        routed = heinsen_2019_routing(votes, a, *betas)
        return jnp.sum(routed.v) + jnp.sum(routed.a)

    for factor in (0.0, 1.0, 300.0):
        result = jax.value_and_grad(value, (0, 1))(factor * votes, jnp.zeros(5))
        chex.assert_tree_all_finite(result)


@pytest.mark.slow
def test_the_gradient_of_2019_keeps_nothing_as_large_as_the_votes_for_each_round():
    votes, betas = jnp.ones((7, 3, 11)), (jnp.ones((7, 3)), jnp.ones((7, 3)))
    _, pull = jax.vjp(lambda x: heinsen_2019_routing(x, jnp.ones(7), *betas, 5).v, votes)
    kept = [leaf.shape for leaf in jax.tree.leaves(pull)]
    assert (4, 7, 3) in kept, "couplings are kept of each round"
    assert (4, *votes.shape) not in kept


@pytest.mark.parametrize(
    ("version", "votes", "expected"),
    [
        (2019, "layer", 5 * 3 * 2 + 2 * 15),
        (2022, "layer", 5 * 4 + 5 + 2 * 4 + 2 * 12 + 4 * 15),
        (2022, "factored", 5 * 4 + 5 + 2 * 4 + 2 * 12 + 4 * 15 + 12 + 8 + 6),
    ],
)
def test_learned_arrays(version, votes, expected):
    arrays = make_routing("heinsen", version=version, votes=votes).learned_arrays(5, 3, 4, 2)
    assert sum(math.prod(array.shape) for array in arrays.values()) == expected
    starts = {name: array.init(KEY, array.shape) for name, array in arrays.items()}
    assert bool(starts["beta_use"].any()) == (version == 2022)


@pytest.mark.ci
def test_both_versions_run_in_layers_and_what_does_not_work_is_named():
    below = Capsules(jnp.asarray(normal(0, 2, 4, 4, 2, 4), jnp.float32), jnp.ones((2, 4, 4, 2)) / 2)
    for version in (2019, 2022):
        routing = make_routing("heinsen", version=version)
        layer = ConvCaps(3, 4, routing)
        (above, _), _ = jax.jit(layer.init_with_output)(KEY, below)
        dense = DenseCaps(5, 1, routing)
        (classes, _), _ = jax.jit(dense.init_with_output)(KEY, above)
        chex.assert_tree_all_finite((above, classes))
    with pytest.raises(ValueError, match="or windows='gathered'"):
        ConvCaps(3, 4, routing, windows="summed").init(KEY, below)
    with pytest.raises((ValueError, TypeError)):
        make_routing("heinsen", version=2020)
    with pytest.raises((ValueError, TypeError)):
        make_routing("heinsen", votes="own")
    with pytest.raises(ValueError, match="use votes='layer'"):
        make_routing("heinsen", votes="factored", version=2019)


def test_factored_votes_by_hand():
    u = jnp.array([[2.0, 3.0]])
    votes = factored_votes(
        u,
        jnp.array([[1.0, 0.0], [1.0, 1.0]]),
        jnp.array([[1.0], [10.0]]),
        jnp.array([[0.5], [0.0]]),
    )
    assert votes.tolist() == [[[2.5], [32.0]]]
