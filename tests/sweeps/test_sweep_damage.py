"""Damaged files and other data in the folder of a sweep: what is lost, and what is made again."""

import re
import shutil
import signal

import numpy as np
import pytest

from capsjax.runs.data_record import read_data
from capsjax.runs.files import WorkdirError, read_json, write_json
from capsjax.runs.workdir import read_summary
from capsjax.sweeps import folders, levels_of, make_sweep, trials_of
from capsjax.sweeps import run as sweep
from tests.npz_digits import DIGITS, TEST, save_digits
from tests.tiny import tiny_config

pytestmark = pytest.mark.ci


def make_config(file, num_seeds=1):
    """Two trials in one program, on a file."""
    base = tiny_config(train__epochs=2, data__name="npz", data__file=str(file))
    rounds = levels_of("model.routing.dynamic.num_iterations", (1, 2))
    return make_sweep("test", base, {"rounds": rounds}, num_seeds=num_seeds)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of the file, of a sweep that was stopped and of the same one finished."""
    folder = tmp_path_factory.mktemp("damage")
    save_digits(folder / "own.npz")
    config, calls = make_config(folder / "own.npz"), []

    def agree(call_steps, due, sent):
        calls.append(sent)
        return 2, due, signal.SIGTERM if len(calls) == 3 else 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("capsjax.runs.pace.agree", agree)
        with pytest.raises(SystemExit):
            sweep.run_sweep(config, folder / "stopped")
    shutil.copytree(folder / "stopped", folder / "finished")
    sweep.run_sweep(config, folder / "finished")
    return folder


@pytest.fixture
def copies(made, tmp_path):
    """A copy of both for one test, and the config on a file of its own."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy", make_config(tmp_path / "copy" / "own.npz")


def results(workdir, config):
    """Losses, errors and tested step of every trial."""
    summaries = [read_summary(folders.trial_folder(workdir, each)) for each in trials_of(config)]
    return [
        (part["loss"], part["num_errors"], each["selected_step"])
        for each in summaries
        for part in (each["test"], each["validation"])
    ]


def written_at(workdir, trial):
    return (folders.trial_folder(workdir, trial) / "summary.json").stat().st_mtime_ns


def test_a_damaged_summary_is_made_again_from_the_trial_s_own_checkpoint(copies, capsys, caplog):
    folder, config = copies
    workdir, (trial, other) = folder / "finished", trials_of(config)
    expected, before = results(workdir, config), written_at(workdir, other)
    summary = folders.trial_folder(workdir, trial) / "summary.json"
    summary.write_bytes(b"\xff")
    (workdir / "index.json").write_text("{")

    sweep.run_sweep(config, workdir)
    # The loss is up to rounding that of the trials together.
    np.testing.assert_allclose(results(workdir, config), expected, rtol=1e-5)
    assert written_at(workdir, other) == before
    assert (summary.parent / "summary.json.damaged").read_bytes() == b"\xff"
    said = capsys.readouterr().out
    assert f"{workdir}: 0 of 2 trials to train" in said
    assert [path.name for path in (workdir / "populations").iterdir()] == ["000"]
    assert read_json(workdir / "index.json")["status"] == "finished"
    assert "index.json is damaged" in caplog.messages[0]
    assert "the results are computed again, from the last checkpoint" in caplog.messages[1]


def test_a_trial_whose_checkpoints_are_lost_too_is_trained_alone(copies, capsys):
    folder, config = copies
    workdir, (trial, other) = folder / "finished", trials_of(config)
    before = written_at(workdir, other)
    lost = folders.trial_folder(workdir, trial)
    (lost / "summary.json").write_text("{}")
    for path in (lost / "checkpoints").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    statuses = sweep.run_sweep(config, workdir)
    assert [status.name for status in statuses] == ["finished", "finished"]
    assert written_at(workdir, other) == before
    assert read_json(workdir / "populations" / "001" / "members.json") == [trial.id]
    assert (lost / "checkpoints_unreadable").is_dir()
    assert f"{trial.id} is trained anew" in capsys.readouterr().out


@pytest.mark.parametrize("file", ["members.json", "forms.json"])
def test_a_population_goes_on_though_its_members_or_its_forms_are_damaged(
    copies, file, capsys, caplog
):
    folder, config = copies
    workdir, population = folder / "stopped", folder / "stopped" / "populations" / "000"
    stored = read_json(population / "forms.json")
    (population / file).write_text("[")
    sweep.run_sweep(config, workdir)
    assert results(workdir, config) == results(folder / "finished", config)
    assert "population 000 of 2: resuming from step 4" in capsys.readouterr().out
    assert read_json(population / "forms.json") == stored
    (line,) = caplog.messages
    assert f"{population / file} is damaged" in line
    assert (population / f"{file}.damaged").exists()


def test_a_population_without_any_list_of_its_members_is_left(copies, caplog):
    folder, config = copies
    workdir, trials = folder / "stopped", trials_of(config)
    ids = [trial.id for trial in trials]
    population = workdir / "populations" / "000"
    assert folders.unfinished_populations(workdir, trials) == [(str(population), ids)]
    (population / "members.json").write_bytes(b"\xff")
    (population / "forms.json").write_text("3")
    assert folders.unfinished_populations(workdir, trials) == []
    assert "members.json is damaged" in caplog.messages[1]
    assert "its trials begin anew" in caplog.messages[1]


def test_a_population_of_before_members_were_stored_twice_goes_on(copies):
    folder, config = copies
    workdir, trials = folder / "stopped", trials_of(config)
    population = workdir / "populations" / "000"
    stored = read_json(population / "forms.json")
    names = ("backend", "population", "forms")
    write_json(population / "forms.json", {name: stored[name] for name in names})
    ids = [trial.id for trial in trials]
    assert folders.unfinished_populations(workdir, trials) == [(str(population), ids)]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"test": {}}', "changed"])
def test_a_damaged_summary_is_a_status_and_no_error(copies, text):
    folder, config = copies
    workdir, (trial, _) = folder / "finished", trials_of(config)
    summary = folders.trial_folder(workdir, trial) / "summary.json"
    changed = summary.read_text().replace('"num_errors": ', '"num_errors": 1')
    summary.write_text(changed if text == "changed" else text)
    status = folders.read_status(workdir, trial)
    assert status.name == "damaged"
    assert f"{summary} is damaged: " in status.message
    assert not status.is_final


def test_a_damaged_failure_is_set_aside_and_the_trial_tried_again(copies, caplog):
    folder, config = copies
    workdir, (trial, _) = folder / "stopped", trials_of(config)
    folders.write_failure(workdir, trial, "non_finite", "step 3 is not finite")
    assert folders.read_status(workdir, trial).is_final
    failure = folders.trial_folder(workdir, trial) / "failure.json"
    failure.write_text("[]")
    assert folders.read_status(workdir, trial).name == "damaged"
    folders.clear_failure(workdir, trial)
    assert folders.read_status(workdir, trial).name == "waiting"
    assert "failure.json is damaged: it is no object" in caplog.messages[0]


def test_other_training_data_are_refused_by_every_start_of_a_sweep(copies):
    folder, config = copies
    save_digits(folder / "own.npz", labels=DIGITS.labels[::-1])
    for workdir in (folder / "stopped", folder / "finished"):
        with pytest.raises(WorkdirError, match="name another --workdir") as refused:
            sweep.run_sweep(config, workdir)
        # Parts have equal shares of the classes, so that other labels choose other images.
        part = r"the training \(name npz, [^)]*train_size 128, [^)]*\) images and labels differ; "
        assert re.search(part + "the validation", str(refused.value))


def test_other_test_data_are_refused_when_they_are_read(copies):
    folder, config = copies
    workdir, (trial, _) = folder / "finished", trials_of(config)
    recorded = read_data(folders.trial_folder(workdir, trial))
    assert recorded.keys() == {"training", "validation", "test"}
    assert recorded["test"] == TEST.fingerprint()
    save_digits(folder / "own.npz", test_images=255 - TEST.images)
    more = make_config(folder / "own.npz", num_seeds=2)
    with pytest.raises(WorkdirError, match=r"the test \(name npz, .*\) images differ"):
        sweep.run_sweep(more, workdir)
    assert read_data(folders.trial_folder(workdir, trial)) == recorded
