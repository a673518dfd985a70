"""Inverted attention against slow loops: one layer, and stacks that take their updates in turn."""

import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.layers import ConvCaps, DenseCaps
from capsjax.layers.votes import MatrixVotes
from capsjax.notation import Capsules
from capsjax.ops import standardize
from capsjax.routing import inverted_attention_routing, make_routing
from tests.routing.against_loops import HARD, compare, competition_of, make_votes, normal
from tests.routing.loops import (
    CASES,
    dot,
    layer_norm,
    per_capsule,
    places_of,
    softmax_of_sets,
    weighted_sums,
)

KEY = jax.random.key(0, impl="rbg")
SCALE, BIAS = normal(1, 3), normal(2, 3)


def slow_update(votes, v, case):
    """Logits, couplings and poses after one update; v is None before the first one."""
    b = np.zeros(votes.shape[:3])
    if v is not None:
        for o, i, _ in places_of(case.table()):
            for j in range(votes.shape[2]):
                b[o, i, j] = dot(votes[o, i, j], v[o, j]) / math.sqrt(votes.shape[3])
    c = softmax_of_sets(b, case)
    s = weighted_sums(c, votes, case)
    if votes.shape[3] == 1:
        return b, c, s
    return b, c, per_capsule(lambda pose: SCALE * layer_norm(pose, 1e-5) + BIAS, s)


def slow_routing(votes, updates, case, v=None):
    for _ in range(updates):
        b, c, v = slow_update(votes, v, case)
    return {"v": v, "a": np.ones(v.shape[:2]), "c": c, "logits": b, "memory": v}


NAMES = ("v", "a", "c", "logits", "memory")


def routed_by(updates, case, **settings):
    return lambda votes, *memory: inverted_attention_routing(
        votes,
        updates,
        scale=jnp.asarray(SCALE, votes.dtype),
        bias=jnp.asarray(BIAS, votes.dtype),
        competition=competition_of(case),
        memory=memory[0] if memory else None,
        **settings,
    )


@pytest.mark.ci
@pytest.mark.parametrize("name", HARD)
def test_against_slow_loops(name):
    case = HARD[name][0]
    slow = lambda votes: slow_routing(votes, 3, case)  # noqa: E731
    compare(routed_by(3, case), slow, case, make_votes(name), names=NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("updates", [1, 2, 5])
def test_any_traced_number_of_updates(updates):
    case = CASES["all"]

    def fast(votes):
        return routed_by(jnp.array(updates), case, max_iterations=6)(votes)

    slow = lambda votes: slow_routing(votes, updates, case)  # noqa: E731
    compare(fast, slow, case, make_votes("all"), names=NAMES)


@pytest.mark.parametrize("name", ["dense", "all"])
def test_memory_is_the_poses_that_the_next_update_begins_with(name):
    case = CASES[name]
    votes = make_votes(name)
    memory = normal(5, *votes.shape[:-3], *votes.shape[-2:])
    slow = lambda votes, v: slow_routing(votes, 2, case, v)  # noqa: E731
    compare(routed_by(2, case), slow, case, votes, memory, names=NAMES)


def test_one_dimension_has_no_layer_norm():
    case = CASES["dense"]
    votes = make_votes("dense", d=1)
    slow = lambda votes: slow_routing(votes, 2, case)  # noqa: E731

    def fast(votes):
        return inverted_attention_routing(votes, 2, scale=2.0, bias=1.0)

    compare(fast, slow, case, votes, names=NAMES)
    assert make_routing("inverted_attention").learned_arrays(5, 3, 4, 1) == {}


def test_by_hand():
    # First c = 1/2: s_0 = (2, 0), s_1 = 0, and the layer norm makes (1, -1) and (0, 0) of them.
    votes = jnp.array([[[3.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [-1.0, 0.0]]])
    routed = inverted_attention_routing(votes, 2)
    root = math.sqrt(2)
    np.testing.assert_allclose(routed.logits, [[3 / root, 0], [1 / root, 0]], rtol=1e-4)
    c = [math.exp(b / root) / (1 + math.exp(b / root)) for b in (3, 1)]
    np.testing.assert_allclose(routed.c[:, 0], c, rtol=1e-4)
    # Vote 0 for capsule 1 loses more than vote 1 does: s_1 = (c_01 - c_11, 0), which is negative.
    np.testing.assert_allclose(routed.v, [[1, -1], [-1, 1]], rtol=2e-3)


@pytest.mark.slow
def test_logits_are_not_added_up():
    """With poses of a fixed length the logits stay as large as one agreement is."""
    votes = jnp.asarray(normal(0, 5, 3, 4), jnp.float32)
    many = inverted_attention_routing(votes, 20).logits
    assert float(jnp.abs(many).max()) <= float(jnp.linalg.norm(votes, axis=-1).max())


@pytest.mark.slow
def test_one_update_is_uniform():
    votes = jnp.asarray(normal(0, 2, 5, 4, 3), jnp.float32)
    np.testing.assert_allclose(inverted_attention_routing(votes, 1).c, 0.25)


def test_scale_and_bias_are_shared_by_all_capsules_of_a_layer():
    arrays = make_routing("inverted_attention").learned_arrays(9, 5, 4, 6)
    starts = {name: array.init(KEY, array.shape) for name, array in arrays.items()}
    assert {name: start.shape for name, start in starts.items()} == {"scale": (6,), "bias": (6,)}
    assert starts["scale"].all()
    assert not starts["bias"].any()


@pytest.mark.slow
def test_standardize_is_a_layer_norm():
    x = 300.0 * normal(0, 4, 3, 5).astype(np.float32)
    x[0, 0] = 0.0
    expected = per_capsule(lambda pose: layer_norm(pose, 1e-5), x.astype(np.float64))
    np.testing.assert_allclose(standardize(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-6)
    assert jnp.isfinite(jax.jacobian(standardize)(jnp.zeros(3))).all()


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["full", "stop"])
def test_gradient_is_the_numerical_one_of_all_updates_or_of_the_last(gradient):
    with jax.enable_x64(True):
        votes, scale, bias = normal(0, 4, 2, 3), normal(1, 3), normal(2, 3)
        operands = tuple(map(jnp.asarray, (votes, scale, bias)))
        c = inverted_attention_routing(operands[0], 3, scale=operands[1], bias=operands[2]).c

        @jax.jit
        def value(votes, scale, bias):
            v = inverted_attention_routing(votes, 3, scale=scale, bias=bias, gradient=gradient).v
            return jnp.sum(normal(3, 2, 3) * jnp.sin(v))

        @jax.jit
        def last_update(votes, scale, bias):
            v = scale[None] * standardize(jnp.einsum("ij,ijd->jd", c, votes)) + bias[None]
            return jnp.sum(normal(3, 2, 3) * jnp.sin(v))

        function = value if gradient == "full" else last_update
        chex.assert_numerical_grads(
            function, operands, order=1, atol=1e-6, rtol=1e-6, modes=["rev"]
        )
        got, expected = (jax.grad(each, (0, 1, 2))(*operands) for each in (value, last_update))
        difference = max(float(jnp.abs(x - y).max()) for x, y in zip(got, expected, strict=True))
        assert difference < 1e-12 if gradient == "stop" else difference > 1e-2


@pytest.mark.slow
def test_the_gradient_keeps_nothing_as_large_as_the_votes_for_each_update():
    votes = jnp.ones((7, 3, 11))
    _, pull = jax.vjp(lambda votes: inverted_attention_routing(votes, 5).v, votes)
    kept = [leaf.shape for leaf in jax.tree.leaves(pull)]
    assert any(shape[:1] == (4,) for shape in kept), "something is kept of each update"
    assert (4, *votes.shape) not in kept


class Stack(nn.Module):
    """Two convolutions and class capsules, whose updates come layer by layer or all at once."""

    updates: int
    concurrent: bool

    @nn.compact
    def __call__(self, below):
        each = 1 if self.concurrent else self.updates
        routing = make_routing("inverted_attention", num_iterations=each)
        settings = {"pose_size": 4, "routing": routing, "votes": MatrixVotes()}
        layers = [
            ConvCaps(types=3, over="types", name="low", norm="none", **settings),
            ConvCaps(types=2, over="types", name="middle", norm="none", **settings),
            DenseCaps(num_capsules=5, name="high", **settings),
        ]
        inputs, memories = [below], []
        for layer in layers:
            above, memory = layer(inputs[-1])
            inputs.append(above)
            memories.append(memory)
        for _ in range(self.updates - 1 if self.concurrent else 0):
            # All layers read what was there before this update.
            results = [layer(*both) for layer, *both in zip(layers, inputs, memories, strict=False)]
            inputs = [below, *(above for above, _ in results)]
            memories = [memory for _, memory in results]
        return [above.poses for above in inputs[1:]]


def slow_stack(below, params, updates, concurrent):
    """The same of one example, (y, x, i, 4), with windows sliced out by hand."""

    def slow_votes(poses, name):
        rows = range(poses.shape[0] - 2)
        if name == "high":
            windows = [poses.reshape(-1, 4)]
        else:
            windows = [poses[y : y + 3, x : x + 3].reshape(-1, 4) for y in rows for x in rows]
        W = np.asarray(params[name]["W"], np.float64)
        votes = np.zeros((len(windows), *W.shape[:2], 4))
        for o, window in enumerate(windows):
            for i in range(W.shape[0]):
                for j in range(W.shape[1]):
                    votes[o, i, j] = (window[i].reshape(2, 2) @ W[i, j]).ravel()
        return votes

    def update(votes, v):
        b = np.zeros(votes.shape[:3])
        if v is not None:
            b = np.einsum("oijd,ojd->oij", votes, v) / 2
        e = np.exp(b)
        s = np.einsum("oij,oijd->ojd", e / e.sum(-1, keepdims=True), votes)
        return per_capsule(lambda pose: layer_norm(pose, 1e-5), s)

    def on_grid(v, name):
        side = {"low": 3, "middle": 1, "high": 1}[name]
        return v.reshape(side, side, -1, 4)

    names = ("low", "middle", "high")
    poses, found = {"below": below}, dict.fromkeys(names)
    of = dict(zip(names, ("below", *names), strict=False))
    rounds = updates if concurrent else 1
    for number in range(rounds):
        read = dict(poses)
        for name in names:
            # The first sweep goes upwards; afterwards every layer reads the update before.
            source = (poses if number == 0 else read)[of[name]]
            for _ in range(1 if concurrent else updates):
                found[name] = update(slow_votes(source, name), found[name])
            poses[name] = on_grid(found[name], name)
    return [poses[name] for name in names]


@pytest.mark.parametrize("concurrent", [False, True])
def test_a_stack_is_that_of_slow_loops(concurrent):
    poses = jnp.asarray(normal(0, 1, 5, 5, 2, 4), jnp.float32)
    below = Capsules(poses, jnp.ones(poses.shape[:-1]))
    stack = Stack(3, concurrent)
    got, variables = jax.jit(stack.init_with_output)(KEY, below)
    slow = slow_stack(np.asarray(poses[0], np.float64), variables["params"], 3, concurrent)
    for fast, expected in zip(got, slow, strict=True):
        np.testing.assert_allclose(fast[0].reshape(expected.shape), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.ci
def test_sequential_and_concurrent_agree_for_one_update_and_in_the_lowest_layer():
    poses = jnp.asarray(normal(0, 2, 5, 5, 2, 4), jnp.float32)
    below = Capsules(poses, jnp.ones(poses.shape[:-1]))
    variables = jax.jit(Stack(1, False).init)(KEY, below)

    def poses_of(updates, concurrent):
        return jax.jit(Stack(updates, concurrent).apply)(variables, below)

    chex.assert_trees_all_close(poses_of(1, False), poses_of(1, True), atol=1e-5)
    one_by_one, at_once = poses_of(3, False), poses_of(3, True)
    np.testing.assert_allclose(one_by_one[0], at_once[0], rtol=1e-3, atol=1e-4)
    assert float(jnp.abs(one_by_one[2] - at_once[2]).max()) > 1e-3, "inputs were those before"


@pytest.mark.ci
def test_patches_move_with_the_image():
    """The released code mixed the pixels of several windows."""
    poses = jnp.asarray(normal(0, 2, 6, 6, 2, 4), jnp.float32)
    layer = ConvCaps(types=3, pose_size=4, routing=make_routing("inverted_attention"), over="types")

    def above(poses):
        return layer.apply(variables, Capsules(poses, jnp.ones(poses.shape[:-1])))[0].poses

    variables = jax.jit(layer.init)(KEY, Capsules(poses, jnp.ones(poses.shape[:-1])))
    moved = jnp.roll(poses, 1, axis=2)
    np.testing.assert_allclose(
        above(moved)[:, :, 1:], above(poses)[:, :, :-1], rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_a_batch_of_one_keeps_its_axis():
    votes = jnp.ones((1, 6, 1, 4))
    chex.assert_shape(inverted_attention_routing(votes).v, (1, 1, 4))
