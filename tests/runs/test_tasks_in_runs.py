"""Runs whose labels are several classes: trained, evaluated, predicted, and refused where wrong."""

import numpy as np
import pytest

from capsjax.commands import visualize
from capsjax.data import DataError, load_part
from capsjax.data.arrays import Arrays
from capsjax.runs.predictor import load_predictor
from capsjax.runs.train import train_and_evaluate
from capsjax.runs.writers import read_metrics
from tests.tiny import tiny_config


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Images of two bright quarters out of four, which are their labels."""
    rng = np.random.default_rng(0)
    labels = np.zeros((300, 4), np.int64)
    for row in labels:
        row[rng.choice(4, 2, replace=False)] = 1
    quarters = labels.reshape(-1, 2, 2).repeat(4, axis=1).repeat(4, axis=2)
    images = (200 * quarters + rng.integers(0, 50, quarters.shape)).astype(np.uint8)
    path = tmp_path_factory.mktemp("data") / "several.npz"
    np.savez(path, images=images, labels=labels)
    return path


def several_labels(file, **overrides):
    return tiny_config(
        data__name="npz",
        data__file=str(file),
        data__validation_size=0,
        data__train_size=0,
        selection="last",
        augment__max_shift=0,
        train__epochs=20,
        **{"task__name": "multilabel", "task__multilabel__count": 2, **overrides},
    )


@pytest.fixture(scope="module")
def finished(file, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "several"
    return workdir, train_and_evaluate(several_labels(file), workdir)


@pytest.mark.ci
def test_both_classes_of_an_image_are_found(finished, file):
    workdir, summary = finished
    assert summary["test"]["accuracy"] > 0.9, "chance is one in six"
    test = load_part("npz", "test", file=str(file))
    prediction = load_predictor(workdir).predict(test.images)
    assert prediction.labels.shape == (50, 4)
    assert (prediction.labels.sum(axis=1) == 2).all()
    correct = (prediction.labels == test.labels).all(axis=1).mean()
    assert correct == pytest.approx(summary["test"]["accuracy"])


@pytest.mark.ci
def test_curves_are_drawn_and_figures_of_one_class_are_not(finished, file):
    workdir, _ = finished
    test = load_part("npz", "test", file=str(file))
    drawn = visualize.draw(load_predictor(workdir), test, read_metrics(workdir), 10, np.zeros(1))
    assert [name for name, _ in drawn] == ["curves"]


def test_too_many_labels_are_refused_before_anything_is_written(file, tmp_path):
    config = several_labels(file, task__multilabel__count=5)
    with pytest.raises(ValueError, match=r"task.multilabel.count is at most 4 here"):
        train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_labels_of_another_task_are_refused_before_anything_is_written(file, tmp_path):
    config = several_labels(file, task__name="classification")
    with pytest.raises(ValueError, match=r"data have \(4,\): --config.task.name=multilabel"):
        train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_labels_of_any_other_shape_are_refused():
    images = np.zeros((3, 4, 5, 1), np.uint8)
    for shape in [(3,), (3, 2), (3, 4, 5)]:
        assert len(Arrays(images, np.zeros(shape, np.int32), 2)) == 3
    with pytest.raises(DataError, match=r"labels are int32 of shape \(3,\), \(3, 2\) for several"):
        Arrays(images, np.zeros((3, 4), np.int32), 2)
