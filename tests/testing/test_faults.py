"""The common faults, injected into right algorithms, are found and named in words."""

import functools

import numpy as np
import pytest

from capsjax.testing import CLAIMS, Claims, check_routing
from tests import numpy_routing
from tests.numpy_routing import CANCELS, FAULTS

# Right algorithms with what they claim.
RIGHT = {
    "dynamic": (numpy_routing.dynamic, CLAIMS["dynamic"]),
    "weighted dynamic": (numpy_routing.dynamic, Claims(activations="weights")),
    "self-attention": (numpy_routing.self_attention, CLAIMS["self_attention"]),
    "weighted self-attention": (
        numpy_routing.self_attention,
        Claims(length="exponential", activations="weights"),
    ),
    "inverted attention": (numpy_routing.inverted_attention, Claims(length="any")),
    "em": (numpy_routing.em, CLAIMS["em"]),
}
WORDS = {
    "softmax over children": "the softmax runs over the lower capsules",
    "logits shared by the batch": "the logits are shared by the batch",
    "agreement over the wrong axis": "the agreement is summed over the wrong axis",
    "ReLU on lengths": "a ReLU is applied to poses or lengths",
    "softmax on lengths": "a softmax is applied to the lengths or activations",
    CANCELS: "the activations cancel: numerator and denominator both have them",
}


def words_of(report):
    return " ".join(str(report).split())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", RIGHT)
def test_right_algorithms_pass(name, seed):
    function, claims = RIGHT[name]
    check_routing(function, claims, seed=seed, raise_error=True)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", RIGHT)
def test_a_fault_is_the_first_that_is_named(name, fault):
    function, claims = RIGHT[name]
    report = check_routing(functools.partial(function, fault=fault), claims)
    assert report.faults[0].startswith(WORDS[fault])
    assert f"Likely fault: {WORDS[fault]}" in words_of(report)


@pytest.mark.parametrize("name", ["weighted dynamic", "weighted self-attention", "em"])
def test_an_activation_that_cancels_is_named(name):
    function, claims = RIGHT[name]
    report = check_routing(functools.partial(function, fault=CANCELS), claims)
    assert report.faults[0].startswith(WORDS[CANCELS])


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "softmax on lengths"])
@pytest.mark.parametrize("name", ["dynamic", "self-attention", "inverted attention"])
def test_poses_alone_show_it(name, fault):
    function, claims = RIGHT[name]

    def poses_of(votes, fault=fault):
        return function(votes, fault=fault)[0]

    report = check_routing(poses_of, claims)
    assert report.faults[0].startswith(WORDS[fault])
    check_routing(functools.partial(poses_of, fault=""), claims, raise_error=True)


def test_an_activation_without_any_effect_is_named():
    def ignoring(votes, activations):
        return numpy_routing.dynamic(votes)

    report = check_routing(ignoring, Claims(activations="weights"))
    assert "the activations of the lower capsules have no effect" in report.faults[0]


def test_activations_that_are_no_shares_are_named():
    report = check_routing(numpy_routing.dynamic, Claims(activations="shares"))
    assert [finding.check for finding in report.failures] == ["activations of all children"]
    shares = functools.partial(numpy_routing.dynamic, fault=CANCELS)
    claims = Claims(activations="shares", length="below one")
    check_routing(shares, claims, raise_error=True)


def test_an_agreement_that_runs_only_where_two_axes_are_equal():
    def mixed(votes):
        b = np.zeros(votes.shape[:3])
        for _ in range(3):
            c = numpy_routing.softmax(b, 2)
            v = numpy_routing.squash((c[..., None] * votes).sum(1))
            b = b + (votes * v[:, None]).sum(2)  # over j in place of d
        return v, numpy_routing.norm(v), c

    report = check_routing(mixed)
    assert "the agreement is summed over the wrong axis" in report.faults[0]
    assert "runs for (n, i, j, d) = (3, 6, 5, 5), where j = d" in words_of(report)
    assert "order of parents" in [finding.check for finding in report.failures]
