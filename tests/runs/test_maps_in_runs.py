"""Runs on maps of labels: trained, resumed, evaluated, drawn, and what they refuse."""

import json

import jax
import numpy as np
import pytest

from capsjax.commands import evaluate, report, visualize
from capsjax.config import make_config
from capsjax.data import load_part, load_training, source_of
from capsjax.data.augment import Augmentation
from capsjax.plots import figures
from capsjax.runs.data_record import check_data, fingerprints
from capsjax.runs.files import WorkdirError
from capsjax.runs.predictor import load_predictor
from capsjax.runs.train import train_and_evaluate
from capsjax.runs.writers import read_metrics
from capsjax.sweeps.measures import measure_runs
from capsjax.training.steps import Batches

pytestmark = pytest.mark.ci

TINY = {
    "data.shapes.height": 8,
    "data.shapes.width": 10,
    "data.shapes.count": 24,
    "data.shapes.test_count": 6,
    "data.shapes.classes": 3,
    "data.validation_size": 8,
    # Without a level below: most of the time is compilation.
    "model.conv.features": (2,),
    "model.compute.conv": "lax",
    "train.batch_size": 4,
    "train.epochs": 2,
    "evaluate.batch_size": 4,
    "log.tensorboard": False,
}


def tiny_config(**overrides):
    config = make_config("unet")
    config.update_from_flattened_dict({**TINY, **overrides})
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "maps"
    return workdir, train_and_evaluate(tiny_config(), workdir)


def part_for_testing():
    return load_part(part="test", **source_of(tiny_config().data))


@pytest.mark.ci
def test_its_page_has_dice_coefficients_and_maps(finished):
    workdir, summary = finished
    text = report.write_run_page(workdir).read_text()
    assert f"<strong>Dice {summary['test']['dice']:.4f}</strong>" in text
    for heading in ("The lowest Dice coefficients", "Test images and their maps"):
        assert f"<h2>{heading}</h2>" in text
    assert "in numbers of pixels" in text
    assert "Pose study" not in text


def test_the_run_reports_dice(finished, capsys):
    workdir, summary = finished
    predictor, test = load_predictor(workdir), part_for_testing()
    prediction = predictor.predict(test.images)
    assert prediction.labels.shape == (6, 8, 10)
    assert prediction.poses is None
    found = []
    for predicted, labels in zip(prediction.labels, test.labels, strict=True):
        pairs = [(predicted == k, labels == k) for k in (1, 2)]
        of_classes = [2 * (p & t).sum() / (p.sum() + t.sum()) for p, t in pairs if (p | t).any()]
        found.append(np.mean(of_classes) if of_classes else 1.0)
    assert summary["test"]["dice"] == pytest.approx(np.mean(found), abs=1e-6)
    shares = (prediction.labels == test.labels).mean()
    assert summary["test"]["accuracy"] == pytest.approx(shares, abs=1e-6)
    assert "num_errors" not in summary["test"]
    records = read_metrics(workdir)
    assert all("dice" in record for record in records)
    train_and_evaluate(tiny_config(), workdir)
    assert f"of the pixels, Dice {summary['test']['dice']:.4f}, of 6" in capsys.readouterr().out


def test_evaluation_counts_pixels(finished, tmp_path):
    workdir, summary = finished
    predictor, test = load_predictor(workdir), part_for_testing()
    result = evaluate.evaluate_maps(
        predictor, test.images, test.labels, tmp_path / "evaluation", "title", 3
    )
    assert result["dice"] == pytest.approx(summary["test"]["dice"], abs=1e-6)
    matrix = np.array(result["confusion_matrix"])
    assert matrix.sum() == 6 * 8 * 10
    np.testing.assert_array_equal(matrix.sum(axis=1), np.bincount(test.labels.ravel()))
    assert json.loads((tmp_path / "evaluation/evaluation.json").read_text()) == result
    saved = np.load(tmp_path / "evaluation/predictions.npz")
    assert np.array_equal(saved["labels"], test.labels)
    files = {path.name for path in (tmp_path / "evaluation").iterdir()}
    assert files == {"evaluation.json", "confusion.png", "mistakes.png", "predictions.npz"}


def test_maps_are_drawn_and_figures_of_one_class_are_not(finished, capsys):
    workdir, _ = finished
    predictor = load_predictor(workdir)
    drawn = visualize.draw(predictor, part_for_testing(), read_metrics(workdir), 4, np.zeros(1))
    assert [name for name, _ in drawn] == ["curves", "maps"]
    assert "one class for each image alone" in capsys.readouterr().out


def test_a_figure_has_a_row_for_each_map():
    labels = np.array([[[0, 1], [2, 2]]])
    images = np.zeros((1, 2, 2, 1))
    figure = figures.maps(images, labels, 0 * labels, images, np.array([0.25]), "title")
    shown = [axis.get_images()[0].get_array() for axis in figure.axes]
    assert len(shown) == 4
    assert figure.axes[2].get_title() == "Dice 0.25"
    # A colour for each class, the background in grey, as in the empty prediction.
    assert len(np.unique(shown[1].reshape(-1, 3), axis=0)) == 3
    np.testing.assert_array_equal(shown[1][0, 0], shown[2][1, 1])


def test_other_shapes_are_not_the_data_of_the_run(finished):
    workdir, _ = finished
    other = tiny_config(**{"data.shapes.seed": 1})
    training, _ = load_training(**other.data)
    with pytest.raises(WorkdirError, match="the training recipe differ"):
        check_data(workdir, fingerprints(training=training))


def test_networks_for_maps_are_not_measured(finished):
    with pytest.raises(ValueError, match="data with one class for each image"):
        next(measure_runs([finished[0]]))


def test_a_map_moves_with_its_image():
    labels = np.random.default_rng(0).integers(1, 4, (4, 6, 7), np.int32)
    images = labels[..., None].astype(np.uint8)
    batches = Batches(seed=0, batch_size=4, augmentation=Augmentation(max_shift=2))
    moved, maps, _ = jax.jit(batches.take)(np.arange(4), 0, images, labels)
    np.testing.assert_array_equal(np.round(255 * moved[..., 0]), maps)
    assert (maps == 0).any()
    assert not np.array_equal(maps, labels)


@pytest.mark.ci
def test_segcaps_trains_and_its_decoder_is_drawn(tmp_path):
    config = make_config("segcaps,small")
    same = {name: value for name, value in TINY.items() if not name.startswith("model")}
    config.update_from_flattened_dict({**same, "model.compute.conv": "lax"})
    summary = train_and_evaluate(config, tmp_path / "run")
    # Those of the small network, and 72 and 512 for a second class.
    assert summary["num_parameters"] == 70_249 + 72 + 512
    assert set(summary["test"]) > {"dice", "binary_cross_entropy", "reconstruction"}
    predictor = load_predictor(tmp_path / "run")
    drawn = dict(visualize.draw(predictor, part_for_testing(), [], 2, np.zeros(1)))
    assert len(drawn["maps"].axes) == 8
