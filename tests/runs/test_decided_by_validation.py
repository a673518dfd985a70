"""Runs whose learning rate and end depend on validation: logged, resumed, and refused."""

import itertools
import logging
import signal

import jax
import numpy as np
import pytest

from capsjax.commands import report
from capsjax.config import make_config
from capsjax.runs import pace, train
from capsjax.runs.checkpoint import Checkpoints
from capsjax.runs.writers import read_metrics
from capsjax.sweeps import levels_of, make_sweep
from capsjax.sweeps.run import run_sweep
from tests.run_processes import assert_same_run
from tests.tiny import tiny_config

# No epoch but the first is better by so much: the rate is halved after each other one.
HALVED = {
    "schedule__name": "plateau",
    "schedule__learning_rate": 2e-3,
    "schedule__floor": 4e-4,
    "schedule__plateau__factor": 0.5,
    "schedule__plateau__patience": 1,
    "schedule__plateau__min_improvement": 10.0,
    "train__epochs": 6,
}


def rates_by_epoch(workdir):
    records = [each for each in read_metrics(workdir) if each["split"] == "train"]
    return {each["epoch"]: each["learning_rate"] for each in records if each["epoch"] % 1 == 0}


def losses_by_epoch(workdir):
    return [each["loss"] for each in read_metrics(workdir) if each["split"] == "validation"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (HALVED, "schedule.name=plateau needs validation data: .* or schedule.name=constant"),
        ({"train__patience": 3}, "train.patience=3 needs validation data: .* or train.patience=0"),
    ],
)
def test_without_validation_data_they_are_refused(changes, message):
    config = tiny_config(selection="last", data__validation_size=0, **changes)
    with pytest.raises(ValueError, match=message):
        train.check_config(config)
    train.check_config(tiny_config(**changes))


def test_a_sweep_refuses_them_before_anything_is_written(tmp_path):
    base = tiny_config(**HALVED, train__patience=3)
    sweep = make_sweep("plateau", base, {"rate": levels_of("schedule.floor", (0.0,))}, num_seeds=1)
    with pytest.raises(ValueError, match=r"single runs.*base\.schedule\.name=constant --config"):
        run_sweep(sweep, tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.ci
def test_the_rate_falls_without_another_compilation_and_is_logged(tmp_path, caplog, capsys):
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        train.train_and_evaluate(tiny_config(**HALVED), tmp_path / "run")
    messages = [each.getMessage() for each in caplog.records if "Compiling" in each.getMessage()]
    assert len([message for message in messages if "train_steps" in message]) == 1
    assert len([message for message in messages if "next_memory" in message]) == 1
    found = rates_by_epoch(tmp_path / "run")
    assert list(found) == [1, 2, 3, 4, 5, 6]
    expected = [2e-3, 2e-3, 1e-3, 5e-4, 4e-4, 4e-4]
    np.testing.assert_allclose(list(found.values()), expected, rtol=1e-6)
    said = capsys.readouterr().out
    assert "epoch 2: no better validation loss" in said
    assert "patience=1), learning rate 0.001 instead of 0.002" in said
    assert said.count("no better validation loss") == 3, "not where the floor is reached"


@pytest.mark.ci
def test_a_run_that_is_killed_has_the_same_rates_bit_for_bit(tmp_path, monkeypatch):
    config = tiny_config(**HALVED, train__patience=4, checkpoint__every_steps=3)
    train.train_and_evaluate(config, tmp_path / "whole")
    calls, stops = itertools.count(1), 0

    def interrupted(steps, due, _):
        return steps, due, 0 if next(calls) % 5 else signal.SIGTERM

    monkeypatch.setattr(pace, "agree", interrupted)
    while not (tmp_path / "cut" / "summary.json").exists():
        try:
            train.train_and_evaluate(config, tmp_path / "cut")
        except SystemExit:
            stops += 1
    assert stops >= 2
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert list(rates_by_epoch(tmp_path / "cut").values())[-1] < 5e-4
    last = Checkpoints(tmp_path / "cut" / "checkpoints").notes()
    assert last["early_stopping"]["best"] == min(losses_by_epoch(tmp_path / "cut"))


@pytest.mark.ci
def test_training_ends_early_and_says_so(tmp_path, capsys):
    # Without a rate nothing improves after the first epoch.
    config = tiny_config(
        train__epochs=6, train__patience=2, schedule__learning_rate=0.0, schedule__name="constant"
    )
    summary = train.train_and_evaluate(config, tmp_path / "run")
    assert (summary["epochs"], summary["steps"], summary["selected_step"]) == (3, 12, 4)
    losses = losses_by_epoch(tmp_path / "run")
    assert len(losses) == 3
    assert summary["early_stopping"] == {
        "metric": "loss",
        "best": losses[0],
        "best_epoch": 1,
        "epochs_since": 2,
        "ended": True,
    }
    said = capsys.readouterr().out
    assert "training ends after epoch 3 (validation loss at its best" in said
    assert "of training, which ended after epoch 3 (validation loss at its best" in said
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps()[-1] == 12
    assert "after 3 epochs of training" in report.write_run_page(tmp_path / "run").read_text()

    # As if it had been killed before its results were written.
    (tmp_path / "run" / "summary.json").unlink()
    again = train.train_and_evaluate(config, tmp_path / "run")
    assert again == summary
    longer = config.copy_and_resolve_references()
    longer.train.epochs = 9
    extended = train.train_and_evaluate(longer, tmp_path / "run")
    assert (extended["steps"], extended["test"]) == (12, summary["test"])
    assert len(losses_by_epoch(tmp_path / "run")) == 3
    assert "its training has ended early" in capsys.readouterr().out


@pytest.mark.ci
def test_of_maps_the_dice_coefficient_decides(tmp_path):
    config = make_config("unet")
    config.update_from_flattened_dict(
        {
            "data.shapes.height": 8,
            "data.shapes.width": 10,
            "data.shapes.count": 24,
            "data.shapes.test_count": 6,
            "data.validation_size": 8,
            "model.conv.features": (2,),
            "model.compute.conv": "lax",
            "schedule.name": "plateau",
            "schedule.learning_rate": 0.0,
            "schedule.plateau.patience": 1,
            "train.batch_size": 4,
            "train.epochs": 4,
            "train.patience": 3,
            "evaluate.batch_size": 4,
            "log.tensorboard": False,
        }
    )
    summary = train.train_and_evaluate(config, tmp_path / "run")
    assert summary["early_stopping"]["metric"] == "dice"
    assert summary["early_stopping"]["best"] == pytest.approx(summary["validation"]["dice"])
    assert summary["epochs"] == 4
