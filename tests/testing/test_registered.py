"""Every registered routing algorithm passes the checks of what it claims."""

import numpy as np
import pytest

from capsjax.routing import ROUTING, make_routing
from capsjax.testing import Claims, check_routing

N, LOWER, UPPER, D = SHAPE = (3, 6, 4, 5)


def normal(*shape):
    return np.random.default_rng(5).normal(size=shape).astype(np.float32)


@pytest.mark.ci
@pytest.mark.parametrize("name", sorted(ROUTING))
def test_it_keeps_what_it_claims(name):
    report = check_routing(make_routing(name), name, raise_error=True)
    checked = {finding.check for finding in report.findings if finding.verdict == "passed"}
    assert {"batch of one", "softmax of couplings", "mask", "finite gradients"} <= checked


MORE = {
    "full gradient": (make_routing("dynamic", gradient="full"), Claims(dynamic_rounds=3)),
    "leaky": (make_routing("dynamic", leaky=True), Claims(couplings="leaky")),
    "volume": (make_routing("agreement_3d", use_bias=False), Claims(dynamic_rounds=3)),
    "2019": (
        make_routing("heinsen", version=2019, num_iterations=3),
        Claims(length="any", readout="probability", activations="weights"),
    ),
}


@pytest.mark.ci
@pytest.mark.parametrize("name", MORE)
def test_other_settings_keep_their_claims(name):
    others = {}
    if name == "2019":  # its betas start at 0, where they have no effect
        others = {beta: ("i j", normal(LOWER, UPPER)) for beta in ("beta_use", "beta_ignore")}
    check_routing(*MORE[name], others=others, raise_error=True)


@pytest.mark.slow
def test_couplings_of_self_routing_that_differ():
    """They start at 0, where a permutation would show nothing."""
    others = {"W_r": ("i j p", normal(LOWER, UPPER, 3)), "b_r": ("i j", normal(LOWER, UPPER))}
    check_routing(make_routing("self"), "self", others=others, raise_error=True)


@pytest.mark.slow
def test_axes_of_learned_arrays_are_permuted_with_the_capsules():
    bias = ("j d", normal(UPPER, D))
    routing, claims = make_routing("dynamic", use_bias=True), Claims(length="below one")
    check_routing(routing, claims, others={"bias": bias}, raise_error=True)
    left_alone = {"bias": ("- -", bias[1])}
    report = check_routing(routing, claims, others=left_alone)
    assert "order of parents" in [finding.check for finding in report.failures]


@pytest.mark.slow
def test_what_an_algorithm_does_not_claim_is_found_where_it_is_claimed():
    report = check_routing(make_routing("uniform"), "dynamic")
    assert {"competition", "agreement"} <= {finding.check for finding in report.failures}
