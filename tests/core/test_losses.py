"""Losses: hand-worked numbers for every reduction."""

import chex
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from capsjax.losses import (
    REDUCTIONS,
    binary_cross_entropy_loss,
    cross_entropy_loss,
    margin_loss,
    reconstruction_loss,
    soft_dice_loss,
    spread_loss,
    spread_margin,
)

LENGTHS = jnp.array([[0.4, 0.3, 0.05], [0.95, 0.2, 0.1]])
LABELS = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
# (0.9 - 0.4)² + 0.5 (0.3 - 0.1)² and 0.5 (0.95 - 0.1)² + (0.9 - 0.2)²
MARGINS = (0.27, 0.85125)

IMAGES = jnp.array([[0.0, 1.0, 0.5, 0.0], [0.25, 0.5, 0.0, 1.0]]).reshape(2, 2, 2, 1)
RECONSTRUCTION = jnp.array([[1.0, 1.0, 0.0, 0.0], [0.25, 0.0, 0.0, 1.0]]).reshape(2, 2, 2, 1)
SSE = (1.25, 0.25)


@pytest.mark.slow
def test_weights_are_factors_on_the_losses_of_examples():
    scores = jnp.array([[1.0, 0.0, 0.0], [5.0, 5.0, 5.0]])
    weights = jnp.array([3.0, 0.5])
    losses = {
        "margin": lambda rows, **more: margin_loss(LENGTHS[rows], LABELS[rows], **more),
        "spread": lambda rows, **more: spread_loss(LENGTHS[rows], LABELS[rows], 0.6, **more),
        "binary": lambda rows, **more: binary_cross_entropy_loss(
            LENGTHS[rows], LABELS[rows], 2.0, **more
        ),
        "cross-entropy": lambda rows, **more: cross_entropy_loss(
            scores[rows], LABELS[rows], **more
        ),
    }
    for loss in losses.values():
        first, second = loss(slice(0, 1)), loss(slice(1, 2))
        assert first > 0
        weighted = loss(slice(0, 2), weights=weights)
        np.testing.assert_allclose(weighted, (3.0 * first + 0.5 * second) / 2, rtol=1e-6)
    for reduction in REDUCTIONS:
        whole = margin_loss(LENGTHS, LABELS, reduction=reduction, weights=2 * jnp.ones(2))
        np.testing.assert_allclose(whole, 2 * margin_loss(LENGTHS, LABELS, reduction=reduction))


@pytest.mark.parametrize(
    "loss", [margin_loss, spread_loss, cross_entropy_loss, binary_cross_entropy_loss]
)
@pytest.mark.parametrize("labels", [jnp.arange(3), jnp.ones((3, 1)), jnp.ones((1, 3))])
def test_labels_that_would_be_broadcast_are_refused(loss, labels, monkeypatch):
    # As outside of the tests, where shapes are not checked.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=r"jax.nn.one_hot\(labels, 3\) makes them"):
        loss(jnp.eye(3), labels)
    with pytest.raises(ValueError, match="not"):
        soft_dice_loss(jnp.zeros((2, 4, 3)), jnp.zeros((2, 4, 1)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_binary_cross_entropy_of_half_precision_is_finite(dtype):
    p, T = jnp.array([[1.0, 1.0, 0.0, 0.5]], dtype), jnp.array([[1.0, 0.0, 1.0, 0.0]])
    loss, gradient = jax.value_and_grad(binary_cross_entropy_loss)(p, T)
    whole = binary_cross_entropy_loss(p.astype(jnp.float32), T)
    np.testing.assert_allclose(loss, whole, rtol=1e-3)
    chex.assert_tree_all_finite(gradient)


def test_cross_entropy_by_hand():
    # -log softmax: log(e + 2) - 1 for a score of 1 above two of 0, and log 3 for equal ones.
    scores = jnp.array([[1.0, 0.0, 0.0], [5.0, 5.0, 5.0]])
    expected = (np.log(np.e + 2) - 1 + np.log(3)) / 2
    loss = cross_entropy_loss(scores, LABELS)
    chex.assert_shape(loss, ())
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 1e30])
def test_cross_entropy_has_finite_gradients(scale):
    gradient = jax.grad(cross_entropy_loss)(scale * LENGTHS, LABELS)
    chex.assert_tree_all_finite(gradient)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("sum", sum(MARGINS) / 2), ("mean", sum(MARGINS) / 6), ("batch_sum", sum(MARGINS))],
)
def test_margin_loss_by_hand(reduction, expected):
    loss = margin_loss(LENGTHS, LABELS, reduction=reduction)
    chex.assert_shape(loss, ())
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_margin_loss_sums_over_classes_by_default():
    np.testing.assert_allclose(margin_loss(LENGTHS, LABELS), sum(MARGINS) / 2, rtol=1e-6)


def test_margin_loss_settings():
    # (0.8 - 0.4)² + 0.25 (0.3 - 0.2)²
    loss = margin_loss(LENGTHS[:1], LABELS[:1], m_plus=0.8, m_minus=0.2, down_weight=0.25)
    np.testing.assert_allclose(loss, 0.1625, rtol=1e-6)


def test_margins_may_be_traced():
    loss = jax.jit(lambda m_plus: margin_loss(LENGTHS, LABELS, m_plus=m_plus))(jnp.array(0.9))
    np.testing.assert_allclose(loss, sum(MARGINS) / 2, rtol=1e-6)


def test_margin_loss_of_two_classes_at_once():
    # 0.4² for the class that is too short; the other is long enough, the third short enough.
    loss = margin_loss(jnp.array([[0.5, 0.95, 0.1]]), jnp.array([[1.0, 1.0, 0.0]]))
    np.testing.assert_allclose(loss, 0.16, rtol=1e-6)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_perfect_prediction_costs_nothing(reduction):
    # A softmax over the lengths would leave (0.71, 0.29) of these, and a loss.
    lengths = jnp.array([[0.95, 0.05], [0.1, 0.9]])
    assert margin_loss(lengths, jnp.eye(2), reduction=reduction) == 0.0
    assert reconstruction_loss(IMAGES, IMAGES, reduction) == 0.0


def test_margin_loss_depends_on_the_lengths_and_not_on_their_differences():
    # A softmax would not see that all lengths grew by the same amount.
    shifted = margin_loss(LENGTHS + 0.1, LABELS)
    # (0.4² + 0.5 (0.3² + 0.05²) and 0.6² + 0.5 (0.95² + 0.1²)) / 2
    np.testing.assert_allclose(shifted, (0.20625 + 0.81625) / 2, rtol=1e-6)


def test_margin_loss_gradient_by_hand():
    gradient = jax.grad(margin_loss)(LENGTHS[:1], LABELS[:1])
    # -2 (0.9 - 0.4), 2 · 0.5 (0.3 - 0.1), and nothing below the margin
    np.testing.assert_allclose(gradient, [[-1.0, 0.2, 0.0]], rtol=1e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("length", [0.0, 0.1, 0.9, 1.0])
def test_margin_loss_gradient_is_finite_at_the_ends_and_the_margins(length, reduction):
    lengths = jnp.full((2, 3), length)
    gradient = jax.grad(margin_loss)(lengths, LABELS, reduction=reduction)
    chex.assert_tree_all_finite(gradient)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("sum", sum(SSE) / 2), ("mean", sum(SSE) / 8), ("batch_sum", sum(SSE))],
)
def test_reconstruction_loss_by_hand(reduction, expected):
    loss = reconstruction_loss(RECONSTRUCTION, IMAGES, reduction)
    chex.assert_shape(loss, ())
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_reconstruction_loss_sums_over_pixels_by_default():
    np.testing.assert_allclose(reconstruction_loss(RECONSTRUCTION, IMAGES), 0.75, rtol=1e-6)


@pytest.mark.parametrize("shape", [(3, 4, 4, 1), (1, 5, 7, 3)])
def test_reductions_differ_by_the_numbers_of_pixels_and_images(shape):
    rng = np.random.default_rng(0)
    pair = [jnp.asarray(rng.uniform(size=shape), jnp.float32) for _ in range(2)]
    loss = {name: float(reconstruction_loss(*pair, name)) for name in REDUCTIONS}
    np.testing.assert_allclose(loss["sum"], loss["mean"] * np.prod(shape[1:]), rtol=1e-5)
    np.testing.assert_allclose(loss["batch_sum"], loss["sum"] * shape[0], rtol=1e-5)


def test_only_the_mean_is_the_same_at_another_image_size():
    larger = [x.repeat(2, axis=1).repeat(2, axis=2) for x in (RECONSTRUCTION, IMAGES)]
    np.testing.assert_allclose(reconstruction_loss(*larger, "mean"), sum(SSE) / 8, rtol=1e-6)
    np.testing.assert_allclose(reconstruction_loss(*larger, "sum"), 4 * sum(SSE) / 2, rtol=1e-6)


def test_reconstruction_loss_gradient_by_hand():
    gradient = jax.grad(reconstruction_loss)(RECONSTRUCTION, IMAGES, "sum")
    np.testing.assert_allclose(gradient, RECONSTRUCTION - IMAGES, rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 2, 2, 3), (1, 2, 2, 1), (2, 4, 1, 1)])
def test_a_reconstruction_of_another_shape_is_refused(shape):
    # The first two would broadcast, and give a number.
    with pytest.raises((ValueError, TypeError)):
        reconstruction_loss(jnp.zeros(shape), IMAGES)


def test_unknown_reduction_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'sum'"):
        margin_loss(LENGTHS, LABELS, reduction="summ")
    with pytest.raises(ValueError, match="did you mean 'mean'"):
        reconstruction_loss(IMAGES, IMAGES, "means")


ACTIVATIONS = jnp.array([[0.5, 0.5, 0.5], [0.1, 0.8, 0.4]])


@pytest.mark.parametrize(
    ("reduction", "expected"),
    # (0.2 - 0)² for two wrong classes, none for 0.8 above 0.1 and 0.4.
    [("sum", 0.08 / 2), ("mean", 0.08 / 6), ("batch_sum", 0.08)],
)
def test_spread_loss_by_hand(reduction, expected):
    loss = spread_loss(ACTIVATIONS, LABELS, 0.2, reduction)
    chex.assert_shape(loss, ())
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_spread_loss_at_the_last_margin_and_of_two_present_classes():
    # (0.9 - 0.7)² + (0.9 - 0.4)² for class 1; both 1 and 2 present: (0.9 - 0.7)² + (0.9 - 0.3)².
    np.testing.assert_allclose(spread_loss(ACTIVATIONS[1:], LABELS[1:]), 0.29, rtol=1e-5)
    both = jnp.array([[0.0, 1.0, 1.0]])
    np.testing.assert_allclose(spread_loss(ACTIVATIONS[1:], both), 0.4, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {0: 0.2, 10_000: 0.55, 20_000: 0.9, 50_000: 0.9, None: 0.9}),
        (
            {"schedule": "sigmoid", "margin_end": 0.99, "margin_steps": 50_000},
            {0: 0.21421, 200_000: 0.595, 700_000: 0.98996, 2_000_000: 0.98996, None: 0.99},
        ),
    ],
)
def test_margin_over_the_steps(settings, expected):
    margin = jax.jit(lambda step: spread_margin(step, **settings))
    for step, value in expected.items():
        found = spread_margin(None, **settings) if step is None else margin(jnp.array(step))
        np.testing.assert_allclose(found, value, atol=1e-5)


def test_unknown_schedule_of_the_margin():
    with pytest.raises(ValueError, match="'sigmod'; did you mean 'sigmoid'"):
        spread_margin(0, "sigmod")
