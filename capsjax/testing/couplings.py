"""Checks of the couplings: their softmax, competition, and agreement."""

from collections.abc import Iterator

import numpy as np

from capsjax.testing import faults
from capsjax.testing.report import Finding, failed, not_checked, passed
from capsjax.testing.subject import SAME, Outcome, Subject


def softmax_of_couplings(subject: Subject) -> Iterator[Finding]:
    """Sum the couplings of each child over the upper capsules, and over other axes."""
    c = subject(subject.random_inputs()).c
    if c is None or subject.claims.couplings == "any":
        reason = "returns no couplings" if c is None else "does not claim normalised couplings"
        yield not_checked(f"The function {reason}.")
        return
    sums = c.sum(axis=-1)
    measured = f"The couplings of a child have sums between {sums.min():.4g} and {sums.max():.4g}"
    leaky = subject.claims.couplings == "leaky"
    wanted = "less than 1" if leaky else "1"
    if c.min() >= -SAME and (sums.max() < 1 if leaky else sums_to_one(c)):
        yield passed(f"The couplings of a child sum to {wanted} over the upper capsules.")
    else:
        yield failed(f"{measured} over the upper capsules, not {wanted}.", _axis_fault(c))


def sums_to_one(c: np.ndarray, axis: int | tuple[int, int] = -1) -> bool:
    """Whether all sums of couplings over the given axes are 1."""
    return bool(np.all(np.abs(c.sum(axis) - 1) < SAME))


def _axis_fault(c: np.ndarray) -> str:
    if sums_to_one(c, 1):
        return faults.SOFTMAX_OVER_CHILDREN
    if len(c) > 1 and sums_to_one(c, 0):
        return faults.SOFTMAX_OVER_BATCH
    if sums_to_one(c, (1, 2)):
        return faults.SOFTMAX_OVER_BOTH
    return faults.NO_SOFTMAX


def competition(subject: Subject) -> Iterator[Finding]:
    """Change the votes for one upper capsule, and look at the others."""
    if not subject.claims.competition:
        yield not_checked("It does not claim that votes for one upper capsule change the others.")
        return
    if subject.shape[2] < 2:
        yield not_checked("There is only one upper capsule.")
        return
    inputs = subject.random_inputs()
    votes = inputs.votes.copy()
    votes[:, :, 0] = 2.0 * subject.random(2, *votes[:, :, 0].shape)
    one, other = subject(inputs), subject(inputs.replace(votes=votes))
    rivals = np.arange(1, subject.shape[2])
    change = max(
        float(np.max(np.abs(x - y)))
        for x, y in zip(one.take(j=rivals)[:2], other.take(j=rivals)[:2], strict=True)
        if x is not None
    )
    if change > 1e-5:
        yield passed(f"Votes for one upper capsule change the others (by {change:.2g}).")
        return
    yield failed(
        "Other votes for one upper capsule leave all others as they are: nothing competes.",
        _competition_fault(one),
    )


def _competition_fault(outcome: Outcome) -> str:
    if outcome.c is None:
        return faults.NO_COMPETITION
    if np.ptp(outcome.c) < SAME:
        return faults.CONSTANT_COUPLINGS
    fault = _axis_fault(outcome.c)
    return faults.NO_COMPETITION if fault == faults.NO_SOFTMAX else fault


def agreement(subject: Subject) -> Iterator[Finding]:
    """Let all children but one agree on a parent, and see whether that one loses its coupling."""
    n, i, j, d = subject.shape
    if not subject.claims.agreement:
        yield not_checked("It does not claim that agreeing votes win.")
        return
    if i < 3 or j < 2 or d < 3:
        yield not_checked("To disagree takes 3 lower, 2 upper capsules and poses of 3 dimensions.")
        return
    # All capsules are the same in further dimensions, where a small variance would outweigh all.
    votes = np.zeros((n, i, j, d), np.float32)
    votes[..., :3] = disagreeing_rivals(n, i, j, 3)
    agreeing = subject(subject.inputs(votes))
    comparable = subject.claims.symmetric_parents
    if comparable and agreeing.c is not None and sums_to_one(agreeing.c):
        yield _of_parents(agreeing.c)
    votes[:, 0, 0, :3] = [0.0, 2.0, 0.0]
    outcome = subject(subject.inputs(votes))
    if np.all(np.isfinite(outcome.v)):
        yield _of_children(outcome, i)
    else:
        yield failed("Where all votes but one agree, poses are not finite.", faults.ZERO)


def disagreeing_rivals(n: int, i: int, j: int, d: int) -> np.ndarray:
    """Make votes of length 2: all for parent 0 are the same, those for every other one differ."""
    votes = np.zeros((n, i, j, d), np.float32)
    votes[:, :, 0, 0] = 2.0
    for child in range(i):
        for parent in range(1, j):
            votes[:, child, parent, (child + parent - 1) % d] = 2.0
    return votes


def _of_parents(c: np.ndarray) -> Finding:
    winner, rivals = c[..., 0].mean(), c[..., 1:].mean()
    measured = f"{winner:.4g} to the parent with equal votes, {rivals:.4g} to others"
    if winner > rivals * (1 + SAME):
        return passed(f"Agreeing votes win: couplings are {measured}.")
    return failed(f"Agreeing votes do not win: couplings are {measured}.", faults.WRONG_AGREEMENT)


def _of_children(outcome: Outcome, i: int) -> Finding:
    """Compare the coupling of the outlier with the others'.

    The pose shows them where they are not returned: the outlier votes along axis 1 of the pose, the
    others along axis 0. None votes along axis 2, which shows what a layer norm subtracted.
    """
    if outcome.c is not None:
        outlier, others = outcome.c[:, 0, 0].mean(), outcome.c[:, 1:, 0].mean()
    else:
        v = outcome.v[:, 0].mean(axis=0)
        outlier, others = v[1] - v[2], (v[0] - v[2]) / (i - 1)
    ratio = outlier / others if others else np.nan
    if ratio < 1 - SAME:
        return passed(f"A child that votes against all others keeps {ratio:.2g} of their coupling.")
    return failed(
        f"A child that votes against all others keeps {ratio:.4g} of their coupling, not less.",
        faults.WRONG_AGREEMENT,
    )
