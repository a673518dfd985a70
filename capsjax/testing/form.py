"""Checks of the form: shapes, whether a call leaves traces, and batches."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from capsjax.testing import faults
from capsjax.testing.report import Finding, failed, passed
from capsjax.testing.subject import SAME, Outcome, Raised, Subject, difference, raised_by_function

_CONFUSABLE = (("j", "d"), ("i", "d"), ("i", "j"), ("n", "i"))


def settle(subject: Subject) -> tuple[Subject | None, Finding]:
    """Find a shape at which the function runs and returns arrays of the right shapes.

    Returns:
      The subject with that shape, or None if there is none, and the finding.
    """
    try:
        outcome = subject(subject.random_inputs())
    except Raised as error:
        return _settle_elsewhere(subject, str(error))
    wrong = _wrong_shape(subject, outcome)
    if wrong:
        return None, failed(*wrong)
    returned = [name for name in ("v", "a", "c") if getattr(outcome, name) is not None]
    return subject, passed(f"It returns {', '.join(returned)}, for votes {_in_words(subject)}.")


def _settle_elsewhere(subject: Subject, error: str) -> tuple[Subject | None, Finding]:
    """Try shapes with two equal axes: a function that runs there alone mixes these axes up."""
    sizes = dict(zip("nijd", subject.shape, strict=True))
    for one, other in _CONFUSABLE if not subject.others else ():
        shape = {**sizes, one: sizes[other]}
        equal = dataclasses.replace(subject, shape=tuple(shape.values()))
        try:
            outcome = equal(equal.random_inputs())
        except Raised:
            continue
        if _wrong_shape(equal, outcome):
            continue
        sentence = (
            f"It raises {error} for votes {_in_words(subject)}, but runs for {_in_words(equal)}, "
            f"where {one} = {other}. The other checks use that shape."
        )
        return equal, failed(sentence, faults.MIXED_AXES)
    remedy = (
        "the function needs another shape or another kind of array. Give shape=(n, i, j, d), "
        "convert=torch.as_tensor or the like, the other arguments, and claims about activations."
    )
    return None, failed(f"It raises {error} for votes {_in_words(subject)}.", remedy)


def _in_words(subject: Subject) -> str:
    return f"(n, i, j, d) = {subject.shape}"


def _wrong_shape(subject: Subject, outcome: Outcome) -> tuple[str, str] | None:
    n, i, j, d = subject.shape
    for name, shape in (("v", (n, j, d)), ("a", (n, j)), ("c", (n, i, j))):
        array = getattr(outcome, name)
        if array is None or array.shape == shape:
            continue
        sentence = f"{name} has the shape {array.shape} and not {shape}."
        if sorted(array.shape) == sorted(shape):
            return sentence, "two of its axes are interchanged. Transpose it before you return it."
        if tuple(size for size in array.shape if size > 1) == shape:
            return sentence, "axes of size 1 are left over. Remove them before you return it."
        return sentence, "the sum that makes it runs over other axes than it should."
    return None


def repeatable(subject: Subject) -> Iterator[Finding]:
    """Call the function twice with the same arrays, and once in between with others."""
    inputs = subject.random_inputs()
    first = subject(inputs)
    subject(inputs.replace(votes=2.0 * subject.random(1, *subject.shape)))
    change = difference(subject(inputs), first)
    if change > SAME:
        yield failed(f"A second call with the same votes differs by {change:.2g}.", faults.MEMORY)
    else:
        yield passed("A second call with the same votes returns the same.")


def inputs_unchanged(subject: Subject) -> Iterator[Finding]:
    """Compare the arrays before and after a call."""
    inputs = subject.random_inputs()
    given = {name: x.copy() for name, x in inputs.arrays.items()}
    with raised_by_function():
        subject.outputs({name: subject.convert(x) for name, x in given.items()})
    changed = [name for name, x in given.items() if not np.array_equal(x, inputs.arrays[name])]
    if changed:
        yield failed(f"The call changes the caller's {changed[0]}.", faults.IN_PLACE)
    else:
        yield passed("The arrays that it is given are unchanged after the call.")


def batch_of_one(subject: Subject) -> Iterator[Finding]:
    """Compare every example alone with the same example in the batch."""
    inputs = subject.random_inputs()
    together = subject(inputs)
    largest = 0.0
    for n in range(len(inputs.votes)):
        alone, expected = subject(inputs.take(n=np.array([n]))), together.take(n=np.array([n]))
        wrong = _wrong_shape(dataclasses.replace(subject, shape=(1, *subject.shape[1:])), alone)
        if wrong:
            yield failed(f"For a batch of one {wrong[0]}", faults.SQUEEZE)
            return
        largest = max(largest, difference(alone, expected))
    if largest > SAME:
        yield failed(
            f"An example alone differs by {largest:.2g} from the same example in a batch of "
            f"{subject.shape[0]}.",
            faults.SHARED_LOGITS,
        )
    else:
        yield passed(f"A batch of one is the slice of a batch (they differ by {largest:.1g}).")
