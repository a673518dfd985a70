"""Calibration: whether a network is right as often as its scores promise."""

import numpy as np

from capsjax.registry import look_up

# What a readout's score is: a probability of its own, or a logit beside those of other classes.
SCORES = {
    "activation": "probability",
    "length": "probability",
    "linear": "logit",
    "log_activation": "logit",
}


def find_confidences(scores: np.ndarray, kind: str) -> np.ndarray:
    """Return the confidence in the predicted class of each example, (n,).

        "probability": the highest score itself, at most 1
        "logit":       the highest value of the softmax of the scores

    The length or activation of a capsule is the probability that its class is present, so that
    those of an image need not sum to 1, and are not normalised here.

    Args:
      scores: (n, k).
      kind: "probability" or "logit"; `SCORES` has that of each readout.

    Raises:
      ValueError: for another kind.

    >>> find_confidences(np.array([[0.2, 0.8], [0.1, 0.3]]), "probability").tolist()
    [0.8, 0.3]
    >>> find_confidences(np.array([[0.0, 0.0, 0.0, 0.0]]), "logit").tolist()
    [0.25]
    """
    return look_up(_CONFIDENCES, kind, "kind of scores")(np.asarray(scores, np.float64))


def expected_calibration_error(
    confidences: np.ndarray, correct: np.ndarray, num_bins: int = 15
) -> float:
    """Compute the expected calibration error: by how much confidence and accuracy differ.

        Σ_b n_b / n |accuracy_b - confidence_b|,  over bins b of equal width

    Args:
      confidences: from 0 to 1, (n,); see `find_confidences`.
      correct: whether the predicted class is right, (n,).
      num_bins: number of bins.

    Raises:
      ValueError: for confidences outside of 0 to 1, or none.

    Source: Guo et al. 2017.

    >>> float(expected_calibration_error(np.array([0.75, 0.75]), np.array([True, False])))
    0.25
    """
    if not len(confidences) or not ((confidences >= 0) & (confidences <= 1)).all():
        raise ValueError("confidences are one or more numbers from 0 to 1")
    bins = np.minimum((confidences * num_bins).astype(int), num_bins - 1)
    # n_b (accuracy_b - confidence_b) is a sum over the bin.
    gaps = np.bincount(bins, np.asarray(correct, np.float64) - confidences, num_bins)
    return float(np.abs(gaps).sum() / len(confidences))


def _softmax_of_highest(scores: np.ndarray) -> np.ndarray:
    highest = scores.max(axis=-1, keepdims=True)
    return 1.0 / np.exp(scores - highest).sum(axis=-1)


_CONFIDENCES = {
    "logit": _softmax_of_highest,
    "probability": lambda scores: np.clip(scores.max(axis=-1), 0.0, 1.0),
}
