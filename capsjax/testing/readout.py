"""Checks of the upper capsules: their squash, lengths and activations."""

from collections.abc import Iterator

import numpy as np

from capsjax.testing import faults
from capsjax.testing.report import Finding, failed, not_checked, passed
from capsjax.testing.subject import SAME, Outcome, Subject

_SQUASHES = {"squash": lambda s: s * s / (1 + s * s), "exponential": lambda s: -np.expm1(-s)}


def squash(subject: Subject) -> Iterator[Finding]:
    """Give every parent the same votes, so that couplings are 1/j and the weighted sum is known."""
    claims, (n, i, j, d) = subject.claims, subject.shape
    if claims.length not in _SQUASHES or claims.couplings != "parents":
        yield not_checked("It does not claim a squash of a weighted sum with couplings of sum 1.")
        return
    if not claims.symmetric_parents:
        yield not_checked("It does not claim equal couplings for equal votes.")
        return
    wanted = np.array([0.2, 1.0, 5.0])
    direction = np.zeros(d)
    direction[:2] = (0.6, 0.8) if d > 1 else 1.0
    for length in wanted:
        votes = np.broadcast_to(direction * length * j / i, (n, i, j, d))
        got = subject(subject.inputs(votes)).lengths.mean()
        expected = _SQUASHES[claims.length](length)
        if abs(got - expected) > SAME * max(expected, 0.1):
            sentence = f"A weighted sum of length {length:g} has a pose of length {got:.4g}"
            fault = _mass_fault(claims.length, length, got, i, j)
            yield failed(f"{sentence}, not {expected:.4g}.", fault)
            return
    yield passed("Weighted sums of length 0.2, 1 and 5 have poses of the claimed lengths.")


def _mass_fault(kind: str, length: float, got: float, i: int, j: int) -> str:
    """Recognise what the sum was multiplied with instead of i children times 1/j."""
    masses = {
        faults.SOFTMAX_OVER_CHILDREN: 1.0,
        faults.NOT_NORMALIZED: float(i),
        faults.DIVIDED: 1.0 / j,
    }
    for fault, mass in masses.items():
        sum_of_votes = length * j / i * mass
        if np.isclose(got, sum_of_votes, rtol=SAME):
            return faults.NO_SQUASH
        if np.isclose(got, _SQUASHES[kind](sum_of_votes), rtol=SAME):
            return fault
    return faults.NO_SQUASH if np.isclose(got, length, rtol=SAME) else faults.WRONG_SQUASH


def lengths_below_one(subject: Subject) -> Iterator[Finding]:
    """Measure the lengths of the poses for random votes, as they are and 300 times longer."""
    if subject.claims.length == "any":
        yield not_checked("It does not claim poses of a length below 1.")
        return
    inputs = subject.random_inputs()
    outcomes = [subject(inputs.replace(votes=factor * inputs.votes)) for factor in (1, 300)]
    longest = max(float(np.max(outcome.lengths)) for outcome in outcomes)
    if longest < 1 + SAME:
        yield passed(f"The longest pose has length {longest:.4g}.")
        return
    along_capsules = max(float(np.square(outcome.v).sum(axis=1).max()) for outcome in outcomes)
    fault = faults.SQUASH_AXIS if along_capsules < 1 + SAME else faults.NO_SQUASH
    yield failed(f"The longest pose has length {longest:.4g}, not below 1.", fault)


def signs_of_poses(subject: Subject) -> Iterator[Finding]:
    """Count negative entries of the poses of votes of both signs."""
    outcome = subject(subject.random_inputs())
    share = np.mean(outcome.v < 0)
    if share > 0:
        yield passed(f"{share:.0%} of the poses' entries are negative, for votes of both signs.")
        return
    sums = [outcome.v.sum(axis=axis) for axis in (1, 2)]
    softmax = any(np.allclose(total, 1, atol=SAME) for total in sums)
    sentence = (
        f"No entry of a pose is negative (the least is {outcome.v.min():.2g}), but votes are."
    )
    yield failed(sentence, faults.SOFTMAX_ON_LENGTHS if softmax else faults.RELU)


def activations_of_parents(subject: Subject) -> Iterator[Finding]:
    """Compare the upper activations with what they are claimed to be."""
    outcome = subject(subject.random_inputs())
    lengths = outcome.lengths
    if lengths.shape[1] > 1 and np.allclose(lengths.sum(axis=1), 1, atol=SAME):
        yield failed(
            "The lengths of the upper capsules of an example sum to 1.", faults.SOFTMAX_ON_LENGTHS
        )
        return
    if outcome.a is None or subject.claims.readout == "any":
        reason = "returns no activations" if outcome.a is None else "does not claim what they are"
        yield not_checked(f"The function {reason}.")
        return
    if subject.claims.readout == "length":
        yield _of_lengths(outcome, lengths)
    else:
        inputs = subject.random_inputs()
        outcomes = [subject(inputs.replace(votes=factor * inputs.votes)) for factor in (0.1, 1, 10)]
        yield _of_probabilities(subject, np.stack([each.a for each in outcomes]))


def _of_lengths(outcome: Outcome, lengths: np.ndarray) -> Finding:
    apart = float(np.max(np.abs(outcome.a - lengths)))
    if apart < 2 * SAME:
        return passed(f"Activations are the lengths of the poses (up to {apart:.1g}).")
    sentence = f"Activations differ by up to {apart:.3g} from the lengths of the poses"
    if _sums_to_one(outcome.a):
        return failed(f"{sentence}, and sum to 1 over them.", faults.SOFTMAX_ON_LENGTHS)
    zeros = np.mean(outcome.a == 0)
    if zeros > 0:
        return failed(f"{sentence}, and {zeros:.0%} of them are 0.", faults.RELU)
    return failed(f"{sentence}.", faults.NOT_THE_LENGTH)


def _sums_to_one(a: np.ndarray) -> bool:
    return a.shape[-1] > 1 and np.allclose(a.sum(axis=-1), 1, atol=SAME)


def _of_probabilities(subject: Subject, a: np.ndarray) -> Finding:
    measured = f"Activations lie between {a.min():.3g} and {a.max():.3g}"
    if _sums_to_one(a) and subject.claims.activations != "shares":
        return failed(
            f"{measured}, and sum to 1 over the upper capsules.", faults.SOFTMAX_ON_LENGTHS
        )
    zeros = np.mean(a == 0)
    if zeros > 0:
        return failed(f"{measured}, and {zeros:.0%} of them are 0.", faults.RELU)
    if a.min() < 0 or a.max() > 1 + SAME:
        return failed(f"{measured}, not between 0 and 1.", faults.NO_PROBABILITY)
    return passed(f"{measured}.")
