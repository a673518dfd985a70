"""A learning rate that falls where validation stands still: against a loop, and worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from capsjax.training.plateau import (
    Plateau,
    after_epoch,
    describe_standstill,
    make_plateau,
)
from capsjax.training.watched import Watched

PARAMS = {"w": jnp.ones(2)}


def factors(plateau, costs):
    """The factor on the rate after each epoch."""
    state = plateau.applied_to(optax.sgd(1.0)).init(PARAMS)
    next_memory, found = jax.jit(plateau.next_memory), []
    for cost in costs:
        memory = next_memory(plateau.memory(state), cost)
        state = plateau.with_memory(state, memory)
        found.append(float(memory.scale))
    return found


def factors_of_a_loop(plateau, costs):
    best, bad, factor, found = np.inf, 0, 1.0, []
    for cost in costs:
        if cost < best - plateau.min_improvement:
            best, bad = cost, 0
        else:
            bad += 1
        if bad == plateau.patience:
            factor, bad = max(factor * plateau.factor, plateau.least), 0
        found.append(factor)
    return found


def test_the_rate_falls_after_so_many_epochs_without_an_improvement():
    costs = [1.0, 0.95, 0.8, 0.8, 0.75, 0.75, 0.9, 0.8, 0.8]
    # 0.95 and 0.75 are better, but not by 0.1.
    expected = [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.2]
    found = factors(Plateau(factor=0.5, patience=2, min_improvement=0.1, least=0.2), costs)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("patience", [1, 3])
def test_it_is_that_of_a_loop(patience):
    costs = np.random.default_rng(patience).normal(size=60) - 0.02 * np.arange(60)
    plateau = Plateau(factor=0.7, patience=patience, min_improvement=0.25, least=1e-3)
    found, expected = factors(plateau, costs), factors_of_a_loop(plateau, costs)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert expected[-1] < expected[10] < 1.0


def test_any_improvement_counts_where_the_least_is_0_and_none_is_nan():
    plateau = Plateau(factor=0.5, patience=1, min_improvement=0.0)
    assert factors(plateau, [1.0, 1.0 - 1e-7]) == [1.0, 1.0]
    assert factors(plateau, [1.0, 1.0, float("nan"), 0.5]) == [1.0, 0.5, 0.25, 0.25]


@pytest.mark.slow
def test_all_updates_have_the_factor_whatever_the_optimizer():
    plateau = Plateau(factor=0.25, patience=1, min_improvement=0.0)
    gradient = {"w": jnp.array([4.0, -8.0])}
    for optimizer in (optax.sgd(0.5), optax.adam(0.1), optax.lion(0.1)):
        scaled = plateau.applied_to(optimizer)
        state = scaled.init(PARAMS)
        memory = plateau.memory(state)
        for _ in range(2):
            memory = plateau.next_memory(memory, 1.0)
        plain, _ = optimizer.update(gradient, optimizer.init(PARAMS), PARAMS)
        got, after = scaled.update(gradient, plateau.with_memory(state, memory), PARAMS)
        np.testing.assert_allclose(got["w"], 0.25 * plain["w"], rtol=1e-6)
        assert float(plateau.memory(after).scale) == 0.25, "a step leaves it as it is"


def test_the_floor_is_one_of_the_rate():
    settings = {"factor": 0.5, "patience": 1, "min_improvement": 0.0}
    assert make_plateau("plateau", 0.1, 0.02, **settings).least == pytest.approx(0.2)
    assert make_plateau("plateau", 0.1, 0.3, **settings).least == 1.0
    assert make_plateau("plateau", 0.0, 0.0, **settings).least == 1.0
    assert make_plateau("constant", 0.1, 0.02, **settings) is None


def test_the_best_epoch_is_remembered():
    known = None
    for epoch, dice in enumerate([float("nan"), 0.5, 0.75, 0.75, 0.25], 1):
        known = after_epoch(known, Watched("dice", dice), epoch)
        if epoch == 1:
            assert (known["best"], known["epochs_since"]) == (None, 1)
            assert "never been finite" in describe_standstill(known)
    assert known == {"metric": "dice", "best": 0.75, "best_epoch": 3, "epochs_since": 2}
    assert after_epoch(None, Watched("loss", 2.0), 1)["epochs_since"] == 0
    assert after_epoch(known | {"metric": "loss"}, Watched("loss", 0.5), 6)["best"] == 0.5
