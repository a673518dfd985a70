"""experiments/sweep.py: whole sweeps, and everything that can happen to them."""

import json
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from capsjax.commands import report
from capsjax.commands import sweep as sweep_command
from capsjax.runs import train
from capsjax.runs.checkpoint import CheckpointError
from capsjax.runs.predictor import load_predictor
from capsjax.runs.step_folders import StepFolders
from capsjax.runs.workdir import WorkdirError
from capsjax.runs.writers import read_metrics
from capsjax.sweeps import levels_of, make_sweep, trials_of
from capsjax.sweeps import run as sweep
from capsjax.sweeps.members import Members
from capsjax.sweeps.population_run import PopulationRun
from tests.run_processes import results_of_sweep, start_sweep, wait_for_trials
from tests.tiny import ROOT, tiny_config

ROUNDS = "model.routing.dynamic.num_iterations"


def make_test_sweep(num_seeds=1, **factors):
    return make_sweep("test", tiny_config(), factors, num_seeds=num_seeds)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A sweep in which some trials diverge and others cannot be built: workdir, trials."""
    config = make_test_sweep(
        kernel={"3": {}, "20": {"model.conv.kernel_size": 20}},
        rounds=levels_of(ROUNDS, (1, 2)),
        rate=levels_of("schedule.learning_rate", (0.003, 1e30)),
    )
    workdir = tmp_path_factory.mktemp("sweeps") / "sweep"
    sweep.run_sweep(config, workdir)
    return workdir, trials_of(config), config


def status_of(finished):
    workdir, trials, _ = finished
    return {trial.id: sweep.folders.read_status(workdir, trial) for trial in trials}


@pytest.mark.ci
def test_failures_leave_the_others_unharmed(finished):
    statuses = status_of(finished)
    assert {name: status.name for name, status in statuses.items()} == {
        "kernel=3,rounds=1,rate=0.003,seed=0": "finished",
        "kernel=3,rounds=1,rate=1e+30,seed=0": "non_finite",
        "kernel=3,rounds=2,rate=0.003,seed=0": "finished",
        "kernel=3,rounds=2,rate=1e+30,seed=0": "non_finite",
        "kernel=20,rounds=1,rate=0.003,seed=0": "failed",
        "kernel=20,rounds=1,rate=1e+30,seed=0": "failed",
        "kernel=20,rounds=2,rate=0.003,seed=0": "failed",
        "kernel=20,rounds=2,rate=1e+30,seed=0": "failed",
    }
    failed = statuses["kernel=20,rounds=1,rate=0.003,seed=0"]
    assert "20x20 pixels" in failed.message
    diverged = statuses["kernel=3,rounds=2,rate=1e+30,seed=0"]
    assert "is not finite: loss" in diverged.message
    assert diverged.message.endswith("It began in the output of primary_layer/conv")


@pytest.mark.ci
def test_what_cannot_be_built_is_reported_before_anything_trains(finished):
    workdir, trials, _ = finished
    cannot = [trial for trial in trials if "kernel=20" in trial.id]
    can = [trial for trial in trials if "rate=0.003" in trial.id and trial not in cannot]

    def written(trial, name):
        return (sweep.folders.trial_folder(workdir, trial) / name).stat().st_mtime_ns

    last = max(written(trial, "failure.json") for trial in cannot)
    assert last < min(written(trial, "metrics.jsonl") for trial in can)


@pytest.mark.ci
def test_a_trial_is_the_run_of_train_py(finished, tmp_path):
    workdir, trials, _ = finished
    for trial in (trials[0], trials[2]):
        alone = train.train_and_evaluate(trial.config, tmp_path / trial.id)
        folder = workdir / "trials" / trial.id
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["test"]["num_errors"] == alone["test"]["num_errors"]
        assert summary["test"]["loss"] == pytest.approx(alone["test"]["loss"], rel=1e-4)
        assert summary["selected_step"] == alone["selected_step"]
        assert alone.keys() - summary.keys() <= {
            "compile_seconds",
            "seconds_to_first_step",
            "image_shape",
            "num_classes",
            "test_reads",  # once: no trial is given more epochs
        }
        records, expected = read_metrics(folder), read_metrics(tmp_path / trial.id)
        assert [(r["step"], r["split"]) for r in records] == [
            (r["step"], r["split"]) for r in expected
        ]
        for record, other in zip(records, expected, strict=True):
            assert record.keys() == other.keys()
            for name in record.keys() - {"images_per_second", "split"}:
                assert record[name] == pytest.approx(other[name], rel=1e-3, abs=1e-6), name


@pytest.mark.ci
def test_the_folder_of_a_trial_can_be_evaluated(finished):
    workdir, trials, _ = finished
    predictor = load_predictor(workdir / "trials" / trials[0].id)
    assert predictor.predict(np.zeros((2, 8, 8, 1), np.uint8)).labels.shape == (2,)


@pytest.mark.ci
def test_the_index_has_a_row_for_each_trial_and_makes_a_report(finished):
    workdir, trials, _ = finished
    index = json.loads((workdir / "index.json").read_text())
    assert [row["id"] for row in index["trials"]] == [trial.id for trial in trials]
    assert index["num_trials"] == len(trials)
    assert index["status"] == "running", "failed trials are tried again"
    row = index["trials"][0]
    assert row["test"]["num_examples"] == 360
    assert row["train_seconds"] > 0
    text = report.write_report(workdir)
    assert "is not finite" in text
    assert (workdir / "report" / "trials.csv").exists()


@pytest.mark.ci
def test_what_is_finished_is_left_alone_and_seeds_can_be_added(finished):
    workdir, trials, config = finished
    before = {trial.id: folder_times(workdir, trial) for trial in trials[:4]}
    more = config.copy_and_resolve_references()
    with more.unlocked():
        more.num_seeds = 2
        # Without the failing half: as a user would mend it.
        more.factors = (("kernel", config.factors[0][1][:1]), *config.factors[1:])
    with pytest.raises(WorkdirError, match="another config"):
        sweep.run_sweep(more, workdir)
    with more.unlocked():
        more.factors = config.factors
    statuses = sweep.run_sweep(more, workdir)
    assert [status.name for status in statuses].count("finished") == 4
    assert before == {trial.id: folder_times(workdir, trial) for trial in trials[:4]}


def folder_times(workdir, trial):
    folder = workdir / "trials" / trial.id
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json*")}


@pytest.mark.ci
def test_a_population_is_cut_to_what_memory_holds(tmp_path, monkeypatch, capsys):
    config = make_test_sweep(num_seeds=3, rounds=levels_of(ROUNDS, (1,)))
    monkeypatch.setattr("capsjax.sweeps.members._bytes_of", lambda compiled: 50e9)
    monkeypatch.setattr("capsjax.sweeps.members._bytes_of_device", lambda: 40e9)
    statuses = sweep.run_sweep(config, tmp_path / "too little")
    assert {status.name for status in statuses} == {"failed"}
    message = "one trial needs 50.0 GB of memory, and 24.0 GB may be used: make the network or"
    assert message in statuses[0].message
    # 0.6 of 100 GB holds two members of 30 GB, and not three.
    monkeypatch.setattr("capsjax.sweeps.members._bytes_of_device", lambda: 100e9)
    monkeypatch.setattr(
        "capsjax.sweeps.members._bytes_of",
        lambda compiled: 30e9 * jax.tree.leaves(compiled.out_info)[0].shape[0],
    )
    statuses = sweep.run_sweep(config, tmp_path / "two", form="vmap")
    assert {status.name for status in statuses} == {"finished"}
    populations = sorted((tmp_path / "two" / "populations").glob("*/members.json"))
    assert [len(json.loads(path.read_text())) for path in populations] == [2, 1]


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """A sweep of two trials that heard SIGTERM in its second epoch: workdir, config."""
    config = make_test_sweep(rounds=levels_of(ROUNDS, (1, 2)))
    config.base.log.every_steps = 1
    config.base.checkpoint.every_steps = 2
    calls = []

    def agree(call_steps, due, sent):
        calls.append(sent)
        return 1, due, signal.SIGTERM if len(calls) == 6 else 0

    with monkeypatch.context() as patch:
        patch.setattr("capsjax.runs.pace.agree", agree)
        with pytest.raises(SystemExit) as stopped:
            sweep.run_sweep(config, tmp_path / "sweep")
    assert stopped.value.code == 128 + signal.SIGTERM
    return tmp_path / "sweep", config


@pytest.mark.ci
def test_a_population_goes_on_from_the_whole_one_of_its_two_checkpoints(
    interrupted, tmp_path, capsys, caplog
):
    workdir, config = interrupted
    undamaged = tmp_path / "undamaged"
    shutil.copytree(workdir, undamaged)
    (folder,) = (workdir / "populations").iterdir()
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["4", "6"]
    arrays = (folder / "checkpoints" / "6" / "state").rglob("d/*")
    largest = max(arrays, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    sweep.run_sweep(config, workdir)
    assert "population 000 of 2: resuming from step 4" in capsys.readouterr().out
    (line,) = [each.getMessage() for each in caplog.records if "damaged" in each.getMessage()]
    assert f"d/{largest.name} is not what was saved" in line
    assert line.endswith("going on from step 4: epoch 2 is trained again")
    sweep.run_sweep(config, undamaged)
    assert results_of_sweep(workdir) == results_of_sweep(undamaged)


@pytest.mark.ci
def test_damaged_checkpoints_are_set_aside_and_the_population_begins_anew(interrupted, capsys):
    workdir, config = interrupted
    (folder,) = (workdir / "populations").iterdir()
    for path in (folder / "checkpoints").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    statuses = sweep.run_sweep(config, workdir)
    assert [status.name for status in statuses] == ["finished", "finished"]
    assert (
        "All are set aside, and population 000 of 2 begins anew: epochs 1 to 2 are trained again"
        in capsys.readouterr().out
    )
    assert (folder / "damaged-0").is_dir()


@pytest.mark.ci
def test_a_population_goes_on_with_the_forms_of_its_start(interrupted, monkeypatch, capsys):
    workdir, config = interrupted
    (folder,) = (workdir / "populations").iterdir()
    stored = json.loads((folder / "forms.json").read_text())
    assert stored.keys() == {"backend", "population", "forms", "members", "sha256"}
    monkeypatch.setattr("capsjax.kernels.compute.choose_form", lambda *_: "lax")
    made, members = [], Members.__init__

    def watched(self, *arguments):
        members(self, *arguments)
        made.append(self.forms)

    monkeypatch.setattr(Members, "__init__", watched)
    sweep.run_sweep(config, workdir, form="vmap" if stored["population"] == "map" else "map")
    assert made == [{name: stored[name] for name in ("backend", "population", "forms")}]
    assert json.loads((folder / "forms.json").read_text()) == stored
    assert "goes on on" not in capsys.readouterr().out


@pytest.mark.ci
def test_a_population_of_an_earlier_version_goes_on_with_its_best(
    interrupted, tmp_path, monkeypatch
):
    workdir, config = interrupted

    def grown(run, variables, part, measure=PopulationRun._results):
        found = measure(run, variables, part)
        return [{**result, "loss": result["loss"] + run.step} for result in found]

    # The first epoch, which was before the signal, stays the best.
    monkeypatch.setattr(PopulationRun, "_results", grown)
    shutil.copytree(workdir, tmp_path / "present")
    for status in sweep.run_sweep(config, tmp_path / "present"):
        assert status.summary["selected_step"] == 4

    def notes_before(folders, step, read=StepFolders.notes):
        notes = read(folders, step)
        if "best_values" in notes and step == 6:
            notes["best_losses"] = notes.pop("best_values")
            renamed.append(folders.directory)
        return notes

    renamed = []
    monkeypatch.setattr(StepFolders, "notes", notes_before)
    sweep.run_sweep(config, workdir)
    assert set(renamed) == {workdir / "populations" / "000" / "checkpoints"}
    assert results_of_sweep(workdir) == results_of_sweep(tmp_path / "present")


@pytest.mark.ci
def test_a_population_that_goes_on_on_another_backend_says_so(interrupted, capsys):
    workdir, config = interrupted
    (folder,) = (workdir / "populations").iterdir()
    stored = json.loads((folder / "forms.json").read_text())
    del stored["sha256"]
    (folder / "forms.json").write_text(json.dumps({**stored, "backend": "gpu"}))
    sweep.run_sweep(config, workdir)
    assert "began on gpu and goes on on cpu" in capsys.readouterr().out


@pytest.mark.ci
def test_a_full_disk_stops_the_sweep_and_harms_nothing(interrupted, monkeypatch, capsys):
    workdir, config = interrupted

    def save(self, *_):
        raise CheckpointError("could not save step 12: make room")

    with monkeypatch.context() as patch:
        patch.setattr("capsjax.sweeps.population_run.Checkpoints.save", save)
        with pytest.raises(CheckpointError, match="make room"):
            sweep.run_sweep(config, workdir)
    capsys.readouterr()
    statuses = sweep.run_sweep(config, workdir)
    assert [status.name for status in statuses] == ["finished", "finished"]
    assert "resuming from step 6" in capsys.readouterr().out


class Flags:
    """As absl has them."""

    def __init__(self, config, workdir):
        self.config, self.workdir, self.form, self.population = config, workdir, "auto", 0

    def __getitem__(self, name):
        return getattr(self, name)


def test_failed_trials_end_the_command_with_an_error(finished, monkeypatch):
    workdir, _, config = finished
    monkeypatch.setattr(sweep_command, "FLAGS", Flags(config, str(workdir)))
    monkeypatch.setattr(sweep_command.command_line, "config_of_flags", lambda _: config)
    monkeypatch.setattr(sweep_command.command_line, "start_processes", lambda: None)
    monkeypatch.setattr(sweep_command.config_flags, "get_override_values", lambda _: {})
    with pytest.raises(ValueError, match=r"4 of 8 trials failed.* another --workdir"):
        sweep_command.main()


@pytest.mark.ci
def test_the_steps_of_a_trial_that_diverges_are_counted_once(tmp_path, monkeypatch):
    made = []

    class Watched(sweep.SweepProgress):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(sweep, "SweepProgress", Watched)
    config = make_test_sweep(rate=levels_of("schedule.learning_rate", (1e30,)))
    (status,) = sweep.run_sweep(config, tmp_path / "sweep")
    assert status.name == "non_finite"
    (progress,) = made
    assert progress._done == progress._total == 12


@pytest.mark.ci
def test_a_trial_without_a_finite_validation_loss_has_no_best_parameters(tmp_path, monkeypatch):
    config = make_test_sweep(rounds=levels_of(ROUNDS, (1, 2)))
    with config.unlocked():
        config.base.selection = "best"

    def spoilt(run, variables, part, measure=PopulationRun._results):
        found = measure(run, variables, part)
        if part is run._members.data.validation:
            found[0]["loss"] = float("nan")
        return found

    monkeypatch.setattr(PopulationRun, "_results", spoilt)
    first, second = sweep.run_sweep(config, tmp_path / "sweep")
    assert (first.name, second.name) == ("non_finite", "finished")
    assert first.message.startswith("the validation loss was never finite")


@pytest.mark.ci
def test_the_best_of_a_trial_may_be_that_of_the_highest_accuracy(tmp_path, monkeypatch):
    config = make_test_sweep(rounds=levels_of(ROUNDS, (1, 2)))
    with config.unlocked():
        config.base.selection, config.base.selection_metric = "best", "accuracy"
    # Of each epoch and member; the losses grow.
    accuracies = iter([(0.25, 0.75), (0.5, 0.75), (0.25, 0.25)])

    def measured(run, variables, part, measure=PopulationRun._results):
        found = measure(run, variables, part)
        if part is run._members.data.validation:
            of_members = next(accuracies, None)  # None once the training has ended
            for result, accuracy in zip(found, of_members or (), strict=bool(of_members)):
                result |= {"loss": float(run.step), "accuracy": accuracy, "error": 1.0 - accuracy}
        return found

    monkeypatch.setattr(PopulationRun, "_results", measured)
    first, second = sweep.run_sweep(config, tmp_path / "sweep")
    assert [each.summary["selected_step"] for each in (first, second)] == [8, 4]
    for trial, step in zip(trials_of(config), (8, 4), strict=True):
        assert load_predictor(sweep.folders.trial_folder(tmp_path / "sweep", trial)).step == step
    index = json.loads((tmp_path / "sweep" / "index.json").read_text())
    assert {row["selection"] for row in index["trials"]} == {"best accuracy"}


def test_missing_data_stop_the_sweep(tmp_path):
    config = make_test_sweep(rounds=levels_of(ROUNDS, (1,)))
    with config.unlocked():
        config.base.data.name, config.base.data.file = "npz", str(tmp_path / "none.npz")
    with pytest.raises(ValueError, match="none"):
        sweep.run_sweep(config, tmp_path / "sweep")


def test_a_wrong_field_stops_before_anything_is_made(tmp_path):
    config = make_test_sweep(rounds=levels_of("model.routing.num_iteration", (1,)))
    with pytest.raises(ValueError, match=r"did you mean 'model\.routing\.dynamic\.num_iterations'"):
        sweep.run_sweep(config, tmp_path / "sweep")
    config = make_test_sweep(epochs=levels_of("train.epochs", (1, 0)))
    with pytest.raises(ValueError, match=r"train\.epochs is at least 1"):
        sweep.run_sweep(config, tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


LONG = {"train__epochs": 60, "checkpoint__every_steps": 7, "selection": "last"}


@pytest.mark.long
@pytest.mark.ci
def test_a_killed_sweep_resumes_and_ends_as_one_that_was_not(tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    reference = start_sweep(straight, **LONG)
    process = start_sweep(killed, **LONG)
    wait_for_trials(killed, process, 30)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    process = start_sweep(killed, **LONG)
    wait_for_trials(killed, process, 100)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "resuming from step" in output
    assert "--workdir" in output
    assert "resumes" in output
    process = start_sweep(killed, **LONG)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert "4 of 4 trials finished" in output
    assert not list((killed / "populations").glob("*/checkpoints")), "trials have their own"
    assert reference.wait(timeout=300) == 0, reference.stdout.read()
    reference.communicate()
    assert results_of_sweep(killed) == results_of_sweep(straight)
    index = json.loads((killed / "index.json").read_text())
    assert index["status"] == "finished"


@pytest.mark.ci
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--config=FILE is missing"),
        (["--config=configs/digits.py"], "not a sweep"),
        (["--config=configs/sweeps/authors_gap.py:big"], "size of a sweep 'big'"),
        (["--config=configs/sweeps/digits.py", "--form=vmop"], "did you mean 'vmap'"),
        (["--config=configs/sweeps/digits.py", "--population=-1"], "population"),
    ],
)
def test_wrong_flags_are_one_line(flags, message):
    command = [sys.executable, "experiments/sweep.py", *flags]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode in (1, 2)
    (line,) = result.stderr.strip().splitlines()
    assert message in line
