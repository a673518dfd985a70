"""TensorBoard's page HParams: a row for each trial, however often a sweep is started again."""

import pytest

from capsjax.runs.files import sealed, write_json
from capsjax.sweeps import levels_of, make_sweep, trials_of
from capsjax.sweeps.folders import trial_folder, write_failure
from capsjax.sweeps.hparams import write_trials
from capsjax.sweeps.run import run_sweep
from tests.events import read_hparams, read_scalars
from tests.tiny import tiny_config

FACTORS = {
    "rounds": levels_of("model.routing.dynamic.num_iterations", (1, 3)),
    "shift": {"2": {"augment.max_shift": 2}, "none": {"augment.max_shift": 0}},
}
PART = {"error": 0.25, "loss": 0.5, "accuracy": 0.75, "num_examples": 4}
SUMMARY = {
    "selection": "last",
    "selected_step": 12,
    "steps": 12,
    "train_seconds": 1.0,
    "test": PART,
    "validation": {**PART, "error": 0.125},
}


@pytest.fixture
def sweep(tmp_path):
    """A sweep whose trials have begun: workdir, config, trials."""
    config = make_sweep("test", tiny_config(log__tensorboard=True), FACTORS, num_seeds=1)
    trials = trials_of(config)
    for trial in trials:
        trial_folder(tmp_path, trial).mkdir(parents=True)
        write_json(trial_folder(tmp_path, trial) / "config.json", {})
    return tmp_path, config, trials


def board_of(workdir, trial):
    return trial_folder(workdir, trial) / "tensorboard"


def test_settings_are_levels_by_factor_and_the_seed(sweep):
    workdir, config, trials = sweep
    write_trials(workdir, config, trials)
    for trial, rounds in zip(trials, (1.0, 1.0, 3.0, 3.0), strict=True):
        found = read_hparams(board_of(workdir, trial))
        assert found.keys() == {"experiment", "session_start_info"}, "it has not ended"
        settings = found["session_start_info"][0].hparams
        assert settings.keys() == {"rounds", "shift", "seed"}
        assert settings["rounds"].number_value == rounds
        # Not a number in one row and a text in another.
        assert settings["shift"].string_value == trial.levels["shift"]


def test_results_take_the_place_of_what_was_written_at_the_start(sweep):
    workdir, config, trials = sweep
    write_trials(workdir, config, trials)
    write_json(trial_folder(workdir, trials[0]) / "summary.json", sealed(SUMMARY))
    write_failure(workdir, trials[1], "non_finite", "step 3 is not finite")
    for _ in range(2):
        write_trials(workdir, config, trials)
    found = [read_hparams(board_of(workdir, trial)) for trial in trials[:3]]
    assert [len(each["session_start_info"]) for each in found] == [1, 1, 1]
    ends = [[end.status for end in each.get("session_end_info", [])] for each in found]
    success, failure = 1, 2  # of tensorboardX.proto.api_pb2.Status
    assert ends == [[success], [failure], []]
    assert read_scalars(board_of(workdir, trials[0])) == {
        "result/validation_error": [(12, 0.125)],
        "result/validation_loss": [(12, 0.5)],
        "result/test_error": [(12, 0.25)],
        "result/test_loss": [(12, 0.5)],
    }
    (experiment,) = found[0]["experiment"]
    columns = {each.name.tag for each in experiment.metric_infos}
    assert columns == read_scalars(board_of(workdir, trials[0])).keys()


def test_a_trial_that_has_not_begun_has_no_folder_afterwards(sweep):
    """Its folder may only have what a run expects in it, or it cannot be started."""
    workdir, config, trials = sweep
    (trial_folder(workdir, trials[0]) / "config.json").unlink()
    write_trials(workdir, config, trials)
    assert not board_of(workdir, trials[0]).exists()
    assert board_of(workdir, trials[1]).exists()


def test_nothing_is_written_without_tensorboard(sweep):
    workdir, _, _ = sweep
    config = make_sweep("test", tiny_config(), FACTORS, num_seeds=1)
    write_trials(workdir, config, trials_of(config))
    assert not list(workdir.glob("trials/*/tensorboard"))


@pytest.mark.ci
def test_a_sweep_writes_the_start_and_the_end_of_each_trial(tmp_path, capsys):
    factors = {"rate": levels_of("schedule.learning_rate", (0.003, 1e30))}
    base = tiny_config(log__tensorboard=True, train__epochs=1)
    config = make_sweep("test", base, factors, num_seeds=1)
    for _ in range(2):
        run_sweep(config, tmp_path)
        ends = []
        for trial in trials_of(config):
            found = read_hparams(board_of(tmp_path, trial))
            assert len(found["session_start_info"]) == 1
            (end,) = found["session_end_info"]
            ends.append(end.status)
        assert ends == [1, 2]
    lines = capsys.readouterr().out.splitlines()
    # The second start has nothing left to train.
    assert len([line for line in lines if f"tensorboard --logdir={tmp_path}" in line]) == 1
