"""Norm, squash, votes and masks: hand-worked values, and finite gradients everywhere."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax import ops

PLACEMENTS = ("root", "norm")


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_safe_norm_hand_values():
    s = jnp.array([[3.0, 4.0], [5.0, 12.0], [0.0, 0.0]])
    np.testing.assert_allclose(ops.safe_norm(s, eps=0.0), [5.0, 13.0, 0.0], rtol=1e-6)
    # eps stands inside the root: sqrt(25 + 11) = 6, and sqrt(eps) is left of a zero vector.
    np.testing.assert_allclose(ops.safe_norm(s, eps=11.0)[0], 6.0, rtol=1e-6)
    np.testing.assert_allclose(ops.safe_norm(s)[2], 1e-7**0.5, rtol=1e-5)


def test_safe_norm_axis_and_keepdims():
    s = normal(0, 2, 3, 4)
    expected = np.sqrt((np.asarray(s) ** 2).sum(axis=1))
    chex.assert_shape(ops.safe_norm(s), (2, 3))
    np.testing.assert_allclose(ops.safe_norm(s, axis=1, eps=0.0), expected, rtol=1e-6)
    kept = ops.safe_norm(s, axis=1, keepdims=True, eps=0.0)
    np.testing.assert_allclose(kept, expected[:, None], rtol=1e-6)


@pytest.mark.parametrize("eps", [0.0, 1e-7])
def test_safe_norm_gradient_is_zero_at_zero_and_the_direction_elsewhere(eps):
    s = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    gradient = jax.grad(lambda s: ops.safe_norm(s, eps=eps).sum())(s)
    np.testing.assert_allclose(gradient, [[0.0, 0.0], [0.6, 0.8]], rtol=1e-6)


@pytest.mark.parametrize("eps_at", PLACEMENTS)
@pytest.mark.parametrize(
    ("length", "squashed"), [(0.5, 0.2), (1.0, 0.5), (2.0, 0.8), (3.0, 0.9), (7.0, 0.98)]
)
def test_squash_hand_values(length, squashed, eps_at):
    s = length * jnp.array([0.6, 0.0, -0.8])
    expected = squashed * np.array([0.6, 0.0, -0.8])
    np.testing.assert_allclose(ops.squash(s, eps_at=eps_at), expected, rtol=1e-5)


def test_squash_puts_eps_where_it_says():
    s = jnp.array([3.0, 4.0])
    # 25/26 · s / sqrt(25 + 11) against 25/26 · s / (5 + 11)
    at_root = ops.squash(s, eps=11.0, eps_at="root")
    np.testing.assert_allclose(at_root, 25 / 26 * np.array([3, 4]) / 6, rtol=1e-6)
    at_norm = ops.squash(s, eps=11.0, eps_at="norm")
    np.testing.assert_allclose(at_norm, 25 / 26 * np.array([3, 4]) / 16, rtol=1e-6)


@pytest.mark.parametrize("eps_at", PLACEMENTS)
def test_squash_keeps_the_direction_and_stays_shorter_than_one(eps_at):
    s = normal(1, 50, 8) * jnp.logspace(-2, 2, 50)[:, None]
    v = np.asarray(ops.squash(s, eps_at=eps_at))
    lengths = np.linalg.norm(v, axis=-1)
    assert (lengths < 1).all()
    assert (lengths > 0).all()
    directions = s / np.linalg.norm(s, axis=-1, keepdims=True)
    np.testing.assert_allclose(v / lengths[:, None], directions, atol=1e-5)


@pytest.mark.parametrize("eps_at", PLACEMENTS)
@pytest.mark.parametrize("axis", [0, -2])
def test_squash_axis(axis, eps_at):
    s = normal(2, 3, 4, 5)
    moved = ops.squash(jnp.moveaxis(s, axis, -1), eps_at=eps_at)
    got = ops.squash(s, axis=axis, eps_at=eps_at)
    chex.assert_trees_all_close(got, jnp.moveaxis(moved, -1, axis), rtol=1e-6)


@pytest.mark.parametrize("eps_at", PLACEMENTS)
@pytest.mark.parametrize("eps", [1e-7, 1e-8])
def test_squash_is_zero_with_a_finite_gradient_at_zero(eps, eps_at):
    # The second vector is so short that its square is zero in float32.
    s = jnp.stack([jnp.zeros(4), jnp.full(4, 1e-25), jnp.ones(4)])

    def squash(s):
        return ops.squash(s, eps=eps, eps_at=eps_at)

    np.testing.assert_allclose(squash(s)[:2], 0.0)
    gradient = jax.grad(lambda s: squash(s).sum())(s)
    chex.assert_tree_all_finite(gradient)
    np.testing.assert_allclose(gradient[:2], 0.0)
    assert (gradient[2] > 0).all()


SQUASHES = {
    "root": ops.squash,
    "norm": functools.partial(ops.squash, eps_at="norm"),
    "exponential": ops.exponential_squash,
}
each_squash = pytest.mark.parametrize("squash", SQUASHES.values(), ids=list(SQUASHES))


def value_and_gradient(squash, s):
    def loss(s):
        v = squash(s)
        return v[..., 0].sum(), v

    gradient, v = jax.jit(jax.grad(loss, has_aux=True))(s)
    return v, gradient


@each_squash
def test_squashes_in_float16_are_those_in_float32(squash):
    lengths = jnp.array([0.0, 1e-3, 0.5, 100.0, 300.0, 6e4])
    s = (lengths[:, None] * jnp.array([[0.6, 0.8]])).astype(jnp.float16)
    found = value_and_gradient(squash, s)
    expected = value_and_gradient(squash, s.astype(jnp.float32))
    assert [x.dtype for x in found] == [jnp.float16] * 2
    chex.assert_trees_all_equal(found, tuple(x.astype(jnp.float16) for x in expected))
    chex.assert_tree_all_finite(found)


@each_squash
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_long_vectors_have_length_one_and_finite_gradients(squash, dtype):
    lengths = jnp.logspace(2, 18, 9)
    s = (lengths[:, None] * jnp.array([[0.6, 0.8]])).astype(dtype)
    chex.assert_tree_all_finite(value_and_gradient(squash, s))
    # Compiled, because XLA changes the order of divisions.
    norms = jnp.linalg.norm(jax.jit(squash)(s).astype(jnp.float32), axis=-1)
    np.testing.assert_allclose(norms, 1.0, atol=1e-3 if dtype == jnp.float32 else 1e-2)


@pytest.mark.parametrize("eps_at", PLACEMENTS)
def test_squash_gradient_is_the_numerical_one(eps_at):
    with jax.enable_x64(True):
        s = jnp.array([[0.3, -0.4, 1.2]], jnp.float64)
        squash = jax.jit(functools.partial(ops.squash, eps_at=eps_at))
        chex.assert_numerical_grads(squash, (s,), order=1, atol=1e-7, rtol=1e-7)


def test_squash_unknown_placement():
    with pytest.raises((ValueError, TypeError)):
        ops.squash(jnp.ones(3), eps_at="inside")


def test_predict_votes_hand_value():
    u = jnp.array([[1.0, 2.0]])
    W = jnp.array([[[[3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]]])
    np.testing.assert_allclose(ops.predict_votes(u, W), [[[11.0, 17.0, 23.0]]])


def test_predict_votes_against_loops():
    u, W = normal(3, 2, 4, 5), normal(4, 4, 3, 6, 5)
    expected = np.zeros((2, 4, 3, 6))
    for n, i, j, d, p in np.ndindex(2, 4, 3, 6, 5):
        expected[n, i, j, d] += float(W[i, j, d, p]) * float(u[n, i, p])
    np.testing.assert_allclose(ops.predict_votes(u, W), expected, atol=1e-5)


@pytest.mark.parametrize("batch", [(), (1,), (2,), (2, 3)])
def test_predict_votes_takes_any_leading_axes(batch):
    u, W = normal(5, *batch, 4, 5), normal(6, 4, 3, 6, 5)
    votes = ops.predict_votes(u, W)
    chex.assert_shape(votes, (*batch, 4, 3, 6))
    one_by_one = [ops.predict_votes(one, W) for one in u.reshape(-1, 4, 5)]
    chex.assert_trees_all_close(votes.reshape(-1, 4, 3, 6), jnp.stack(one_by_one), atol=1e-5)


@pytest.mark.parametrize(
    ("u", "W"),
    [
        ((2, 4, 5), (3, 3, 6, 5)),
        ((2, 4, 5), (4, 3, 6, 7)),
        ((2, 4, 5), (4, 3, 5)),
        ((5,), (4, 3, 6, 5)),
    ],
    ids=["lower capsules", "pose size", "no axis d in W", "no capsule axis in u"],
)
def test_predict_votes_of_shapes_that_do_not_fit(u, W):
    with pytest.raises((ValueError, TypeError)):
        ops.predict_votes(jnp.ones(u), jnp.ones(W))


def test_mask_of_labels():
    mask = ops.mask_of_labels(jnp.array([2, 0]), 3)
    np.testing.assert_array_equal(mask, [[0, 0, 1], [1, 0, 0]])
    assert mask.dtype == jnp.float32


def test_mask_of_longest_takes_the_first_of_equals():
    mask = ops.mask_of_longest(jnp.array([[0.1, 0.7, 0.3], [0.4, 0.2, 0.4]]))
    np.testing.assert_array_equal(mask, [[0, 1, 0], [1, 0, 0]])


def test_mask_poses_keeps_the_selected_pose_and_no_other():
    v = normal(7, 2, 3, 4)
    masked = ops.mask_poses(v, jnp.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))
    expected = np.zeros((2, 3, 4), np.float32)
    expected[0, 1], expected[1, 0] = v[0, 1], v[1, 0]
    np.testing.assert_array_equal(masked, expected)


def test_masks_keep_the_axis_of_a_batch_of_one():
    chex.assert_shape(ops.mask_of_labels(jnp.array([1]), 3), (1, 3))
    mask = ops.mask_of_longest(jnp.array([[0.1, 0.7, 0.3]]))
    chex.assert_shape(mask, (1, 3))
    chex.assert_shape(ops.mask_poses(jnp.ones((1, 3, 4)), mask), (1, 3, 4))


def test_only_the_selected_pose_gets_a_gradient():
    mask = jnp.array([[0.0, 1.0, 0.0]])
    gradient = jax.grad(lambda v: ops.mask_poses(v, mask).sum())(jnp.zeros((1, 3, 2)))
    np.testing.assert_array_equal(gradient, [[[0, 0], [1, 1], [0, 0]]])


@pytest.mark.parametrize("eps", [0.0, -1e-7])
def test_squash_needs_an_eps(eps):
    with pytest.raises(ValueError, match="eps is above 0"):
        ops.squash(jnp.zeros(3), eps=eps)


def test_squash_of_very_long_vectors_has_length_one():
    assert float(ops.safe_norm(ops.squash(jnp.full(3, 1e18)))) == pytest.approx(1.0)
