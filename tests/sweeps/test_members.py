"""Trials that are trained together: what they are computed with, and their seeds."""

import jax
import numpy as np
import pytest

from capsjax.data import load_training
from capsjax.runs import devices
from capsjax.sweeps import make_sweep, trials_of
from capsjax.sweeps.members import Data, Members
from capsjax.sweeps.run import run_sweep
from capsjax.training.build import build
from tests.tiny import tiny_config


def test_a_population_that_had_one_form_of_votes_goes_on_in_it():
    trials = trials_of(make_sweep("test", tiny_config(), {"size": {"tiny": {}}}, num_seeds=2))
    data = Data(*load_training(**trials[0].config.data))
    mesh = devices.make_mesh("trials")
    chosen = Members(trials, data, mesh, "vmap").forms["forms"]
    assert chosen["votes"] == "recomputed"
    stored = {name: form for name, form in chosen.items() if name != "votes"}
    assert Members(trials, data, mesh, "vmap", stored).forms["forms"] == {**stored, "votes": "held"}
    assert Members(trials, data, mesh, "vmap", chosen).forms["forms"] == chosen


@pytest.mark.parametrize("seed", [-2, 3141592653, 2**32 - 2])
def test_a_member_has_the_seed_of_a_single_run(seed):
    config = tiny_config(seed=seed)
    trials = trials_of(make_sweep("test", config, {"size": {"tiny": {}}}, num_seeds=2))
    data = Data(*load_training(**config.data))
    members = Members(trials, data, devices.make_mesh("trials"), "map")
    for found, expected in zip(members.numbers["seed"], (seed, seed + 1), strict=True):
        assert jax.random.key(found) == jax.random.key(expected)
    state = jax.jit(lambda: build(config, *data.sizes).init_state(seed))()
    for ours, theirs in zip(*map(jax.tree.leaves, (members.init(), state)), strict=True):
        np.testing.assert_allclose(ours[0], theirs, rtol=1e-5, atol=1e-6)


def test_seeds_of_a_sweep_that_would_be_those_of_others_are_refused(tmp_path):
    config = make_sweep("test", tiny_config(seed=2**32 - 1), {"size": {"tiny": {}}}, num_seeds=2)
    with pytest.raises(ValueError, match=r"seed is .* below 4294967296, not 4294967296"):
        run_sweep(config, tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()
