"""The routing of DeepCaps against slow loops: one softmax over all positions and types."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.layers import ConvCaps
from capsjax.notation import Capsules
from capsjax.ops import safe_norm
from capsjax.routing import Competition, agreement_3d_routing, make_routing
from tests.routing.against_loops import compare, competition_of, normal
from tests.routing.loops import (
    Case,
    dot,
    length,
    per_capsule,
    places_of,
    softmax_of_sets,
    squash,
    weighted_sums,
)

# Two child types, each with a vote for three positions.
VOLUME = Case(np.array([[0, 1]] * 3), "all")
BIAS = normal(1, 4, 2)


def slow_routing(votes, rounds, case):
    b = np.zeros(votes.shape[:3])
    for number in range(rounds):
        c = softmax_of_sets(b, case)
        v = per_capsule(squash, weighted_sums(c, votes, case) + BIAS[None])
        if number < rounds - 1:
            for o, i, _ in places_of(case.table()):
                for j in range(votes.shape[2]):
                    b[o, i, j] += dot(votes[o, i, j], v[o, j])
    return {"v": v, "a": per_capsule(length, v), "c": c, "logits": b}


@pytest.mark.ci
@pytest.mark.parametrize("case", [VOLUME, Case(None)], ids=["volume", "one position"])
@pytest.mark.parametrize("factor", [0.0, 1.0, 30.0])
def test_against_slow_loops(case, factor):
    votes = factor * normal(0, *case.shape(4, 2))

    def fast(votes):
        bias = jnp.asarray(BIAS, votes.dtype)
        return agreement_3d_routing(votes, bias=bias, competition=competition_of(case))

    slow = functools.partial(slow_routing, rounds=3, case=case)
    compare(fast, slow, case, votes, names=("v", "a", "c", "logits"))


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_any_traced_number_of_rounds(rounds):
    def fast(votes):
        return agreement_3d_routing(
            votes,
            jnp.array(rounds),
            bias=jnp.asarray(BIAS, votes.dtype),
            max_iterations=5,
            competition=competition_of(VOLUME),
        )

    slow = functools.partial(slow_routing, rounds=rounds, case=VOLUME)
    compare(fast, slow, VOLUME, normal(0, *VOLUME.shape(4, 2)))


@pytest.mark.slow
def test_by_hand():
    # A child type with a vote of 1 at one of two positions, of one type each, and no bias.
    volume = Competition(np.array([[0], [0]]), "all")
    votes = jnp.array([[[[1.0]]], [[[0.0]]]])
    assert agreement_3d_routing(votes, 1, competition=volume).c.ravel().tolist() == [0.5, 0.5]
    # s = 1/2 and v = (1/4) / (5/4) = 1/5, which is added to the first logit.
    c = agreement_3d_routing(votes, 2, competition=volume).c.ravel()
    first = np.exp(0.2) / (np.exp(0.2) + 1)
    np.testing.assert_allclose(c, [first, 1 - first], rtol=1e-5)


@pytest.mark.ci
def test_couplings_start_at_one_over_the_volume_and_sum_to_one_over_it():
    votes = jnp.asarray(normal(0, *VOLUME.shape(4, 2)), jnp.float32)
    competition = competition_of(VOLUME)
    first = agreement_3d_routing(votes, 1, competition=competition).c
    np.testing.assert_allclose(first, 1 / (3 * 4), rtol=1e-6)
    c = agreement_3d_routing(votes, 3, competition=competition).c
    np.testing.assert_allclose(c.sum((1, 3)), 1.0, rtol=1e-5)
    assert float(jnp.abs(c.sum(-1) - 1 / 3).max()) > 1e-3, "positions compete too"


def test_types_alone_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"use over='all' \(model.conv_caps.over\), not 'types'"):
        agreement_3d_routing(
            jnp.ones((3, 2, 4, 2)), competition=Competition(VOLUME.children, "types")
        )


def capsules():
    poses = jnp.asarray(normal(0, 2, 5, 5, 2, 4), jnp.float32)
    return Capsules(poses, safe_norm(poses))


@pytest.mark.ci
def test_a_layer_of_summed_windows_routes_its_volume():
    below = capsules()
    layer = ConvCaps(3, 4, make_routing("agreement_3d"), windows="summed")
    (_, _), variables = jax.jit(layer.init_with_output)(jax.random.key(0, impl="rbg"), below)
    np.testing.assert_allclose(variables["params"]["bias"], jnp.full((3, 4), 0.1))
    (above, _), shown = layer.apply(variables, below, mutable=["intermediates"])
    shown = shown["intermediates"]
    np.testing.assert_allclose(shown["couplings"].sum((1, 3)), 1.0, rtol=1e-5)
    table = np.array([[0, 1]] * 9)
    expected = agreement_3d_routing(
        shown["votes"], bias=variables["params"]["bias"], competition=Competition(table, "all")
    )
    np.testing.assert_allclose(above.poses.reshape(2, 9, 3, 4), expected.v, rtol=1e-4, atol=1e-6)


@pytest.mark.ci
def test_permuting_child_types_permutes_votes_and_couplings():
    """The released code reshaped the axes of types and pose dimensions without transposing."""
    below = capsules()
    layer = ConvCaps(3, 4, make_routing("agreement_3d"), windows="summed")
    params = jax.jit(layer.init)(jax.random.key(0, impl="rbg"), below)["params"]

    def look(below, W):
        changed = {**params, "W": W}
        (above, _), shown = layer.apply({"params": changed}, below, mutable=["intermediates"])
        return above.poses, shown["intermediates"]

    poses, shown = look(below, params["W"])
    swapped = Capsules(below.poses[..., ::-1, :], below.activations[..., ::-1])
    W = params["W"].reshape(9, 2, 3, 4, 4)[:, ::-1].reshape(params["W"].shape)
    again, of_swapped = look(swapped, W)
    chex.assert_trees_all_close(of_swapped["votes"], shown["votes"][:, :, ::-1], atol=1e-5)
    chex.assert_trees_all_close(of_swapped["couplings"], shown["couplings"][:, :, ::-1], atol=1e-5)
    chex.assert_trees_all_close(again, poses, atol=1e-5)


@pytest.mark.slow
def test_gradient_is_the_numerical_one_of_all_rounds():
    with jax.enable_x64(True):
        competition = competition_of(VOLUME)

        @jax.jit
        def value(votes, bias):
            v = agreement_3d_routing(votes, 3, bias=bias, competition=competition).v
            return jnp.sum(normal(3, 3, 4, 2) * v)

        operands = jnp.asarray(normal(0, 3, 2, 4, 2)), jnp.asarray(BIAS)
        chex.assert_numerical_grads(value, operands, order=1, atol=1e-6, rtol=1e-6, modes=["rev"])
