"""experiments/train.py: a whole run, and everything that can happen to it."""

import json
import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from capsjax.config.tagged import resolved
from capsjax.runs import pace, single_run, train
from capsjax.runs.checkpoint import CheckpointError, Checkpoints
from capsjax.runs.files import write_json
from capsjax.runs.predictor import load_predictor
from capsjax.runs.selection import TESTED_ALONE
from capsjax.runs.workdir import WorkdirError
from capsjax.runs.writers import read_metrics
from capsjax.training.build import build, build_train_steps
from tests.run_processes import LONG, assert_same_run, start, wait_for_steps
from tests.tiny import ROOT, tiny_config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    summary = train.train_and_evaluate(tiny_config(), workdir, {"seed": 0})
    return workdir, summary


def test_a_run_leaves_behind_all_that_repeats_it(finished):
    workdir, summary = finished
    assert {"config.json", "env.json", "metrics.jsonl", "summary.json", "checkpoints"} <= set(
        os.listdir(workdir)
    )
    assert json.loads((workdir / "summary.json").read_text()) == json.loads(json.dumps(summary))
    assert summary["test"]["num_examples"] == 360
    assert summary["validation"]["num_examples"] == 50
    assert summary["selection"] == "best"
    assert summary["test"]["error"] == pytest.approx(1 - summary["test"]["accuracy"])
    assert summary["test"]["num_errors"] == round(360 * summary["test"]["error"])
    (first_start,) = json.loads((workdir / "env.json").read_text())
    assert first_start["overrides"] == {"seed": 0}
    assert first_start["forms"].keys() == {"conv", "primary_caps", "votes", "dtype"}
    assert (summary["forms"], summary["backend"]) == (first_start["forms"], "cpu")
    assert "auto" not in first_start["forms"].values()
    assert 0 < summary["compile_seconds"] < summary["seconds_to_first_step"]


@pytest.mark.slow
def test_a_run_compiles_its_training_once_and_its_evaluation_once_for_each_part(tmp_path, caplog):
    with jax.log_compiles():
        train.train_and_evaluate(tiny_config(), tmp_path / "run")
    compiled = [each.getMessage() for each in caplog.records if "Compiling" in each.getMessage()]
    assert len([message for message in compiled if "train_steps" in message]) == 1
    assert len([message for message in compiled if "evaluate" in message]) == 2
    assert not [message for message in compiled if "reconstruct" in message], "for TensorBoard"
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_metrics_have_every_part_of_the_loss(finished):
    records = read_metrics(finished[0])
    assert [each["step"] for each in records if each["split"] == "validation"] == [4, 8, 12]
    assert [each["step"] for each in records if each["split"] == "train"] == [3, 4, 6, 8, 9, 12]
    wanted = {"step", "epoch", "split", "loss", "margin", "reconstruction", "accuracy", "error"}
    assert all(wanted <= each.keys() for each in records)
    assert all("images_per_second" in each for each in records if each["split"] == "train")


@pytest.mark.slow
def test_metrics_are_means_of_their_own_steps_at_their_own_rate(finished, tmp_path):
    config = tiny_config(log__every_steps=1)
    train.train_and_evaluate(config, tmp_path / "run")
    each = {x["step"]: x for x in read_metrics(tmp_path / "run") if x["split"] == "train"}
    windows = [x for x in read_metrics(finished[0]) if x["split"] == "train"]
    before = 0
    for window in windows:
        steps = range(before + 1, window["step"] + 1)
        for name in ("loss", "accuracy", "gradient_norm"):
            mean = sum(each[step][name] for step in steps) / len(steps)
            assert window[name] == pytest.approx(mean, rel=1e-4), (name, window["step"])
        assert window["learning_rate"] == each[window["step"]]["learning_rate"]
        before = window["step"]
    rate, decay = config.schedule.learning_rate, config.schedule.decay_rate
    expected = rate * decay ** (2 / config.schedule.decay_every)
    assert each[3]["learning_rate"] == pytest.approx(expected, rel=1e-6), "two steps were taken"


@pytest.mark.slow
def test_the_best_epoch_is_kept_though_few_epochs_are(tmp_path, monkeypatch):
    monkeypatch.setattr(pace.SaveClock, "due", lambda *_: pace.Due.NO)
    config = tiny_config(
        train__epochs=6, checkpoint__every_epochs=1000, schedule__learning_rate=0.1
    )
    summary = train.train_and_evaluate(config, tmp_path / "run")
    losses = {
        x["step"]: x["loss"] for x in read_metrics(tmp_path / "run") if x["split"] == "validation"
    }
    assert summary["selected_step"] == min(losses, key=losses.get)
    assert summary["selected_step"] in Checkpoints(tmp_path / "run" / "checkpoints", 2).steps()
    assert summary["selected_step"] < summary["steps"], "this run ends worse than it was"


def test_a_finished_run_is_not_run_again(finished, capsys):
    workdir, summary = finished
    before = {path: path.stat().st_mtime_ns for path in (workdir / "checkpoints").rglob("*")}
    again = train.train_and_evaluate(tiny_config(), workdir)
    assert again["test"] == summary["test"]
    assert "is finished" in capsys.readouterr().out
    assert before == {
        path: path.stat().st_mtime_ns for path in (workdir / "checkpoints").rglob("*")
    }


def test_looking_at_a_finished_run_writes_nothing(finished):
    """Its folder may be one that can only be read."""
    workdir, _ = finished

    def times():
        return {path: path.stat().st_mtime_ns for path in (workdir, *workdir.rglob("*"))}

    before = times()
    train.train_and_evaluate(tiny_config(), workdir)
    assert times() == before


def test_another_config_in_the_same_folder_is_refused(finished):
    with pytest.raises(WorkdirError, match=r"loss_weights\.margin: 1\.0 there, 2\.0 here"):
        train.train_and_evaluate(tiny_config(loss_weights__margin=2.0), finished[0])


@pytest.mark.ci
def test_a_run_with_more_epochs_is_the_run_that_had_them_from_the_start(tmp_path):
    short, long = (tiny_config(train__epochs=epochs) for epochs in (2, 3))
    train.train_and_evaluate(short, tmp_path / "a")
    extended = train.train_and_evaluate(long, tmp_path / "a")
    whole = train.train_and_evaluate(long, tmp_path / "b")
    assert extended["test"] == whole["test"]
    assert (extended["test_reads"], whole["test_reads"]) == (2, 1)
    assert (extended["steps"], whole["steps"]) == (12, 12)
    assert_same_run(tmp_path / "a", tmp_path / "b")


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A run that heard SIGTERM after its first epoch: its folder and its config."""
    config = tiny_config()
    with monkeypatch.context() as patch:
        patch.setattr(pace, "agree", lambda steps, due, _: (steps, due, signal.SIGTERM))
        with pytest.raises(SystemExit):
            train.train_and_evaluate(config, tmp_path / "run")
    return tmp_path / "run", config


def forms_of_last_start(workdir):
    return json.loads((workdir / "env.json").read_text())[-1]["forms"]


@pytest.mark.ci
def test_a_run_goes_on_with_the_forms_of_its_first_start(stopped, monkeypatch, capsys):
    workdir, config = stopped
    first = forms_of_last_start(workdir)
    monkeypatch.setattr("capsjax.kernels.compute.choose_form", lambda *_: "lax")
    compiled = []

    def watched(config, built, *arguments):
        compiled.append(built.model.chosen_forms(config.train.batch_size))
        return build_train_steps(config, built, *arguments)

    monkeypatch.setattr(single_run, "build_train_steps", watched)
    summary = train.train_and_evaluate(config, workdir)
    assert compiled == [first]
    assert forms_of_last_start(workdir)["conv"] == "lax", "what would suit this machine"
    assert summary["forms"] == first
    said = capsys.readouterr().out
    assert "going on with the forms of the first start, on cpu: " in said
    assert f" conv {first['conv']}, " in said
    assert "the run began on" not in said


@pytest.mark.ci
def test_a_run_that_goes_on_on_another_backend_says_so(stopped, monkeypatch, capsys):
    workdir, config = stopped
    restore = Checkpoints.restore_last_whole

    def on_a_gpu(self, like):
        restored = restore(self, like)
        return restored._replace(notes={**restored.notes, "backend": "gpu"})

    monkeypatch.setattr(Checkpoints, "restore_last_whole", on_a_gpu)
    train.train_and_evaluate(config, workdir)
    assert "the run began on gpu and goes on on cpu" in capsys.readouterr().out


@pytest.mark.ci
def test_a_run_from_before_forms_were_stored_goes_on(stopped, monkeypatch, capsys):
    workdir, config = stopped
    restore = Checkpoints.restore_last_whole

    def old(self, like):
        restored = restore(self, like)
        notes = {k: v for k, v in restored.notes.items() if k not in ("forms", "backend")}
        return restored._replace(notes=notes)

    monkeypatch.setattr(Checkpoints, "restore_last_whole", old)
    assert train.train_and_evaluate(config, workdir)["steps"] == 12
    assert "going on with the forms" not in capsys.readouterr().out


def test_the_test_set_is_read_once_after_the_last_step(tmp_path, monkeypatch):
    parts_at = []
    load_part = train.load_part

    def watched(name, part, **where):
        parts_at.append((part, max(Checkpoints(tmp_path / "run" / "checkpoints").steps())))
        return load_part(name, part, **where)

    monkeypatch.setattr(train, "load_part", watched)
    train.train_and_evaluate(tiny_config(train__epochs=2), tmp_path / "run")
    assert parts_at == [("test", 8)]


@pytest.mark.ci
def test_selection_takes_the_best_or_the_last_parameters(tmp_path):
    for selection in ("best", "last"):
        summary = train.train_and_evaluate(
            tiny_config(selection=selection, schedule__learning_rate=0.02), tmp_path / selection
        )
        checkpoints = Checkpoints(tmp_path / selection / "checkpoints")
        best, last = checkpoints.best_step(), max(checkpoints.steps())
        assert summary["selected_step"] == {"best": best, "last": last}[selection]
        records = read_metrics(tmp_path / selection)
        losses = {r["step"]: r["loss"] for r in records if r["split"] == "validation"}
        assert best == min(losses, key=losses.__getitem__)
        assert summary["validation"]["loss"] == pytest.approx(
            losses[summary["selected_step"]], rel=1e-6
        )


@pytest.mark.ci
def test_the_best_parameters_may_be_those_of_the_highest_accuracy(tmp_path, capsys):
    config = tiny_config(selection_metric="accuracy", schedule__learning_rate=0.02)
    with pytest.MonkeyPatch.context() as patch:
        # So that the loss would choose another epoch: it grows while the accuracy does.
        patch.setattr(single_run.SingleRun, "_validate", with_accuracies([0.25, 0.75, 0.5]))
        summary = train.train_and_evaluate(config, tmp_path / "run")
    assert (summary["selection"], summary["selection_metric"]) == ("best", "accuracy")
    assert (summary["selected_step"], summary["steps"]) == (8, 12)
    assert load_predictor(tmp_path / "run").step == 8
    assert "best accuracy parameters (step 8)" in capsys.readouterr().out


def with_accuracies(accuracies):
    """A method that measures given accuracies, one for each epoch, and losses that grow."""
    each = iter(enumerate(accuracies, start=1))

    def validate(run):
        loss, accuracy = next(each)
        return {"loss": float(loss), "accuracy": accuracy, "error": 1.0 - accuracy}

    return validate


@pytest.mark.ci
def test_a_loss_that_is_not_finite_stops_the_run_with_its_numbers(tmp_path, monkeypatch):
    find, steps = single_run.find_non_finite, []

    def watched(config, built, variables, step, *arrays):
        steps.append(step)
        return find(config, built, variables, step, *arrays)

    monkeypatch.setattr(single_run, "find_non_finite", watched)
    config = tiny_config(schedule__learning_rate=1e30, schedule__name="constant")
    with pytest.raises(single_run.NonFiniteError) as failure:
        train.train_and_evaluate(config, tmp_path / "run")
    message = str(failure.value)
    for word in ("step", "loss", "margin", "reconstruction", "gradient_norm", "parameter_norm"):
        assert word in message
    record = json.loads((tmp_path / "run" / "failure.json").read_text())
    assert f"step {record['step']} " in message
    assert steps == [record["step"] - 1], "the steps before it"
    # Of weights of 1e30 two layers make numbers that float32 does not hold.
    assert record["origin"] == "the output of primary_layer/conv"
    assert "It began in the output of primary_layer/conv." in message
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("train__epochs", 0, "train.epochs is at least 1"),
        ("log__every_steps", 0, "log.every_steps is at least 1"),
        ("checkpoint__keep", 0, "checkpoint.keep is at least 1"),
        ("selection", "bets", "did you mean 'best'"),
        ("selection_metric", "accurcy", "did you mean 'accuracy'"),
        ("selection_metric", "dice", "selection_metric for classification 'dice'; known: accuracy"),
        ("train__batch_size", 1000, "train.batch_size is between 1 and the 128"),
        ("model__routing__name", "dinamic", "did you mean 'dynamic'"),
        ("model__conv__kernel_size", 9, "at least 9x9 pixels"),
        ("schedule__name", "cosinus", "did you mean 'cosine'"),
        ("data__validation_size", 0, "needs validation data: .* or --config.selection=last"),
    ],
)
def test_a_value_that_does_not_work_is_named_before_anything_is_written(
    tmp_path, field, value, message
):
    with pytest.raises(ValueError, match=message):
        train.train_and_evaluate(tiny_config(**{field: value}), tmp_path / "run")
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.ci
def test_a_full_disk_is_reported_and_the_run_resumes_when_there_is_room(tmp_path, monkeypatch):
    config = tiny_config()
    reference = tmp_path / "reference"
    train.train_and_evaluate(config, reference)
    save, calls = Checkpoints.save, []

    def full_at_the_second(self, *arguments):
        calls.append(arguments[0])
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        save(self, *arguments)

    monkeypatch.setattr(Checkpoints, "save", full_at_the_second)
    with pytest.raises(OSError, match="No space left"):
        train.train_and_evaluate(config, tmp_path / "run")
    train.train_and_evaluate(config, tmp_path / "run")
    assert_same_run(reference, tmp_path / "run")


@pytest.mark.ci
def test_a_damaged_checkpoint_costs_the_work_since_the_one_before(tmp_path, capsys):
    config = tiny_config(checkpoint__every_steps=4)
    train.train_and_evaluate(config, tmp_path / "reference")
    run = tmp_path / "run"
    train.train_and_evaluate(config, run)
    # As if the run had been killed after its last checkpoint, which the disk then spoiled.
    (run / "summary.json").unlink()
    for path in (run / "checkpoints" / "12" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    train.train_and_evaluate(config, run)
    assert "from step 8" in capsys.readouterr().out
    assert_same_run(tmp_path / "reference", run)


@pytest.mark.ci
def test_kill_9_in_mid_epoch_loses_nothing_but_time(tmp_path):
    """Killed twice, resumed, and bit for bit the uninterrupted run."""
    overrides = {**LONG, "train__epochs": 24}
    start(tmp_path / "reference", **overrides).communicate(timeout=600)
    run = tmp_path / "run"
    for step in (20, 60):
        process = start(run, **overrides)
        wait_for_steps(run, process, step)
        process.kill()
        process.communicate()
    process = start(run, **overrides)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert "resuming" in output
    assert_same_run(tmp_path / "reference", run)


@pytest.mark.ci
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        *(pytest.param(s, marks=pytest.mark.long) for s in (signal.SIGTERM, signal.SIGUSR1)),
    ],
)
def test_an_interrupt_saves_and_exits(tmp_path, number):
    process = start(tmp_path / "run", **LONG)
    wait_for_steps(tmp_path / "run", process, 10)
    process.send_signal(number)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + number, output
    assert "resumes" in output
    assert "Traceback" not in output
    saved = max(Checkpoints(tmp_path / "run" / "checkpoints").steps())
    assert f"saved step {saved}" in output
    assert saved >= read_metrics(tmp_path / "run")[-1]["step"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--config=FILE is missing"),
        (["--config=configs/none.py"], "configs/digits.py"),
        (["--config=configs/digits.py:papper"], "did you mean 'paper'"),
        (["--config=configs/digits.py", "--config.seeed=1"], 'Did you mean "seed"'),
        (["--config=configs/digits.py", "--wrkdir=x"], "workdir"),
        (["--config=configs/digits.py", "--config.train.epochs=many"], "epochs=many"),
    ],
)
@pytest.mark.ci
def test_a_wrong_flag_is_one_line_with_the_remedy(flags, message):
    done = subprocess.run(
        [sys.executable, "experiments/train.py", *flags], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_nothing_is_trained_from_parameters_without_their_optimizer(tmp_path):
    config = tiny_config()
    built = build(config, (8, 8, 1), 10, 128)
    write_json(tmp_path / "config.json", resolved(config))
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2, steps_per_epoch=4)
    checkpoints.save(4, built.init_state(0)._replace(step=np.int32(4)), {TESTED_ALONE: True}, 0.5)
    with pytest.raises(CheckpointError, match="step 4 has the tested parameters alone"):
        train.train_and_evaluate(config, tmp_path)
