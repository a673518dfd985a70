"""What the checks find, in what form, and for which kinds of functions."""

import functools
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax import dynamic_routing
from capsjax.testing import CLAIMS, Claims, check_routing, faults
from capsjax.testing.couplings import disagreeing_rivals
from capsjax.testing.known import slow_dynamic_routing
from tests.numpy_routing import dynamic, em, norm, softmax, squash

UNROUTED = Claims(competition=False, agreement=False)


def failures_of(report):
    return {finding.check: finding.fault for finding in report.failures}


def uniform(votes, mass=None, squash=squash):
    """Routing without agreement, with the usual mass of the couplings or another."""
    v = squash(votes.sum(1) * (1 / votes.shape[2] if mass is None else mass))
    return v, norm(v)


def coupled(c_of):
    """Dynamic routing that returns other couplings."""

    def function(votes):
        v, a, c = dynamic(votes)
        return v, a, c_of(c)

    return function


# ZOO: lengths of the poses of the agreeing and of the other parent, by rounds.
TABLE = {
    1: (0.941176, 0.800000),
    2: (0.972757, 0.506085),
    3: (0.982091, 0.081250),
    5: (0.984563, 0.000047),
    10: (0.984615, 0.000000),
}


@pytest.mark.parametrize("rounds", TABLE)
def test_known_values_of_dynamic_routing(rounds):
    votes = disagreeing_rivals(2, 4, 2, 4)
    assert votes[1, 2].tolist() == [[2, 0, 0, 0], [0, 0, 2, 0]]
    v = slow_dynamic_routing(votes[0], rounds)
    np.testing.assert_allclose(np.linalg.norm(v, axis=-1), TABLE[rounds], atol=1e-6)
    claims = Claims(dynamic_rounds=rounds, competition=rounds > 1, agreement=rounds > 1)
    function = functools.partial(dynamic, rounds=rounds)
    report = check_routing(function, claims, shape=(3, 4, 2, 4), raise_error=True)
    measured = re.search(r"\|v\| is ([\d.]+), ([\d.]+),", str(report)).groups()
    np.testing.assert_allclose([float(x) for x in measured], TABLE[rounds], atol=2e-6)


def test_a_number_of_rounds_that_is_off_is_named():
    report = check_routing(functools.partial(dynamic, rounds=2), "dynamic")
    assert failures_of(report) == {
        "known values": f"{faults.WRONG_ROUNDS} These are the values of 2."
    }
    report = check_routing(lambda votes: dynamic(0.9 * votes), Claims(dynamic_rounds=3))
    assert failures_of(report)["known values"] == faults.NOT_DYNAMIC


def test_one_round_never_learns_of_agreement():
    report = check_routing(functools.partial(dynamic, rounds=1))
    assert failures_of(report)["competition"] == faults.CONSTANT_COUPLINGS
    report = check_routing(lambda votes: dynamic(votes, rounds=1)[0])
    assert failures_of(report)["competition"] == faults.NO_COMPETITION
    shared = functools.partial(em, fault="agreement over the wrong axis")
    report = check_routing(lambda votes, a: (shared(votes, a)[0], shared(votes, a)[2]), "em")
    assert failures_of(report)["competition"] == faults.NO_COMPETITION


@pytest.mark.parametrize(
    ("c_of", "fault"),
    [
        (lambda c: softmax(c, 0), faults.SOFTMAX_OVER_BATCH),
        (lambda c: c / c.sum((1, 2), keepdims=True), faults.SOFTMAX_OVER_BOTH),
        (lambda c: c * 0.7, faults.NO_SOFTMAX),
        (lambda c: c + np.array([-1.0, 1.0, 0.0, 0.0]), faults.NO_SOFTMAX),
    ],
)
def test_couplings_of_another_axis_are_named(c_of, fault):
    assert failures_of(check_routing(coupled(c_of)))["softmax of couplings"] == fault


def test_leaky_couplings_sum_to_less_than_one():
    leaky = Claims(couplings="leaky")
    assert check_routing(coupled(lambda c: c * 0.7), leaky).passed
    assert failures_of(check_routing(dynamic, leaky)) == {"softmax of couplings": faults.NO_SOFTMAX}


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda v, a, c: (v, a, c.swapaxes(1, 2)), "c has the shape (3, 4, 6) and not (3, 6, 4)"),
        (lambda v, a, c: v[..., None], "axes of size 1 are left over"),
        (lambda v, a, c: (v, a[:, :1]), "a has the shape (3, 1) and not (3, 4)"),
    ],
)
def test_wrong_shapes_end_the_checks(returned, words):
    report = check_routing(lambda votes: returned(*dynamic(votes)))
    assert len(report.findings) == 1
    assert words in " ".join(str(report).split())


@pytest.mark.parametrize(
    "returned",
    [
        lambda v, a, c: v,
        lambda v, a, c: [v, c],
        lambda v, a, c: (v, c, a),
        lambda v, a, c: (v, None, c),
        lambda v, a, c: {"v": v, "c": c},
        lambda v, a, c: SimpleNamespace(v=v, a=a, b=None),
    ],
)
def test_outputs_in_many_forms(returned):
    check_routing(lambda votes: returned(*dynamic(votes)), "dynamic", raise_error=True)


def test_a_function_that_raises_is_reported():
    report = check_routing(lambda votes: votes.reshape(7, 11), raise_error=False)
    assert "It raises ValueError: cannot reshape array of size 360" in " ".join(str(report).split())
    assert "Give shape=(n, i, j, d)" in report.faults[0]

    def for_batches(votes):
        if len(votes) == 1:
            raise KeyError("only one")
        return dynamic(votes)

    report = check_routing(for_batches)
    assert [finding.check for finding in report.failures] == ["batch of one"]
    assert "It raises KeyError: 'only one'." in str(report)


def test_a_function_of_fixed_sizes():
    def fixed(votes):
        assert votes.shape[1:] == (8, 3, 16)
        return dynamic(votes)

    assert not check_routing(fixed).passed
    check_routing(fixed, "dynamic", shape=(2, 8, 3, 16), raise_error=True)


def test_logits_that_survive_a_call_are_named():
    logits = np.zeros((1, 6, 4))

    def function(votes):
        v, a, c = dynamic(votes + logits[..., None])
        np.add(logits, 0.1 * c.mean(0), out=logits)
        return v, a, c

    assert failures_of(check_routing(function))["repeatable"] == faults.MEMORY


def test_an_operation_in_place_is_named():
    def function(votes):
        result = dynamic(votes)
        votes *= 0.5
        return result

    assert failures_of(check_routing(function)) == {"inputs unchanged": faults.IN_PLACE}


def test_a_squeeze_is_named():
    report = check_routing(lambda votes: dynamic(votes)[0].squeeze())
    assert failures_of(report) == {"batch of one": faults.SQUEEZE}


def test_capsules_that_are_treated_by_their_number_are_named():
    child = np.linspace(1, 2, 6)[:, None, None]
    report = check_routing(lambda votes: dynamic(votes * child), Claims(length="below one"))
    assert failures_of(report) == {"order of children": faults.CHILD_ORDER}
    parent = np.linspace(1, 2, 4)[:, None]
    report = check_routing(lambda votes: dynamic(votes * parent), Claims(length="below one"))
    assert report.faults[0] == faults.PARENT_ORDER
    claims = Claims(symmetric_parents=False, length="below one")
    check_routing(lambda votes: dynamic(votes * parent), claims, raise_error=True)
    claims = Claims(symmetric_children=False, length="below one")
    check_routing(lambda votes: dynamic(votes * child), claims, raise_error=True)


def masked(votes, mask=None, times=lambda mask: mask):
    kept = votes if mask is None else votes * times(mask)[..., None, None]
    return uniform(kept)


def test_masks():
    check_routing(masked, UNROUTED, raise_error=True)
    report = check_routing(lambda votes, mask=None: uniform(votes), UNROUTED)
    assert failures_of(report) == {"mask": faults.MASK}
    reverse = functools.partial(masked, times=lambda mask: 1 - mask)
    assert failures_of(check_routing(reverse, UNROUTED)) == {"mask": faults.REVERSED_MASK}
    empty = functools.partial(masked, times=lambda mask: mask / mask.max())
    assert failures_of(check_routing(empty, UNROUTED)) == {"mask": faults.ZERO}
    report = check_routing(lambda votes: uniform(votes), UNROUTED)
    assert "mask. The function has no argument named mask." in str(report)


@pytest.mark.parametrize(
    ("squash", "mass", "fault"),
    [
        (squash, 1 / 6, faults.SOFTMAX_OVER_CHILDREN),
        (squash, 1.0, faults.NOT_NORMALIZED),
        (squash, 1 / 24, faults.DIVIDED),
        (lambda s: s, None, faults.NO_SQUASH),
        (lambda s: 0.5 * squash(s), None, faults.WRONG_SQUASH),
        (lambda s: squash(s.swapaxes(1, 2)).swapaxes(1, 2), None, faults.WRONG_SQUASH),
    ],
)
def test_poses_of_another_length_are_named(squash, mass, fault):
    report = check_routing(functools.partial(uniform, mass=mass, squash=squash), UNROUTED)
    assert failures_of(report)["squash"] == fault


def test_lengths_of_one_and_more_are_named():
    claims = Claims(competition=False, agreement=False, length="below one")
    report = check_routing(functools.partial(uniform, squash=lambda s: s), claims)
    assert failures_of(report) == {"lengths below one": faults.NO_SQUASH}

    def along_capsules(s):
        return squash(s.swapaxes(1, 2)).swapaxes(1, 2)

    report = check_routing(functools.partial(uniform, squash=along_capsules), claims)
    assert failures_of(report)["lengths below one"] == faults.SQUASH_AXIS


@pytest.mark.parametrize(
    ("read", "fault"),
    [
        (lambda v: v / norm(v)[..., None] * softmax(norm(v), 1)[..., None], "SOFTMAX_ON_LENGTHS"),
        (lambda v: (v, norm(v) ** 2), "NOT_THE_LENGTH"),
        (lambda v: (v, np.maximum(norm(v) - 0.3, 0)), "RELU"),
    ],
)
def test_readouts_that_are_not_the_length_are_named(read, fault):
    report = check_routing(lambda votes: read(dynamic(votes)[0]), Claims(length="any"))
    assert failures_of(report) == {"activations of parents": getattr(faults, fault)}


def test_a_softmax_of_poses_is_named():
    report = check_routing(lambda votes: softmax(dynamic(votes)[0], -1), Claims(length="any"))
    assert failures_of(report)["signs of poses"] == faults.SOFTMAX_ON_LENGTHS


def test_probabilities_lie_between_zero_and_one():
    def raw(votes, activations):
        mean, a, c = em(votes, activations)
        return mean, np.log(a / (1 - a)) * 4, c

    failures = failures_of(check_routing(raw, "em"))
    assert failures["activations of parents"] == faults.NO_PROBABILITY


def test_zeros_and_long_votes_are_finite():
    def fragile(votes):
        e = np.exp(votes.sum(-1) ** 2)
        s = np.einsum("nij,nijd->njd", e / e.sum(2, keepdims=True), votes)
        return s / norm(s)[..., None] * np.square(norm(s))[..., None] / votes.any()

    report = check_routing(fragile, Claims(length="any", agreement=False))
    found = {finding.sentence: finding.fault for finding in report.failures}
    assert found["For votes of 0, v are not finite."] == faults.ZERO
    assert found["For votes times 300, v are not finite."] == faults.OVERFLOW


@pytest.mark.slow
def test_gradients_of_functions_of_jax():
    def broken_squash(s):
        length = jnp.linalg.norm(s, axis=-1, keepdims=True)
        return jnp.where(length > 0, length / (1 + length**2) * s, 0.0)

    @jax.jit
    def function(votes):
        return broken_squash(jnp.mean(votes, 2, keepdims=True).sum(1) + votes.sum(1) * 0)

    report = check_routing(function, Claims(competition=False, agreement=False, length="any"))
    assert failures_of(report) == {"finite gradients": faults.ZERO_GRADIENT}

    detached = jax.jit(lambda votes: dynamic_routing(jax.lax.stop_gradient(votes)).v)
    assert failures_of(check_routing(detached)) == {"finite gradients": faults.NO_GRADIENT}


def test_a_loop_of_unknown_length_has_no_gradient():
    @jax.jit
    def function(votes):
        rounds = jnp.where(votes[0, 0, 0, 0] > 1e9, 2, 1)
        return jax.lax.fori_loop(0, rounds, lambda _, x: 1.0 * x, dynamic_routing(votes, 2).v)

    report = check_routing(function)
    assert failures_of(report) == {"finite gradients": faults.NOT_DIFFERENTIABLE}
    assert check_routing(function, Claims(differentiable=False)).passed


def test_a_gradient_that_is_given_is_checked():
    report = check_routing(dynamic)
    assert "JAX cannot differentiate it (TracerArrayConversionError" in str(report)
    assert check_routing(dynamic, gradient=lambda votes: votes + 1).passed
    report = check_routing(dynamic, gradient=lambda votes: votes / np.abs(votes).max())
    assert failures_of(report) == {"finite gradients": faults.ZERO_GRADIENT}


def test_poses_alone_do_not_show_the_total_mass():
    claims = Claims(competition=False, agreement=False, length="any", activations="weights")
    report = check_routing(lambda votes, a: em(votes, a, rounds=1)[0], claims)
    assert report.passed
    assert "activations, which alone show the total mass" in " ".join(str(report).split())


def test_the_report_lists_failures_first_and_can_raise():
    report = check_routing(functools.partial(dynamic, fault="softmax over children"))
    first, second, *_ = str(report).splitlines()
    assert first.startswith(f"Routing checks: {len(report.failures)} failed, ")
    assert second.startswith("FAILED:      softmax of couplings. The couplings of a child have")
    assert max(map(len, str(report).splitlines())) <= 100
    with pytest.raises(AssertionError, match="the softmax runs over the lower capsules"):
        report.raise_if_failed()
    with pytest.raises(AssertionError):
        check_routing(functools.partial(dynamic, rounds=1), raise_error=True)
    right = check_routing(dynamic)
    assert right.raise_if_failed() is right


def test_wrong_claims_are_refused():
    with pytest.raises(ValueError, match="did you mean 'self_attention'"):
        check_routing(dynamic, "selfattention")
    with pytest.raises((ValueError, TypeError)):
        Claims(length="long")
    assert CLAIMS["em"].activations == "weights"
