"""Random couplings: drawn once for each layer and seed, and never learned."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.layers import ConvCaps, DenseCaps
from capsjax.notation import Capsules
from capsjax.ops import safe_norm
from capsjax.routing import make_routing, random_routing
from tests.routing.against_loops import HARD, compare, competition_of, make_votes, normal
from tests.routing.loops import length, per_capsule, softmax_of_sets, squash, weighted_sums

KEY = jax.random.key(0, impl="rbg")


@pytest.mark.parametrize("name", HARD)
def test_against_slow_loops(name):
    case, j, _ = HARD[name]
    votes = make_votes(name)
    draws = normal(1, votes.shape[-3], j)

    def fast(votes):
        return random_routing(
            votes, jnp.asarray(draws, votes.dtype), competition=competition_of(case)
        )

    def slow(votes):
        b = np.broadcast_to(draws, votes.shape[:3])
        c = softmax_of_sets(b, case)
        v = per_capsule(squash, weighted_sums(c, votes, case))
        return {"v": v, "a": per_capsule(length, v), "c": c, "logits": b}

    compare(fast, slow, case, votes, names=("v", "a", "c", "logits"))


def test_by_hand():
    draws = jnp.log(jnp.array([[3.0, 1.0]]))
    routed = random_routing(jnp.array([[[4.0], [4.0]]]), draws)
    np.testing.assert_allclose(routed.c, [[0.75, 0.25]], rtol=1e-6)
    # s = (3, 1), and squash makes 9/10 and 1/2 of them.
    np.testing.assert_allclose(routed.v, [[0.9], [0.5]], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "settings", "lengths"),
    # s = (3, 1), and (2, 2) for equal couplings; the squash of s is 1 - exp(-s).
    [("random", {}, (3.0, 1.0)), ("agreement_3d", {"num_iterations": 1}, (2.0, 2.0))],
)
def test_the_exponential_squash_by_hand(name, settings, lengths):
    routing = make_routing(name, squash="exponential", **settings)
    learned = {"draws": jnp.log(jnp.array([[3.0, 1.0]]))}
    routed = routing(jnp.array([[[4.0], [4.0]]]), jnp.ones(1), learned)
    np.testing.assert_allclose(routed.a, -np.expm1(-np.array(lengths)), rtol=1e-5)


def capsules(n=2):
    poses = jnp.asarray(normal(0, n, 4, 4, 2, 3), jnp.float32)
    return Capsules(poses, safe_norm(poses))


@pytest.mark.slow
def test_draws_differ_between_layers_and_seeds_and_not_between_images():
    layer = DenseCaps(3, 4, make_routing("random"))
    below = capsules()
    draws = [jax.jit(layer.init)(jax.random.key(k), below)["params"]["draws"] for k in (0, 0, 1)]
    assert draws[0].shape == (32, 3)
    chex.assert_trees_all_equal(draws[0], draws[1])
    assert float(jnp.abs(draws[0] - draws[2]).max()) > 0.5
    assert 0.8 < float(draws[0].std()) < 1.2
    _, shown = layer.apply(layer.init(KEY, below), below, mutable=["intermediates"])
    c = shown["intermediates"]["couplings"]
    chex.assert_trees_all_equal(c[0], c[1])


def test_the_gradient_does_not_reach_the_draws():
    layer = DenseCaps(3, 4, make_routing("random", use_bias=True))
    below = capsules()
    params = jax.jit(layer.init)(KEY, below)["params"]

    def value(params):
        return jnp.sum(jnp.square(layer.apply({"params": params}, below)[0].poses))

    gradients = jax.jit(jax.grad(value))(params)
    assert not gradients["draws"].any()
    assert gradients["W"].any()
    assert gradients["bias"].any()


@pytest.mark.slow
def test_all_positions_of_a_convolution_have_the_same_draws():
    layer = ConvCaps(3, 4, make_routing("random"), over="types")
    below = capsules()
    params = jax.jit(layer.init)(KEY, below)["params"]
    assert params["draws"].shape == (18, 3)
    _, shown = layer.apply({"params": params}, below, mutable=["intermediates"])
    c = shown["intermediates"]["couplings"]
    np.testing.assert_allclose(c, jnp.broadcast_to(c[:1, :1], c.shape), rtol=1e-6)
