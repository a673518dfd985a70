"""Trials that cannot be trained are found one by one and recorded, and the others go on."""

import dataclasses
from pathlib import Path

import pytest

from capsjax import routing
from capsjax.runs import own_code
from capsjax.sweeps import levels_of, make_sweep, members, trials_of
from capsjax.sweeps import run as sweep
from capsjax.sweeps.failures import describe_failure
from capsjax.sweeps.members import Members
from capsjax.training.population import Population
from tests.tiny import tiny_config

ROUNDS = "model.routing.dynamic.num_iterations"


@dataclasses.dataclass(frozen=True)
class Forgetful(routing.ROUTING["dynamic"]):
    """An algorithm with a programming error."""

    def __post_init__(self):
        {}["weight"]


@pytest.fixture
def trained(monkeypatch):
    """Ids of the trials that a sweep would train, which it does not."""
    ids = []

    def train(self, trials, folder=None):
        ids.extend(trial.id for trial in trials)
        return trials

    monkeypatch.setattr(sweep.Sweep, "_train", train)
    return ids


@pytest.mark.parametrize("rounds", [(1, 0), (0, 1)])
def test_a_number_that_cannot_work_is_found_beside_one_that_can(tmp_path, trained, rounds):
    config = make_sweep("test", tiny_config(), {"rounds": levels_of(ROUNDS, rounds)}, num_seeds=2)
    statuses = sweep.run_sweep(config, tmp_path / "sweep")
    found = {
        trial.id: (status.name, "num_iterations" in status.message)
        for trial, status in zip(trials_of(config), statuses, strict=True)
    }
    failed, waiting = ("failed", True), ("waiting", False)
    assert found == {
        "rounds=0,seed=0": failed,
        "rounds=0,seed=1": failed,
        "rounds=1,seed=0": waiting,
        "rounds=1,seed=1": waiting,
    }
    assert trained == ["rounds=1,seed=0", "rounds=1,seed=1"]


def test_initial_values_that_cannot_be_drawn_fail_alone(tmp_path, trained):
    levels = {"a": {}, "b": {"model.conv.kernel_init": "truncated_normal"}}
    config = make_sweep("test", tiny_config(), {"init": levels}, num_seeds=1)
    first, second = sweep.run_sweep(config, tmp_path / "sweep")
    assert (first.name, second.name) == ("waiting", "failed")
    assert trained == ["init=a,seed=0"]


def test_a_programming_error_is_recorded_with_its_type_and_place(tmp_path, trained, monkeypatch):
    monkeypatch.setitem(routing.ROUTING, "forgetful", Forgetful)
    levels = {"forgetful": {"model.routing.name": "forgetful"}, "dynamic": {}}
    base = tiny_config()
    with base.unlocked():
        base.model.routing.forgetful = base.model.routing.dynamic
    config = make_sweep("test", base, {"algorithm": levels}, num_seeds=1)
    failed, _ = sweep.run_sweep(config, tmp_path / "sweep")
    assert "test_failures.py, line " in failed.message
    assert failed.message.endswith(", in __post_init__: KeyError: 'weight'")
    assert trained == ["algorithm=dynamic,seed=0"]


def test_a_programming_error_of_the_steps_leaves_the_other_trials(tmp_path, monkeypatch):
    def fail(trials, *_):
        raise TypeError("an operand too many")

    monkeypatch.setattr(sweep, "largest_that_fits", fail)
    factors = {"kernel": levels_of("model.conv.kernel_size", (3, 2))}
    config = make_sweep("test", tiny_config(), factors, num_seeds=1)
    statuses = sweep.run_sweep(config, tmp_path / "sweep")
    assert [status.name for status in statuses] == ["failed", "failed"]
    assert statuses[0].message.endswith("in fail: TypeError: an operand too many")


def test_a_programming_error_of_the_evaluation_is_met_before_a_step(tmp_path, monkeypatch):
    def fail(*_):
        raise TypeError("scores of another shape")

    monkeypatch.setattr(Population, "evaluate", fail)
    monkeypatch.setattr(Members, "compile_steps", lambda self: None)
    monkeypatch.setattr(members, "_bytes_of", lambda compiled: 0)
    config = make_sweep("test", tiny_config(), {"rounds": levels_of(ROUNDS, (1,))}, num_seeds=1)
    (status,) = sweep.run_sweep(config, tmp_path / "sweep")
    assert status.name == "failed"
    assert status.message.endswith("in fail: TypeError: scores of another shape")


def test_a_programming_error_of_the_package_itself_has_a_place_too(monkeypatch):
    monkeypatch.setattr(own_code, "_not_own", lambda: {Path("/")})
    with pytest.raises(TypeError) as failure:
        {}[[]]
    assert "test_failures.py, line " in describe_failure(failure.value)


def test_a_begun_population_with_a_member_that_cannot_work_does_not_go_on(tmp_path, trained):
    workdir = tmp_path / "sweep"
    config = make_sweep("test", tiny_config(), {"rounds": levels_of(ROUNDS, (1, 0))}, num_seeds=1)
    sweep.run_sweep(config, workdir)
    population = sweep.folders.new_population(workdir, trials_of(config), {})
    (population / "checkpoints").mkdir()
    trained.clear()
    sweep.run_sweep(config, workdir)
    assert trained == ["rounds=1,seed=0"]


def test_results_that_cannot_be_made_again_here_leave_the_other_trials(
    tmp_path, trained, monkeypatch
):
    workdir = tmp_path / "sweep"
    config = make_sweep("test", tiny_config(), {"rounds": levels_of(ROUNDS, (1, 2))}, num_seeds=1)
    lost, _ = trials_of(config)
    parameters = sweep.folders.trial_folder(workdir, lost) / "checkpoints" / "12"
    sweep.run_sweep(config, workdir)
    parameters.mkdir(parents=True)
    trained.clear()

    def evaluate(*_):
        raise ValueError("32 images do not divide over 3 devices")

    monkeypatch.setattr(sweep, "train_and_evaluate", evaluate)
    first, second = sweep.run_sweep(config, workdir)
    message = "lost results cannot be made again: 32 images do not divide over 3 devices"
    assert (first.name, first.message) == ("failed", message)
    assert second.name == "waiting"
    assert trained == ["rounds=2,seed=0"]
    assert parameters.exists(), "another start may evaluate them"
