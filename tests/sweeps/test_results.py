"""The checkpoints that a population leaves to each of its trials."""

import pytest

from capsjax.data import load_training
from capsjax.runs import devices
from capsjax.runs.checkpoint import Checkpoints
from capsjax.sweeps import levels_of, make_sweep, trials_of
from capsjax.sweeps.folders import trial_folder
from capsjax.sweeps.members import Data, Members
from capsjax.sweeps.results import Outcome, write_results
from tests.tiny import tiny_config

NOTES = {"best_values": [0.25], "best_steps": [8], "train_seconds": [1.0]}
FORMS = {"backend": "gpu", "population": "map", "forms": {"dtype": "float32", "conv": "fourier"}}


@pytest.fixture(scope="module")
def members():
    """A population of one, which began in other forms than those of this machine."""
    config = tiny_config(model__use_decoder=False)
    rounds = levels_of("model.routing.dynamic.num_iterations", (1,))
    trials = trials_of(make_sweep("test", config, {"rounds": rounds}, num_seeds=1))
    made = Members(trials, Data(*load_training(**config.data)), devices.make_mesh("members"), "map")
    made.forms = FORMS
    return made


@pytest.fixture(scope="module")
def states(members):
    return devices.to_host(members.init())


def written(members, states, workdir, **changed):
    """The checkpoints of a trial whose last step, the twelfth, has the validation loss 0.5."""
    found = [{"loss": 0.5}]
    outcome = Outcome(12, states, None, NOTES, test=found, validation=found)._replace(**changed)
    write_results(workdir, members, 0, outcome)
    folder = trial_folder(workdir, members.trials[0])
    return Checkpoints(folder / "checkpoints", read_only=True)


def test_a_trial_of_the_last_step_has_the_loss_of_that_step(members, states, tmp_path):
    assert written(members, states, tmp_path).validation_values() == {12: 0.5}


def test_a_trial_without_validation_data_has_no_loss(members, states, tmp_path):
    assert written(members, states, tmp_path, validation=None).validation_values() == {}


def test_the_best_parameters_have_their_own_loss_and_step(members, states, tmp_path):
    kept = written(members, states, tmp_path, best=states.variables)
    assert kept.steps() == [8, 12]
    assert kept.validation_values() == {8: 0.25}


def test_the_metric_of_the_last_step_is_the_one_that_selects(states):
    found = [{"loss": 0.5, "accuracy": 0.75}]
    outcome = Outcome(12, states, None, NOTES, test=found, validation=found)
    assert outcome.validation_value(0, "accuracy") == 0.75
    assert outcome._replace(best=states.variables).validation_value(0, "accuracy") == 0.25


def test_a_trial_keeps_the_forms_and_the_backend_of_its_population(members, states, tmp_path):
    kept = written(members, states, tmp_path, best=states.variables)
    for step in ("8", "12"):
        notes = kept.notes(step)
        assert (notes["forms"], notes["backend"]) == (FORMS["forms"], "gpu")
