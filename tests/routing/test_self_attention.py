"""Self-attention routing against slow loops, by hand, and its squash."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.layers import ConvCaps
from capsjax.notation import Capsules
from capsjax.ops import exponential_squash, safe_norm
from capsjax.routing import make_routing, self_attention_routing
from tests.routing.against_loops import HARD, compare, competition_of, make_votes, normal
from tests.routing.loops import dot, length, per_capsule, places_of, softmax_of_sets, weighted_sums


def slow_squash(s):
    n = math.sqrt(dot(s, s))
    return np.array(s) * ((1 - math.exp(-n)) / n if n > 0 else 1.0)


def slow_routing(votes, bias, dimensions, case):
    o_size, i_size, j_size, d_size = votes.shape
    b = np.zeros((o_size, i_size, j_size))
    for o, i, _ in places_of(case.table()):
        for j in range(j_size):
            total = np.zeros(d_size)
            for other, k, _ in places_of(case.table()):
                if other == o:
                    total += votes[o, k, j]
            b[o, i, j] = dot(votes[o, i, j], total) / math.sqrt(dimensions)
    c = softmax_of_sets(b, case)
    v = per_capsule(slow_squash, weighted_sums(c + bias, votes, case))
    return {"v": v, "a": per_capsule(length, v), "c": c, "logits": b}


@pytest.mark.parametrize("name", HARD)
def test_against_slow_loops(name):
    case, j, _ = HARD[name]
    votes = make_votes(name)
    bias = normal(1, votes.shape[-3], j)

    def fast(votes):
        return self_attention_routing(
            votes, jnp.asarray(bias, votes.dtype), dimensions=3, competition=competition_of(case)
        )

    names = ("v", "a", "c", "logits")
    compare(fast, lambda votes: slow_routing(votes, bias, 3, case), case, votes, names=names)


@pytest.mark.slow
def test_by_hand():
    # Both votes for capsule 0 are 2, those for capsule 1 cancel: b = (2·4, 1·0) and (8, 0).
    votes = jnp.array([[[2.0], [1.0]], [[2.0], [-1.0]]])
    bias = jnp.array([[0.5, 0.0], [0.0, 0.0]])
    routed = self_attention_routing(votes, bias)
    np.testing.assert_allclose(routed.logits, [[8, 0], [8, 0]])
    c = math.exp(8) / (math.exp(8) + 1)
    np.testing.assert_allclose(routed.c, [[c, 1 - c]] * 2, rtol=1e-4)
    s = 2 * (c + 0.5) + 2 * c
    np.testing.assert_allclose(routed.v, [[1 - math.exp(-s)], [0]], rtol=1e-6, atol=1e-7)


def test_an_agreement_includes_the_vote_itself():
    votes = jnp.array([[[3.0], [0.0]]])
    np.testing.assert_allclose(self_attention_routing(votes).logits, [[9, 0]])


@pytest.mark.slow
def test_the_scale_is_that_of_the_code_or_of_the_paper():
    votes, a, u = jnp.ones((2, 3, 4, 9)), jnp.ones((2, 3)), jnp.ones((2, 3, 4))
    learned = {"bias": jnp.zeros((3, 4))}
    # An agreement is 9 · 3 = 27, divided by √9 or by √4.
    for scale_by, expected in (("upper", 9.0), ("lower", 13.5)):
        routing = make_routing("self_attention", scale_by=scale_by)
        np.testing.assert_allclose(routing(votes, a, learned, u=u).logits, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="windows='gathered'"):
        make_routing("self_attention", scale_by="lower")(votes, a, learned)
    with pytest.raises((ValueError, TypeError)):
        make_routing("self_attention", scale_by="middle")


@pytest.mark.slow
def test_the_bias_comes_after_the_softmax_and_weights_may_be_negative():
    votes = jnp.ones((2, 4, 1))
    plain = self_attention_routing(votes)
    biased = self_attention_routing(votes, jnp.full((2, 4), -0.5))
    chex.assert_trees_all_close(biased.c, plain.c)
    # Σ_i (1/4 - 1/2) = -1/2.
    np.testing.assert_allclose(biased.v, -(1 - math.exp(-0.5)), rtol=1e-6)


@pytest.mark.slow
def test_the_control_holds_couplings_and_keeps_bias_and_squash():
    votes = jnp.asarray(normal(0, 2, 5, 3, 2), jnp.float32)
    bias = jnp.asarray(normal(1, 5, 3), jnp.float32)
    held = make_routing("self_attention", uniform=True)(votes, jnp.ones((2, 5)), {"bias": bias})
    np.testing.assert_allclose(held.c, 1 / 3, rtol=1e-6)
    s = jnp.einsum("ij,nijd->njd", 1 / 3 + bias, votes)
    np.testing.assert_allclose(held.v, exponential_squash(s), rtol=1e-5)


@pytest.mark.slow
def test_parents_that_are_masked_get_no_vote():
    votes = jnp.asarray(normal(0, 2, 5, 3, 2), jnp.float32)
    mask = jnp.array([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    bias = jnp.ones((5, 3))
    routed = self_attention_routing(votes, bias, parent_mask=mask)
    assert not routed.v[0, 1].any()
    kept = self_attention_routing(votes[:, :, ::2], bias[:, ::2])
    np.testing.assert_allclose(routed.v[0, ::2], kept.v[0], rtol=1e-5)


def test_gradient_is_the_numerical_one():
    with jax.enable_x64(True):

        @jax.jit
        def value(votes, bias):
            routed = self_attention_routing(votes, bias)
            return jnp.sum(normal(3, 3, 2) * routed.v) + jnp.sum(normal(4, 3) * routed.a)

        operands = jnp.asarray(normal(0, 4, 3, 2)), jnp.asarray(normal(1, 4, 3))
        chex.assert_numerical_grads(value, operands, order=1, atol=1e-7, rtol=1e-7, modes=["rev"])


def test_the_bias_is_learned_and_starts_at_zero():
    arrays = make_routing("self_attention").learned_arrays(6, 3, 4, 2)
    assert arrays["bias"].shape == (6, 3)
    assert not arrays["bias"].init(jax.random.key(0), (6, 3)).any()
    assert make_routing("self_attention", use_bias=False).learned_arrays(6, 3, 4, 2) == {}


def test_no_array_has_two_axes_of_lower_capsules():
    """128 capsules of a deep net would make 16,384 products for each parent."""
    votes = jnp.ones((2, 37, 3, 2))
    program = jax.jit(jax.grad(lambda votes: self_attention_routing(votes).v.sum())).lower(votes)
    assert "x37x" in program.as_text()
    assert "37x37" not in program.as_text()


def test_summed_windows_work_with_the_released_scale():
    poses = jnp.asarray(normal(0, 2, 4, 4, 2, 3), jnp.float32)
    below = Capsules(poses, safe_norm(poses))
    layer = ConvCaps(3, 4, make_routing("self_attention"), windows="summed")
    (above, _), _ = jax.jit(layer.init_with_output)(jax.random.key(0, impl="rbg"), below)
    assert above.poses.shape == (2, 2, 2, 3, 4)


def test_squash_by_hand():
    factor = (1 - math.exp(-5)) / 5
    got = exponential_squash(jnp.array([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(got, [[3 * factor, 4 * factor], [0, 0]], rtol=1e-6)
    along = exponential_squash(jnp.array([[3.0], [4.0]]), axis=0)
    np.testing.assert_allclose(along, [[3 * factor], [4 * factor]], rtol=1e-6)


def test_the_jacobian_of_squash_at_zero_is_the_identity():
    jacobian = jax.jit(jax.jacobian(exponential_squash))
    for size in (0.0, 1e-30, 1e-20, 1e-16, 1e-8):
        np.testing.assert_allclose(jacobian(jnp.array([size, 0.0, size])), np.eye(3), atol=1e-6)


@pytest.mark.parametrize("size", [0.0, 1e-8, 1e-4, 1.0, 88.0, 1e3, 1e10])
def test_the_norm_of_squash_and_its_gradient_are_finite(size):
    def norm(s):
        return safe_norm(exponential_squash(s))

    s = jnp.array([0.6, 0.8]) * size
    value, gradient = jax.jit(jax.value_and_grad(norm))(s)
    expected = math.sqrt((1 - math.exp(-size)) ** 2 + 1e-7)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    assert jnp.isfinite(gradient).all()
    exact = np.array([0.6, 0.8]) * (1 - math.exp(-size)) * math.exp(-size) / expected
    np.testing.assert_allclose(gradient, exact, rtol=1e-3, atol=1e-7)
