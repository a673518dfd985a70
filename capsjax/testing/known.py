"""The known values of dynamic routing, by a slow implementation, and the errors they reveal."""

from collections.abc import Iterator

import numpy as np

from capsjax.testing import faults
from capsjax.testing.couplings import disagreeing_rivals
from capsjax.testing.report import Finding, failed, not_checked, passed
from capsjax.testing.subject import SAME, Subject


def slow_dynamic_routing(
    votes: np.ndarray, rounds: int, softmax_axis: int = 1, agreement: str = "ijd,jd->ij"
) -> np.ndarray:
    """Route the votes (i, j, d) of one example in float64, rightly or with a common error.

    Args:
      votes: prediction vectors.
      rounds: of softmax, weighted sum and squash.
      softmax_axis: 0, over the lower capsules, is the common error.
      agreement: sum of votes times poses; "ijd,jd->j", over the lower capsules too, is an error.

    Returns:
      Upper poses (j, d).

    >>> votes = np.full((10, 3, 10), 1.0)
    >>> right, wrong = (slow_dynamic_routing(votes, 3, axis)[0, 0] for axis in (1, 0))
    >>> print(f"{right:.6f} {wrong:.6f}")
    0.313407 0.287480
    """
    votes = votes.astype(np.float64)
    b = np.zeros(votes.shape[:2])
    v = np.zeros(votes.shape[1:])
    for _ in range(rounds):
        e = np.exp(b - b.max(softmax_axis, keepdims=True))
        s = np.einsum("ij,ijd->jd", e / e.sum(softmax_axis, keepdims=True), votes)
        squared = np.sum(s * s, axis=-1, keepdims=True)
        v = squared / (1 + squared) * s / np.sqrt(squared + 1e-30)
        b = b + np.einsum(agreement, votes, v)
    return v


def known_values(subject: Subject) -> Iterator[Finding]:
    """Compare with dynamic routing on votes that agree for parent 0 and differ for the others."""
    rounds = subject.claims.dynamic_rounds
    if not rounds:
        yield not_checked("It does not claim to be dynamic routing: dynamic_rounds is 0.")
        return
    votes = disagreeing_rivals(*subject.shape)
    got = subject(subject.inputs(votes)).v[0]
    expected = slow_dynamic_routing(votes[0], rounds)
    measured = f"|v| is {_lengths(got)}, and in {rounds} rounds it should be {_lengths(expected)}"
    if np.max(np.abs(got - expected)) < SAME:
        yield passed(f"On votes with known poses, {measured}.")
    else:
        yield failed(f"On votes with known poses, {measured}.", _recognise(votes[0], rounds, got))


def _lengths(v: np.ndarray) -> str:
    return ", ".join(f"{length:.6f}" for length in np.linalg.norm(v, axis=-1))


def _recognise(votes: np.ndarray, rounds: int, got: np.ndarray) -> str:
    """Name the error that makes the slow implementation return these poses."""
    wrong = {
        faults.SOFTMAX_OVER_CHILDREN: slow_dynamic_routing(votes, rounds, softmax_axis=0),
        faults.WRONG_AGREEMENT: slow_dynamic_routing(votes, rounds, agreement="ijd,jd->j"),
    }
    for others in range(1, rounds + 3):
        fault = f"{faults.WRONG_ROUNDS} These are the values of {others}."
        wrong[fault] = slow_dynamic_routing(votes, others)
    apart = {fault: np.max(np.abs(got - poses)) for fault, poses in wrong.items()}
    nearest = min(apart, key=apart.get)
    return nearest if apart[nearest] < SAME else faults.NOT_DYNAMIC
