"""Small and imbalanced own data: trained, tested and described, class by class."""

import dataclasses
import json

import numpy as np
import pytest

from capsjax import data
from capsjax.commands import evaluate
from capsjax.config import load_config
from capsjax.data import Arrays, load_part, load_training
from capsjax.runs import train
from capsjax.runs.choices import with_choices_of_run
from capsjax.runs.files import WorkdirError, read_json
from capsjax.runs.predictor import load_predictor
from capsjax.runs.train import train_and_evaluate
from capsjax.runs.workdir import read_config
from capsjax.sweeps.grid import levels_of, make_sweep
from capsjax.sweeps.run import run_sweep
from capsjax.training.build import build
from tests.npz_digits import DIGITS
from tests.tiny import OVERRIDES

pytestmark = pytest.mark.ci

COUNTS = (60, 25, 10, 5)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    chosen = np.concatenate(
        [np.flatnonzero(DIGITS.labels == label)[:count] for label, count in enumerate(COUNTS)]
    )
    path = tmp_path_factory.mktemp("data") / "own.npz"
    np.savez(path, images=DIGITS.images[chosen], labels=DIGITS.labels[chosen])
    return path


def own_config(file, **changes):
    """configs/npz.py with a tiny network for 8x8 pixels."""
    sizes = {name: OVERRIDES[name] for name in OVERRIDES if name.startswith(("model.", "log."))}
    kernels = {f"model.{layer}.kernel_size": 3 for layer in ("conv", "primary_caps")}
    config = load_config("npz")
    with config.unlocked():
        config.update_from_flattened_dict(
            {
                **sizes,
                **kernels,
                "data.file": str(file),
                "train.epochs": 2,
                "class_weights": "balanced",
                **{name.replace("__", "."): value for name, value in changes.items()},
            }
        )
    return config.lock()


@pytest.fixture(scope="module")
def finished(file, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "own"
    return workdir, train_and_evaluate(own_config(file), workdir)


def test_every_class_is_trained_and_tested(finished, file):
    training, validation = load_training(**read_config(finished[0]).data)
    test = load_part("npz", "test", file=str(file))
    for part in (training, validation, test):
        assert part.classes().tolist() == [0, 1, 2, 3]
    assert finished[1]["test"]["num_examples"] == len(test) == 16
    assert finished[1]["test"]["majority_accuracy"] == np.mean(test.labels == 0)


def test_a_test_part_that_knows_of_fewer_classes_is_scored_with_all(file, tmp_path, monkeypatch):
    def load(part, dir, file):
        found = load_part("npz", part, file=file)
        # The commonest class, which a network of one epoch predicts, is the last one.
        found = dataclasses.replace(found, labels=3 - found.labels)
        kept = found.labels < 2
        few = Arrays(found.images[kept], found.labels[kept], num_classes=2)
        return found if part == "train" else few

    monkeypatch.setattr(data, "SOURCES", dict(data.SOURCES))
    data.register("few", load)
    config = own_config(file, data__name="few", class_weights="none", train__epochs=1)
    summary = train_and_evaluate(config, tmp_path)["test"]
    predictor, test = load_predictor(tmp_path), load("test", "", str(file))
    predictions = predictor.predict(test.images).labels
    assert predictions.max() >= 2
    recalls = [np.mean(predictions[test.labels == k] == k) for k in (0, 1)]
    assert summary["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert summary["num_errors"] == np.sum(predictions != test.labels)


def test_what_the_data_decide_is_recorded_and_kept(finished, file, capsys):
    workdir, summary = finished
    stored = read_json(workdir / "config.json")
    assert stored["train"]["batch_size"] == 8
    weights = [float(weight) for weight in stored["class_weights"].split(",")]
    assert weights == sorted(weights)
    again = with_choices_of_run(workdir, own_config(file))
    assert again.class_weights == stored["class_weights"]
    assert again.train.batch_size == 8
    capsys.readouterr()
    assert train_and_evaluate(own_config(file), workdir) == summary
    out = capsys.readouterr().out
    assert "goes on with train.batch_size=8, with which it began" in out
    assert "always the commonest class" in out
    with pytest.raises(WorkdirError, match=r"class_weights: '.*' there, 'none' here"):
        train_and_evaluate(own_config(file, class_weights="none"), workdir)


def test_weights_are_part_of_the_objective(finished):
    weights = load_predictor(finished[0]).objective.class_weights
    assert len(weights) == 4
    assert weights[3] > 5 * weights[0]


def test_an_evaluation_has_the_numbers_of_classes(finished, file):
    predictor, test = load_predictor(finished[0]), load_part("npz", "test", file=str(file))
    folder = finished[0] / "evaluation" / "x"
    result = evaluate.evaluate(predictor, test.images, test.labels, folder, "title")
    assert json.loads((folder / "evaluation.json").read_text()) == result
    for name in ("balanced_accuracy", "macro_f1", "majority_accuracy"):
        assert result[name] == pytest.approx(finished[1]["test"][name])
    recalls = result["per_class_accuracy"]
    assert result["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert len(result["per_class_precision"]) == len(result["per_class_f1"]) == 4


def test_old_runs_keep_their_split(finished, file, capsys):
    workdir, _ = finished
    stored = read_json(workdir / "config.json")
    stored["data"]["split"] = "shuffled"
    try:
        (workdir / "config.json").write_text(json.dumps(stored))
        assert with_choices_of_run(workdir, own_config(file)).data.split == "shuffled"
        assert "goes on with data.split=shuffled" in capsys.readouterr().out
    finally:
        stored["data"]["split"] = "auto"
        (workdir / "config.json").write_text(json.dumps(stored))


def test_what_does_not_suit_the_data_is_printed_before_training(file, capsys):
    config = own_config(file, data__split="shuffled", data__split_seed=3)
    training, validation = load_training(**config.data)
    large = dataclasses.replace(training, images=np.zeros((len(training), 96, 96, 1), np.uint8))
    wide = own_config(file, model__primary_caps__types=8, train__batch_size=8, class_weights="none")
    built = build(wide, large.image_shape, large.num_classes, len(large))
    rare = training.take(np.flatnonzero(training.labels != 1))
    train._warn(wide, built, rare, validation)
    lines = capsys.readouterr().out.splitlines()
    assert "primary capsules, each with a matrix for each class" in lines[0]
    assert lines[1] == "warning: validation images have classes that no training image has: 1"
    assert len(lines) == 2


@pytest.mark.ci
@pytest.mark.parametrize("form", ["map", "vmap"])
def test_members_of_a_population_have_the_same_weights_and_numbers(file, tmp_path, form):
    base = own_config(file, log__tensorboard=False)
    factors = {"rate": levels_of("schedule.learning_rate", (1e-3, 3e-3))}
    sweep = make_sweep("own", base, factors, num_seeds=1)
    statuses = run_sweep(sweep, tmp_path / "sweep", form=form)
    alone = train_and_evaluate(base, tmp_path / "alone")
    assert [status.name for status in statuses] == ["finished", "finished"]
    member = statuses[0].summary
    assert member["validation"]["loss"] == pytest.approx(alone["validation"]["loss"], rel=1e-3)
    assert member["test"]["majority_accuracy"] == alone["test"]["majority_accuracy"]
    (config,) = {
        path.read_text().partition('"class_weights": "')[2].partition('"')[0]
        for path in (tmp_path / "sweep" / "trials").glob("*/config.json")
    }
    assert config == read_json(tmp_path / "alone" / "config.json")["class_weights"]
