"""Runs whose checkpoints are damaged by a bit: trained on, or refused with what is whole."""

import json
import shutil
import subprocess
import sys

import pytest

from capsjax.runs import pace, single_run, train
from capsjax.runs.checkpoint import CheckpointError, Checkpoints
from capsjax.runs.predictor import load_predictor
from capsjax.runs.writers import read_metrics
from tests.run_processes import assert_same_run
from tests.tiny import ROOT, tiny_config

pytestmark = pytest.mark.ci

# Ends worse than it was: the best epoch is one in the middle. Each of six epochs has four steps.
OVERRIDES = {"train__epochs": 6, "checkpoint__every_steps": 4, "schedule__learning_rate": 0.1}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    return workdir, train.train_and_evaluate(tiny_config(**OVERRIDES), workdir)


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the run, its best step, and a function that flips a bit of a step's arrays."""
    workdir, summary = finished
    shutil.copytree(workdir, tmp_path / "run")

    def flip(step):
        folder = tmp_path / "run" / "checkpoints" / str(step) / "state" / "ocdbt.process_0" / "d"
        largest = max(folder.iterdir(), key=lambda path: path.stat().st_size)
        data = bytearray(largest.read_bytes())
        data[len(data) // 2] ^= 4
        largest.write_bytes(data)
        return largest.name

    return tmp_path / "run", summary["selected_step"], flip


def test_the_best_epoch_is_neither_the_last_nor_the_one_before(finished):
    workdir, summary = finished
    assert Checkpoints(workdir / "checkpoints", 2).steps() == [summary["selected_step"], 20, 24]


def test_a_flipped_bit_in_the_last_costs_its_epoch_and_nothing_else(run, finished, caplog):
    workdir, _, flip = run
    (workdir / "summary.json").unlink()
    name = flip(24)
    again = train.train_and_evaluate(tiny_config(**OVERRIDES), workdir)
    (line,) = [each.getMessage() for each in caplog.records if "damaged" in each.getMessage()]
    assert f"damaged: state/ocdbt.process_0/d/{name} is not what was saved" in line
    assert line.endswith("going on from step 20: epoch 6 is trained again")
    assert_same_run(finished[0], workdir)
    assert again["test"] == finished[1]["test"]


def test_a_flipped_bit_in_the_best_does_not_keep_a_run_from_its_end(run, caplog):
    workdir, best, flip = run
    (workdir / "summary.json").unlink()
    flip(best)
    summary = train.train_and_evaluate(tiny_config(**OVERRIDES), workdir)
    losses = {x["step"]: x["loss"] for x in read_metrics(workdir) if x["split"] == "validation"}
    assert summary["selected_step"] == min((20, 24), key=losses.get)
    assert f"were the best so far (validation loss {losses[best]:.4g}) and are lost" in caplog.text
    assert (workdir / "checkpoints_damaged" / str(best)).is_dir()


def test_the_predictor_refuses_a_flipped_bit_and_offers_what_is_whole(run):
    workdir, best, flip = run
    name = flip(best)
    for checkpoint in ("selected", "best", str(best)):
        with pytest.raises(CheckpointError) as refused:
            load_predictor(workdir, checkpoint)
        assert f"step {best} in {workdir / 'checkpoints'} is damaged: " in str(refused.value)
        assert f"/{name} is not what was saved" in str(refused.value)
        assert str(refused.value).endswith("Whole instead: --checkpoint=20 or --checkpoint=24")
    assert load_predictor(workdir, "20").step == 20
    flip(20)
    flip(24)
    with pytest.raises(CheckpointError, match="No other checkpoint is whole: train anew"):
        load_predictor(workdir)


@pytest.mark.ci
@pytest.mark.parametrize("command", ["evaluate", "visualize"])
def test_commands_refuse_a_flipped_bit_in_one_line(run, command):
    workdir, best, flip = run
    flip(best)
    done = subprocess.run(
        [sys.executable, f"experiments/{command}.py", f"--workdir={workdir}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: the checkpoint of step {best} in ")
    assert "Whole instead: --checkpoint=20" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (workdir / "evaluation").exists()


def test_the_best_epoch_that_was_not_saved_yet_is_kept_when_a_run_diverges(tmp_path, monkeypatch):
    config = tiny_config(
        schedule__name="staged", schedule__stage_factors=(1.0, 1e30), schedule__stage_ends=(2,)
    )
    monkeypatch.setattr(pace.SaveClock, "due", lambda *_: pace.Due.NO)
    with pytest.raises(single_run.NonFiniteError, match=r"The last checkpoint is of step [48]"):
        train.train_and_evaluate(config, tmp_path / "run")
    records = read_metrics(tmp_path / "run")
    losses = {x["step"]: x["loss"] for x in records if x["split"] == "validation"}
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    assert checkpoints.validation_values() == {min(losses, key=losses.get): min(losses.values())}
    assert json.loads((tmp_path / "run" / "failure.json").read_text())["step"] > 8
