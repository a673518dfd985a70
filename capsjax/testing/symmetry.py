"""Checks of symmetries: the order of the capsules, and children that are not there."""

from collections.abc import Iterator

import numpy as np

from capsjax.testing import faults
from capsjax.testing.report import Finding, failed, not_checked, passed
from capsjax.testing.subject import SAME, Subject, difference


def order_of_children(subject: Subject) -> Iterator[Finding]:
    """Permute the lower capsules: poses stay, couplings are permuted."""
    yield _permuted(subject, "i", "lower", subject.claims.symmetric_children, faults.CHILD_ORDER)


def order_of_parents(subject: Subject) -> Iterator[Finding]:
    """Permute the upper capsules: everything is permuted."""
    yield _permuted(subject, "j", "upper", subject.claims.symmetric_parents, faults.PARENT_ORDER)


def _permuted(subject: Subject, axis: str, which: str, claimed: bool, fault: str) -> Finding:
    if not claimed:
        return not_checked(f"It does not claim to treat {which} capsules alike.")
    inputs = subject.random_inputs()
    # A rotation by one leaves no capsule in its place.
    order = np.roll(np.arange(subject.shape["nijd".index(axis)]), 1)
    expected = subject(inputs).take(**{axis: order})
    change = difference(subject(inputs.take(**{axis: order})), expected)
    if change > SAME:
        sentence = f"With the {which} capsules in another order, results differ by {change:.2g}."
        return failed(sentence, fault)
    return passed(f"The order of the {which} capsules does not matter (up to {change:.1g}).")


def mask(subject: Subject) -> Iterator[Finding]:
    """Mask some lower capsules, and compare with leaving them out."""
    if not subject.takes_mask:
        yield not_checked("The function has no argument named mask.")
        return
    n, i, _, _ = subject.shape
    inputs = subject.random_inputs()
    all_there = np.ones((n, i), np.float32)
    change = difference(subject(inputs.replace(mask=all_there)), subject(inputs))
    if change > SAME:
        yield failed(f"A mask of ones changes the result by {change:.2g}.", faults.REVERSED_MASK)
        return
    first_absent, kept = all_there.copy(), np.arange(1, i)
    first_absent[:, 0] = 0.0
    expected = subject(inputs.take(i=kept))
    longer = inputs.votes.copy()
    longer[:, 0] *= 100.0
    got = [subject(inputs.replace(mask=first_absent, votes=x)) for x in (inputs.votes, longer)]
    change = max(difference(outcome.take(i=kept), expected) for outcome in got)
    all_absent = subject(inputs.replace(mask=0 * all_there))
    if change > SAME:
        yield failed(f"Masking a child differs by {change:.2g} from leaving it out.", faults.MASK)
    elif not np.all(np.isfinite(all_absent.v)):
        yield failed("With every child masked, poses are not finite.", faults.ZERO)
    else:
        yield passed(f"A masked child is as one that is left out (up to {change:.1g}).")
