"""Checks of extreme inputs: zeros, long votes, and gradients there."""

from collections.abc import Iterator

import numpy as np

from capsjax.testing import faults
from capsjax.testing.couplings import sums_to_one
from capsjax.testing.gradients import gradient_function
from capsjax.testing.report import Finding, failed, not_checked, passed
from capsjax.testing.subject import SAME, Inputs, Raised, Subject


def _extremes(subject: Subject) -> list[tuple[str, Inputs, str, str]]:
    """Return inputs with their names, and the faults behind values and gradients not finite."""
    inputs = subject.random_inputs()
    zero = inputs.replace(votes=0 * inputs.votes)
    found = [
        ("votes of 0", zero, faults.ZERO, faults.ZERO_GRADIENT),
        (
            "votes times 300",
            inputs.replace(votes=300 * inputs.votes),
            faults.OVERFLOW,
            faults.OVERFLOW,
        ),
    ]
    if subject.claims.activations != "none":
        inactive = inputs.replace(activations=0 * inputs.activations)
        found.append(("activations of 0", inactive, faults.ZERO, faults.ZERO))
    return found


def finite_values(subject: Subject) -> Iterator[Finding]:
    """Call the function with zeros and with long votes."""
    c = subject(subject.random_inputs()).c
    # Couplings that never sum to 1 have a check of their own.
    normalized = c is not None and subject.claims.couplings == "parents" and sums_to_one(c)
    for name, inputs, fault, _ in _extremes(subject):
        outcome = subject(inputs)
        broken = [
            part
            for part, array in zip(outcome._fields, outcome, strict=True)
            if array is not None and not np.all(np.isfinite(array))
        ]
        if broken:
            yield failed(f"For {name}, {', '.join(broken)} are not finite.", fault)
        elif normalized:
            yield _sums(name, outcome.c)
        else:
            yield passed(f"For {name}, everything is finite.")


def _sums(name: str, c: np.ndarray) -> Finding:
    apart = float(np.max(np.abs(c.sum(axis=-1) - 1)))
    if apart > SAME:
        sentence = f"For {name}, the couplings of a child sum to 1 only up to {apart:.2g}."
        return failed(sentence, faults.OVERFLOW if "300" in name else faults.ZERO)
    return passed(f"For {name}, everything is finite, and couplings sum to 1.")


def finite_gradients(subject: Subject) -> Iterator[Finding]:
    """Differentiate the function at random votes, zeros and long votes."""
    if not subject.claims.differentiable:
        yield not_checked("It does not claim to have a gradient.")
        return
    try:
        gradients_at = gradient_function(subject)
    except Raised as error:
        yield not_checked(f"JAX cannot differentiate it ({error}): give gradient=.")
        return
    try:
        gradients = gradients_at(subject.random_inputs())
    except Raised as error:
        yield failed(f"Its gradient raises {error}.", faults.NOT_DIFFERENTIABLE)
        return
    if not np.any(gradients[0]):
        yield failed("The gradient with respect to random votes is 0.", faults.NO_GRADIENT)
        return
    steepest = np.max(np.abs(gradients[0]))
    yield passed(f"The gradient with respect to random votes is up to {steepest:.2g}.")
    for name, inputs, _, fault in _extremes(subject):
        if all(np.all(np.isfinite(gradient)) for gradient in gradients_at(inputs)):
            yield passed(f"For {name}, gradients are finite.")
        else:
            yield failed(f"For {name}, gradients are not finite.", fault)
