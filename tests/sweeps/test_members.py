"""Trials that are trained together: what they are computed with."""

from capsjax.data import load_training
from capsjax.runs import devices
from capsjax.sweeps import make_sweep, trials_of
from capsjax.sweeps.members import Data, Members
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
