"""Calibration and the entropy of couplings, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.analysis.calibration import (
    SCORES,
    expected_calibration_error,
    find_confidences,
)
from capsjax.analysis.couplings import relative_entropy
from capsjax.layers.readout import READOUTS


def test_confidences_of_logits_are_a_shifted_softmax():
    scores = np.array([[1000.0, 1000.0 + np.log(3)], [0.0, -np.inf]])
    np.testing.assert_allclose(find_confidences(scores, "logit"), [0.75, 1.0])


def test_a_length_is_a_probability_and_at_most_one():
    scores = np.array([[0.2, 0.4], [1.5, 0.0]])
    np.testing.assert_allclose(find_confidences(scores, "probability"), [0.4, 1.0])
    with pytest.raises(ValueError, match="did you mean 'logit'"):
        find_confidences(scores, "logits")


def test_the_scores_of_every_readout_have_a_kind():
    assert SCORES.keys() == READOUTS.keys()


def test_the_error_is_the_gap_of_each_bin_weighted_by_its_examples():
    # One bin of 0.9, right in half: gap 0.4 of 4 examples; one of 0.3, always right: 0.7 of 1.
    confidences = np.array([0.9, 0.9, 0.9, 0.9, 0.3])
    correct = np.array([1, 1, 0, 0, 1])
    error = expected_calibration_error(confidences, correct, num_bins=10)
    assert error == pytest.approx((4 * 0.4 + 1 * 0.7) / 5)
    # In a single bin gaps of opposite signs cancel.
    alone = expected_calibration_error(confidences, correct, num_bins=1)
    assert alone == pytest.approx(abs(3 - 3.9) / 5)


def test_a_perfect_network_and_a_confidence_of_one():
    assert expected_calibration_error(np.ones(3), np.ones(3)) == 0.0
    for wrong in (np.array([]), np.array([1.5]), np.array([np.nan])):
        with pytest.raises(ValueError, match="from 0 to 1"):
            expected_calibration_error(wrong, np.ones(len(wrong)))


@pytest.mark.slow
def test_entropy_does_not_depend_on_the_size_of_the_sum():
    np.testing.assert_allclose(relative_entropy(jnp.full((2, 5, 4), 0.25)), 1.0, rtol=1e-6)
    # Two positions see the child, and each has an eighth for each of four types.
    np.testing.assert_allclose(relative_entropy(jnp.full((3, 2, 5, 4), 0.125)), 1.0, rtol=1e-6)
    one_parent = jnp.zeros((2, 5, 4)).at[..., 1].set(1.0)
    assert relative_entropy(one_parent).tolist() == [0.0, 0.0]


def test_entropy_is_weighted_by_what_a_child_sends():
    c = jnp.array([[0.75, 0.0], [0.125, 0.125], [0.0, 0.0]])
    np.testing.assert_allclose(relative_entropy(jnp.stack([c, c[::-1]])), 0.25, rtol=1e-6)
