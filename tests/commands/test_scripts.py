"""evaluate.py, visualize.py and the predictor, on a run that is really trained."""

import json

import numpy as np
import pytest
from matplotlib.image import imread

from capsjax.commands import evaluate, visualize
from capsjax.data import load_part
from capsjax.runs import train
from capsjax.runs.predictor import load_predictor
from capsjax.runs.writers import read_metrics
from tests.tiny import tiny_config, tiny_convnet_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "run"
    return workdir, train.train_and_evaluate(tiny_config(), workdir)


@pytest.fixture(scope="module")
def predictor(run):
    return load_predictor(run[0])


@pytest.fixture(scope="module")
def convnet_run(tmp_path_factory):
    """A network without capsules."""
    workdir = tmp_path_factory.mktemp("runs") / "convnet"
    return workdir, train.train_and_evaluate(tiny_convnet_config(), workdir)


@pytest.fixture(scope="module")
def test_part():
    return load_part("digits", "test")


def assert_is_a_picture(path):
    pixels = imread(path)
    assert min(pixels.shape[:2]) > 100
    assert pixels.std() > 0.01, f"{path} is blank"


@pytest.mark.slow
def test_evaluation_agrees_with_the_summary_and_with_itself(run, predictor, test_part, tmp_path):
    result = evaluate.evaluate(predictor, test_part.images, test_part.labels, tmp_path, "title")
    assert result == json.loads((tmp_path / "evaluation.json").read_text())
    assert result["num_errors"] == run[1]["test"]["num_errors"]
    assert result["accuracy"] == pytest.approx(run[1]["test"]["accuracy"])

    matrix = np.array(result["confusion_matrix"])
    assert matrix.sum() == result["num_examples"] == 360
    assert matrix.sum() - matrix.trace() == result["num_errors"]
    np.testing.assert_array_equal(matrix.sum(axis=1), np.bincount(test_part.labels))
    recalls = np.diag(matrix) / matrix.sum(axis=1)
    np.testing.assert_allclose(result["per_class_accuracy"], recalls)

    with np.load(tmp_path / "predictions.npz") as file:
        np.testing.assert_array_equal(file["labels"], test_part.labels)
        np.testing.assert_array_equal(file["predictions"], file["scores"].argmax(axis=1))
        assert (file["predictions"] != file["labels"]).sum() == result["num_errors"]
    for name in ("confusion.png", "mistakes.png"):
        assert_is_a_picture(tmp_path / name)


@pytest.mark.parametrize(
    ("count", "shown", "title"),
    [
        (0, 0, "Mistakes"),
        (1, 1, "The only mistake"),
        (3, 3, "All 3 mistakes"),
        (12, 10, "The 10 most confident of 12 mistakes"),
    ],
)
def test_the_figure_of_mistakes_tells_how_many_it_shows(count, shown, title):
    assert evaluate._describe_mistakes(count, shown) == title


@pytest.mark.slow
def test_evaluation_without_a_mistake_draws_all_the_same(predictor, test_part, tmp_path):
    right = predictor.predict(test_part.images).labels == test_part.labels
    images, labels = test_part.images[right], test_part.labels[right]
    result = evaluate.evaluate(predictor, images, labels, tmp_path, "title")
    assert result["num_errors"] == 0
    assert_is_a_picture(tmp_path / "mistakes.png")


@pytest.mark.ci
def test_a_network_without_capsules_is_evaluated_and_drawn(convnet_run, test_part, tmp_path):
    workdir, summary = convnet_run
    predictor = load_predictor(workdir)
    result = evaluate.evaluate(predictor, test_part.images, test_part.labels, tmp_path, "title")
    assert result["num_errors"] == summary["test"]["num_errors"]
    assert_is_a_picture(tmp_path / "mistakes.png")

    drawn = dict(visualize.draw(predictor, test_part, read_metrics(workdir), 12, np.zeros(2)))
    assert set(drawn) == {"curves"}
    assert [axis.get_ylabel() for axis in drawn["curves"].axes] == ["loss", "error (%)"]
    prediction = predictor.predict(test_part.images[:3])
    assert prediction.poses is None
    assert prediction.reconstruction is None
    with pytest.raises(ValueError, match="without capsules"):
        predictor.decode(np.zeros((1, 10, 4)), np.zeros(1, int))


@pytest.mark.ci
def test_every_figure_is_drawn(run, predictor, test_part, tmp_path):
    drawn = {}
    offsets = np.linspace(-0.25, 0.25, 3)
    for name, figure in visualize.draw(predictor, test_part, read_metrics(run[0]), 12, offsets):
        figure.savefig(tmp_path / f"{name}.png")
        drawn[name] = tmp_path / f"{name}.png"
    classes = {f"poses_class_{label}" for label in range(10)}
    assert drawn.keys() == {"curves", "couplings", "reconstructions", "poses", *classes}
    for path in drawn.values():
        assert_is_a_picture(path)


@pytest.mark.slow
def test_moved_poses_without_a_move_are_the_reconstruction(predictor, test_part):
    images, labels = test_part.images[:5], test_part.labels[:5]
    decoded = visualize.move_poses(predictor, images, labels, np.array([-0.2, 0.0, 0.2]))
    assert decoded.shape == (5, 4, 3, 8, 8, 1)
    plain = predictor.decode(np.asarray(predictor.forward(images).poses), labels)
    for dimension in range(4):
        np.testing.assert_allclose(decoded[:, dimension, 1], plain, atol=1e-6)
    # Each dimension is moved alone, and the other way the other way.
    assert np.abs(decoded[:, :, 0] - decoded[:, :, 2]).max() > 1e-4


@pytest.mark.slow
def test_predictions_do_not_depend_on_the_batch(predictor, test_part):
    whole = predictor.predict(test_part.images[:23])
    in_parts = predictor.predict(test_part.images[:23], batch_size=10)
    one = predictor.predict(test_part.images[:1])
    assert whole.labels.shape == (23,)
    assert one.reconstruction.shape == (1, 8, 8, 1)
    np.testing.assert_array_equal(whole.labels, in_parts.labels)
    np.testing.assert_allclose(whole.scores, in_parts.scores, atol=1e-5)
    np.testing.assert_allclose(whole.scores[:1], one.scores, atol=1e-5)


def test_predictor_takes_bytes_and_fractions_alike(predictor, test_part):
    images = test_part.images[:4]
    as_bytes, as_floats = predictor.predict(images), predictor.predict(images / 255.0)
    np.testing.assert_allclose(as_bytes.scores, as_floats.scores, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 9, 8, 1)), r"images of shape \(n, 8, 8, 1\), not \(2, 9, 8, 1\)"),
        (np.zeros((8, 8, 1)), "images of shape"),
        (np.zeros((2, 8, 8, 1), np.int64), "uint8 or floating point, not int64"),
        (np.zeros((0, 8, 8, 1)), "no images"),
    ],
)
def test_predictor_refuses_other_images(predictor, images, message):
    with pytest.raises(ValueError, match=message):
        predictor.predict(images)


def test_checkpoints_by_name_and_step(run):
    workdir, summary = run
    assert load_predictor(workdir).step == summary["selected_step"]
    assert load_predictor(workdir, "last").step == 12
    assert load_predictor(workdir, "12").step == 12
    with pytest.raises(ValueError, match="unknown checkpoint"):
        load_predictor(workdir, "11")


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(ValueError, match="no run in"):
        load_predictor(tmp_path)
