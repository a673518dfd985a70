"""Checks of the activations of the lower capsules: what must change with them, and what not."""

from collections.abc import Iterator

from capsjax.testing import faults
from capsjax.testing.report import Finding, failed, not_checked, passed
from capsjax.testing.subject import SAME, Inputs, Subject, difference

# Halving is exact, so an activation that cancels leaves nothing but rounding.
_ROUNDING = 1e-5


def _scaled(inputs: Inputs, factor: float, children: slice) -> Inputs:
    activations = inputs.activations.copy()
    activations[:, children] *= factor
    return inputs.replace(activations=activations)


def activation_of_one_child(subject: Subject) -> Iterator[Finding]:
    """Halve the activation of one child, and set it to 0."""
    if subject.claims.activations not in ("weights", "shares"):
        yield not_checked("It does not claim to use activations of the lower capsules.")
        return
    inputs = subject.random_inputs()
    whole, first = subject(inputs), slice(0, 1)
    change = difference(subject(_scaled(inputs, 0.5, first))[:2], whole[:2])
    if change < _ROUNDING:
        yield failed("Half the activation of a child changes nothing.", faults.ACTIVATION_IGNORED)
    else:
        yield passed(f"Half the activation of a child changes the result (by {change:.2g}).")
    absent = _scaled(inputs, 0.0, first)
    votes = inputs.votes.copy()
    votes[:, 0] = 3.0 * subject.random(3, *votes[:, 0].shape)
    change = difference(subject(absent.replace(votes=votes))[:2], subject(absent)[:2])
    if change > SAME:
        sentence = f"Votes of a child with activation 0 change the result by {change:.2g}."
        yield failed(sentence, faults.ABSENT_CHILD_VOTES)
    else:
        yield passed("The votes of a child with activation 0 change nothing.")


def activations_of_all_children(subject: Subject) -> Iterator[Finding]:
    """Halve all activations: weights then have half the mass, and shares stay."""
    if subject.claims.activations not in ("weights", "shares"):
        yield not_checked("It does not claim to use activations of the lower capsules.")
        return
    inputs = subject.random_inputs()
    halved = subject(_scaled(inputs, 0.5, slice(None)))
    change = difference(halved[:2], subject(inputs)[:2])
    if subject.claims.activations == "shares":
        if change > SAME:
            sentence = f"Half of all activations change the result by {change:.2g}."
            yield failed(sentence, faults.NO_SHARES)
        else:
            yield passed("Half of all activations change nothing: they are shares.")
    elif halved.a is None and subject.claims.length == "any":
        yield not_checked("The function returns no activations, which alone show the total mass.")
    elif change < _ROUNDING:
        yield failed("Half of all activations change nothing.", faults.ACTIVATION_CANCELS)
    else:
        yield passed(f"Half of all activations change the result (by {change:.2g}).")
