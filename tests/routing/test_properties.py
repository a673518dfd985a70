"""What holds for every algorithm, dense and over the windows of a convolution."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.routing import call_routing, make_routing
from capsjax.routing.competition import DENSE, Competition
from tests.routing.against_loops import normal
from tests.routing.loops import WINDOWS

N, LOWER, UPPER, D, P = 2, 5, 3, 4, 6
ALGORITHMS = {
    "agreement_3d": {},
    "heinsen": {},
    "heinsen 2019": {"version": 2019, "num_iterations": 3},
    "inverted_attention": {"num_iterations": 3},
    "random": {},
    "self": {},
    "self_attention": {},
}
# Settings with learned arrays, for those that are tested elsewhere.
HALF = {"dynamic": {"use_bias": True}}
every_algorithm = pytest.mark.parametrize("name", ALGORITHMS)
# Those whose number of rounds may be data of a program.
ITERATED = [name for name in ALGORITHMS if name not in ("random", "self", "self_attention")]


def make(name, **settings):
    return make_routing(name.split()[0], **{**ALGORITHMS[name], **settings})


def learned_by(routing, i=LOWER, j=UPPER):
    """Random arrays with their letters: i, j or none for each axis."""
    arrays = routing.learned_arrays(i, j, P, D).items()
    # Numbers of capsules are unlike the numbers of dimensions.
    letters = {i: "i", j: "j"} if i != j else {i: "i"}
    return {
        name: (
            jnp.asarray(normal(9 + k, *array.shape), jnp.float32),
            [letters.get(size) for size in array.shape],
        )
        for k, (name, array) in enumerate(arrays)
    }


def inputs(i=LOWER, j=UPPER, n=N, scale=1.0, positions=()):
    votes = scale * normal(0, n, *positions, i, j, D)
    a = 1 / (1 + np.exp(-normal(1, n, *positions, i)))
    return tuple(jnp.asarray(x, jnp.float32) for x in (votes, a, normal(2, n, *positions, i, P)))


@functools.partial(jax.jit, static_argnames=("routing", "competition"))
def compiled(routing, arrays, votes, a, u, **context):
    return call_routing(routing, votes, a, arrays, u=u, **context)


def route(routing, learned, *operands, compiled=compiled, **context):
    arrays = {name: array for name, (array, _) in learned.items()}
    return compiled(routing, arrays, *operands, **context)


def run(routing, arrays, votes, a, u, **context):
    """The same as `compiled`, for a routing algorithm with traced numbers."""
    return call_routing(routing, votes, a, arrays, u=u, **context)


@functools.partial(jax.jit, static_argnames=("routing", "competition"))
def with_gradient(routing, arrays, *operands, competition=DENSE):
    """What an algorithm returns, and the gradient of its sum."""

    def value(arrays, *operands):
        routed = run(routing, arrays, *operands, competition=competition)
        return jnp.sum(routed.v) + jnp.sum(routed.a), routed

    gradients, routed = jax.grad(value, range(len(operands) + 1), has_aux=True)(arrays, *operands)
    return routed, gradients


def take(learned, letter, order):
    return {
        name: (
            jnp.take(array, order, axis=axes.index(letter)) if letter in axes else array,
            axes,
        )
        for name, (array, axes) in learned.items()
    }


def shown(routed):
    return routed.v, routed.a, routed.c


@every_algorithm
def test_permuting_lower_capsules_permutes_couplings_alone(name):
    routing, order = make(name), np.array([3, 0, 4, 1, 2])
    learned, (votes, a, u) = learned_by(routing), inputs()
    before = route(routing, learned, votes, a, u)
    after = route(routing, take(learned, "i", order), votes[:, order], a[:, order], u[:, order])
    expected = before.v, before.a, before.c[:, order]
    chex.assert_trees_all_close(shown(after), expected, rtol=1e-3, atol=1e-5)


@every_algorithm
def test_permuting_upper_capsules_permutes_everything(name):
    routing, order = make(name), np.array([2, 0, 1])
    learned, (votes, a, u) = learned_by(routing), inputs()
    before = route(routing, learned, votes, a, u)
    after = route(routing, take(learned, "j", order), votes[:, :, order], a, u)
    expected = before.v[:, order], before.a[:, order], before.c[:, :, order]
    chex.assert_trees_all_close(shown(after), expected, rtol=1e-3, atol=1e-5)


@every_algorithm
def test_an_example_does_not_depend_on_the_others(name):
    routing = make(name)
    learned, of_batch = learned_by(routing), inputs()
    many = route(routing, learned, *of_batch)
    one = route(routing, learned, *(x[1:] for x in of_batch))
    chex.assert_trees_all_close(
        shown(one), jax.tree.map(lambda x: x[1:], shown(many)), rtol=1e-4, atol=1e-6
    )
    alone = route(routing, learned, *(x[1] for x in of_batch))
    chex.assert_trees_all_close(
        shown(alone), jax.tree.map(lambda x: x[1], shown(many)), rtol=1e-4, atol=1e-6
    )


@every_algorithm
def test_couplings_sum_to_one_over_the_upper_capsules(name):
    routing = make(name)
    c = route(routing, learned_by(routing), *inputs(scale=300.0)).c
    np.testing.assert_allclose(c.sum(-1), 1.0, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", [*ALGORITHMS, "dynamic", "em", "vb"])
def test_votes_of_half_precision_give_nearly_the_same_poses(name, dtype):
    routing = make(name) if name in ALGORITHMS else make_routing(name, **HALF.get(name, {}))
    learned, whole = learned_by(routing), inputs(scale=0.5)
    half = [x.astype(dtype) for x in whole]
    expected = route(routing, learned, *(x.astype(jnp.float32) for x in half))
    found = route(routing, learned, *half)
    assert found.v.dtype in (dtype, jnp.float32)
    np.testing.assert_allclose(found.v.astype(jnp.float32), expected.v, atol=0.1)


@pytest.mark.ci
@every_algorithm
def test_a_mask_is_equal_to_leaving_children_out(name):
    routing, kept = make(name), np.array([0, 2, 3])
    learned, (votes, a, u) = learned_by(routing), inputs()
    mask = jnp.zeros((N, LOWER)).at[:, kept].set(1.0)
    others = route(routing, take(learned, "i", kept), votes[:, kept], a[:, kept], u[:, kept])
    # Whatever those that are left out have, such as rows that a program filled up with NaN.
    votes, a, u = (x.at[:, 1].set(jnp.nan).at[:, 4].set(1e20) for x in (votes, a, u))
    masked = route(routing, learned, votes, a, u, mask=mask)
    got = masked.v, masked.a, masked.c[:, kept]
    chex.assert_trees_all_close(got, shown(others), rtol=1e-3, atol=1e-5)
    assert not masked.c[:, 1].any()

    @jax.jit
    @jax.grad
    def gradient(arrays_and_operands):
        arrays, operands = arrays_and_operands
        routed = run(routing, arrays, *operands, mask=mask)
        return jnp.sum(routed.v) + jnp.sum(routed.a)

    arrays = {name: array for name, (array, _) in learned.items()}
    chex.assert_tree_all_finite(gradient((arrays, (votes, a, u))))


@every_algorithm
@pytest.mark.parametrize(
    ("i", "j", "scale", "there"),
    [
        pytest.param(5, 3, 0.0, 1.0, id="zero votes"),
        pytest.param(5, 3, 1.0, 0.0, id="zero activations"),
        pytest.param(1, 3, 1.0, 1.0, id="one child"),
        pytest.param(5, 1, 1.0, 1.0, id="one parent"),
        pytest.param(5, 3, 300.0, 1.0, id="votes times 300"),
        pytest.param(5, 3, 1e-20, 1e-20, id="tiny votes and activations"),
    ],
)
def test_values_and_gradients_are_finite(name, i, j, scale, there):
    routing = make(name)
    votes, a, u = inputs(i, j, scale=scale)
    learned = learned_by(routing, i, j)
    result = route(routing, learned, votes, there * a, u, compiled=with_gradient)
    chex.assert_tree_all_finite(result)


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "agreement_3d"])
def test_positions_of_a_competition_over_types_are_dense_layers(name):
    routing = make(name)
    learned = learned_by(routing)
    votes, a, u = inputs(positions=(4,))
    table = np.arange(20).reshape(4, 5)
    together = route(routing, learned, votes, a, u, competition=Competition(table, "types"))
    each = route(routing, learned, *(x.reshape(-1, *x.shape[2:]) for x in (votes, a, u)))
    got = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), shown(together))
    chex.assert_trees_all_close(got, shown(each), rtol=1e-3, atol=1e-5)


@pytest.mark.ci
@every_algorithm
def test_a_parent_without_children_and_a_child_without_parents_are_finite(name):
    routing = make(name)
    learned = learned_by(routing, i=WINDOWS.shape[1], j=UPPER)
    table = np.concatenate([WINDOWS, np.full((1, 4), -1)])
    votes, a, u = inputs(i=4, positions=(4,))
    competition = Competition(table, "all")
    find = functools.partial(route, routing, learned, compiled=with_gradient)
    routed, gradients = find(votes, a, u, competition=competition)
    chex.assert_tree_all_finite((shown(routed), gradients))
    assert not routed.c[:, 3].any()
    absent = jnp.where(jnp.asarray(table >= 0)[None, ..., None, None], votes, 1e3)
    again, _ = find(absent, a, u, competition=competition)
    chex.assert_trees_all_close(shown(again), shown(routed), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ITERATED)
def test_traced_rounds_are_the_python_ones(name):
    operands = inputs()
    learned = learned_by(make(name))

    @jax.jit
    def traced(rounds):
        routing = make(name, num_iterations=rounds, max_iterations=5)
        return shown(route(routing, learned, *operands, compiled=run))

    for rounds in (1, 2, 3, 5):
        expected = shown(route(make(name, num_iterations=rounds), learned, *operands))
        chex.assert_trees_all_close(traced(jnp.array(rounds)), expected, rtol=1e-3, atol=1e-5)
    stopped = jax.jit(
        lambda rounds: shown(
            route(
                make(name, num_iterations=rounds, gradient="stop"),
                learned,
                *operands,
                compiled=run,
            )
        )
    )
    chex.assert_trees_all_close(stopped(jnp.array(5)), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ITERATED)
def test_one_round_holds_couplings_at_their_start(name):
    routed = route(make(name, num_iterations=1), learned_by(make(name)), *inputs())
    np.testing.assert_allclose(routed.c, 1 / UPPER, rtol=1e-6)
    assert "num_iterations" in make(name).TRACED
    with pytest.raises(ValueError, match="at least 1, not 0"):
        make(name, num_iterations=0)


@every_algorithm
def test_the_value_is_hashable_and_equal_to_its_like(name):
    assert make(name) == make(name)
    assert hash(make(name)) == hash(make(name))
