"""A run that version 0.1 made, before components had their own settings: read, evaluated, resumed.

It has two epochs of a tiny network on 128 digits, with two rounds of routing.
"""

import zipfile

import numpy as np
import pytest

from capsjax.config import load_config
from capsjax.data import load_part
from capsjax.runs.checkpoint import CheckpointError, Restored
from capsjax.runs.data_record import read_data
from capsjax.runs.files import read_json
from capsjax.runs.predictor import load_predictor
from capsjax.runs.train import forms_at_start, train_and_evaluate
from capsjax.runs.workdir import WorkdirError, read_config
from tests.tiny import ROOT


@pytest.fixture
def workdir(tmp_path):
    with zipfile.ZipFile(ROOT / "tests" / "runs" / "old" / "version-0.1.zip") as file:
        file.extractall(tmp_path / "run")
    return tmp_path / "run"


def same_config(**changes):
    """The config that it was started with, as it is written now."""
    config = load_config("digits")
    with config.unlocked():
        config.update_from_flattened_dict(
            {
                "data.train_size": 128,
                "data.validation_size": 50,
                "model.conv.features": 4,
                "model.primary_caps.types": 2,
                "model.class_caps.pose_size": 4,
                "model.decoder.hidden": (8,),
                "model.routing.dynamic.num_iterations": 2,
                "train.batch_size": 32,
                "train.epochs": 2,
                "log.tensorboard": False,
                "checkpoint.keep": 1,
                **changes,
            }
        )
    return config


@pytest.mark.slow
def test_its_network_predicts_what_it_did(workdir):
    assert "routing" in read_json(workdir / "config.json")["model"]
    assert read_json(workdir / "config.json")["model"]["routing"]["num_iterations"] == 2
    assert read_config(workdir).model.routing.dynamic.num_iterations == 2
    test = load_part("digits", "test")
    prediction = load_predictor(workdir).predict(test.images)
    errors = int(np.sum(prediction.labels != test.labels))
    assert errors == read_json(workdir / "summary.json")["test"]["num_errors"]


@pytest.mark.ci
def test_it_resumes_with_the_same_config_and_refuses_another(workdir):
    summary = read_json(workdir / "summary.json")
    (workdir / "summary.json").unlink()
    other = same_config(**{"model.routing.dynamic.num_iterations": 3})
    with pytest.raises(WorkdirError, match=r"model\.routing\.dynamic\.num_iterations: 2 there, 3"):
        train_and_evaluate(other, workdir)
    again = train_and_evaluate(same_config(), workdir)
    assert again["steps"] == summary["steps"]
    assert again["test"]["num_errors"] == summary["test"]["num_errors"]
    assert again["validation"]["loss"] == pytest.approx(summary["validation"]["loss"], rel=1e-5)
    # Its data are its own from now on.
    assert read_data(workdir).keys() == {"training", "validation", "test"}
    assert read_data(workdir)["test"] == load_part("digits", "test").fingerprint()


def test_it_is_read_without_checksums_which_is_reported_once(workdir, caplog):
    for _ in range(2):
        assert load_predictor(workdir).step == 8
    lines = [each.getMessage() for each in caplog.records if "checksums" in each.getMessage()]
    assert lines == [
        f"{workdir / 'checkpoints'} holds a checkpoint of an earlier version, without checksums: "
        "damage to its arrays would go unnoticed"
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("metrics/metrics", "metrics/metrics cannot be read"),
        ("notes/metadata", "notes/metadata cannot be read"),
        ("state/_METADATA", "is damaged or belongs to another network"),
    ],
)
def test_half_of_one_of_its_files_is_refused(workdir, name, message):
    path = workdir / "checkpoints" / "8" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=f"step 8 in .*{message}"):
        load_predictor(workdir, "best")


def test_a_network_that_had_one_form_of_votes_goes_on_in_it():
    notes = {"forms": {"conv": "lax", "dtype": "float32"}, "backend": "cpu"}
    chosen = {"conv": "lax", "votes": "recomputed", "dtype": "float32"}
    assert forms_at_start(Restored(1, None, notes), chosen) == {**chosen, "votes": "held"}
    del chosen["votes"]
    assert forms_at_start(Restored(1, None, notes), chosen) == notes["forms"]
    assert notes["forms"].keys() == {"conv", "dtype"}
