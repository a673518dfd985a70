"""The check of a routing function."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping

import numpy as np

from capsjax.routing import Routing
from capsjax.testing.activations import activation_of_one_child, activations_of_all_children
from capsjax.testing.adapter import function_of
from capsjax.testing.claims import Claims, claims_of
from capsjax.testing.couplings import agreement, competition, softmax_of_couplings
from capsjax.testing.extremes import finite_gradients, finite_values
from capsjax.testing.form import batch_of_one, inputs_unchanged, repeatable, settle
from capsjax.testing.known import known_values
from capsjax.testing.readout import (
    activations_of_parents,
    lengths_below_one,
    signs_of_poses,
    squash,
)
from capsjax.testing.report import Finding, Report, failed
from capsjax.testing.subject import Raised, Subject
from capsjax.testing.symmetry import mask, order_of_children, order_of_parents

# In the order of how certain the fault is that a failure names.
CHECKS = (
    repeatable,
    inputs_unchanged,
    batch_of_one,
    softmax_of_couplings,
    competition,
    order_of_children,
    order_of_parents,
    agreement,
    activation_of_one_child,
    activations_of_all_children,
    signs_of_poses,
    activations_of_parents,
    squash,
    lengths_below_one,
    mask,
    finite_values,
    finite_gradients,
    known_values,
)


def check_routing(
    function: Callable | Routing,
    claims: Claims | str = Claims(),  # noqa: B008  (frozen)
    *,
    shape: tuple[int, int, int, int] = (3, 6, 4, 5),
    others: Mapping[str, tuple[str, np.ndarray]] | None = None,
    convert: Callable = lambda x: x,
    gradient: Callable | None = None,
    seed: int = 0,
    raise_error: bool = False,
) -> Report:
    """Check a routing function of any framework, and report in words what is wrong with it.

    The function is called with random and with constructed votes. What it returns is compared
    with what a routing algorithm must do whatever its equations are, and with what this one
    claims. Gradients are checked of functions that JAX can trace or whose arrays are tensors of
    PyTorch.

    Args:
      function: takes votes (n, i, j, d), and activations (n, i) if the claims name them; returns
        the upper poses v (n, j, d), alone or in a tuple, a dict or an object with activations a
        (n, j) and couplings c (n, i, j). An argument called `mask` gets (n, i). A value with the
        interface of `capsjax.routing.Routing` may stand in place of the function.
      claims: what the algorithm claims, or the name of one of `CLAIMS`.
      shape: (n, i, j, d) of the votes, for a function of fixed sizes. Axes of equal size hide
        faults.
      others: the function's other arguments by name, each the letters of its axes and an array:
        {"bias": ("j d", bias)}. Axes n, i and j are permuted and cut with those of the votes.
      convert: turns a numpy array into the function's own kind of array, as `torch.as_tensor`.
      gradient: takes what the function takes, and returns the gradient of some number of its
        outputs with respect to the votes, or to votes and activations in a tuple.
      seed: of the random votes.
      raise_error: raise if a check failed.

    Returns:
      The report: `str` lists what passed and failed in sentences, with the likely faults.

    Raises:
      AssertionError: with the text of the report, if a check failed and `raise_error` is set.
      ValueError: for unknown claims.

    >>> import jax
    >>> from capsjax import dynamic_routing
    >>> check_routing(jax.jit(lambda votes: dynamic_routing(votes, 3)), "dynamic").passed
    True
    """
    claims = claims_of(claims)
    takes_mask = _has_argument(function, "mask")
    if hasattr(function, "learned_arrays"):
        function, learned = function_of(function, shape, seed)
        others = {**learned, **(others or {})}
        if claims.activations == "none":
            claims = dataclasses.replace(claims, activations="ignored")
    subject = Subject(function, claims, shape, others or {}, takes_mask, convert, gradient, seed)
    # What numpy would warn of is what the checks report.
    with np.errstate(all="ignore"):
        subject, form = settle(subject)
        findings = [form._replace(check="form")]
        for check in CHECKS if subject else ():
            findings += _findings_of(check, subject)
    report = Report(tuple(findings))
    return report.raise_if_failed() if raise_error else report


def _has_argument(function: Callable, name: str) -> bool:
    # A module of PyTorch has its arguments in `forward`.
    call = getattr(function, "forward", function)
    try:
        return name in inspect.signature(call).parameters
    except (TypeError, ValueError):  # some functions of compiled modules have no signature
        return False


def _findings_of(check: Callable, subject: Subject) -> list[Finding]:
    found = []
    try:
        for finding in check(subject):
            found.append(finding)
    except Raised as error:
        remedy = "it fits only arrays such as those that it was written with. Repeat this call."
        found.append(failed(f"It raises {error}.", remedy))
    return [finding._replace(check=check.__name__.replace("_", " ")) for finding in found]
