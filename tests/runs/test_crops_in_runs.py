"""A run whose network crops its images is evaluated on 13 crops."""

import json

import numpy as np
import pytest

from capsjax.commands import evaluate
from capsjax.config import make_config
from capsjax.layers.image_input import MOVES
from capsjax.runs.predictor import load_predictor
from capsjax.runs.train import train_and_evaluate
from tests.command_flags import of_trained_run
from tests.tiny import tiny_config

pytestmark = pytest.mark.ci

TINY = {
    "data.name": "npz",
    "data.validation_size": 0,
    "augment.max_shift": 0,
    "model.input.crop": 14,
    "model.input.standardize": "image",
    "model.conv.features": 4,
    "model.primary_caps.types": 2,
    "model.conv.kernel_size": 3,
    "model.conv_caps.types": (2, 3),
    "model.conv_caps.kernel_size": (3, 2),
    "model.capsules.pose_size": 4,
    "model.class_caps.entries": (0, 1),
    "train.epochs": 1,
    "train.batch_size": 8,
    "evaluate.batch_size": 8,
    "log.tensorboard": False,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crops")
    rng = np.random.default_rng(0)
    arrays = {
        f"{part}{name}": values
        for part in ("", "test_")
        for name, values in (
            ("images", rng.integers(0, 256, (16, 20, 20), np.uint8)),
            ("labels", np.arange(16) % 3),
        )
    }
    np.savez(folder / "data.npz", **arrays)
    config = make_config("em_capsules")
    config.update_from_flattened_dict({**TINY, "data.file": str(folder / "data.npz")})
    train_and_evaluate(config, folder / "run")
    return folder / "run", arrays["test_images"][..., None]


def run_evaluate(monkeypatch, workdir, crops=None):
    monkeypatch.setattr(evaluate, "FLAGS", of_trained_run(workdir, crops=crops))
    evaluate.main()


def test_evaluate_averages_the_scores_of_13_crops(trained, monkeypatch):
    workdir, images = trained
    run_evaluate(monkeypatch, workdir, 13)
    folder = workdir / "evaluation" / "npz-test-2-13-crops"
    assert json.loads((folder / "evaluation.json").read_text())["crops"] == 13
    central = load_predictor(workdir)
    of_crops = [central.predict(np.roll(images, (-y, -x), (1, 2))).scores for y, x in MOVES]
    scores = np.load(folder / "predictions.npz")["scores"]
    np.testing.assert_allclose(scores, np.mean(of_crops, axis=0), atol=1e-4)
    # The run's own evaluation, of the central crops, has a folder of its own.
    run_evaluate(monkeypatch, workdir)
    own = workdir / "evaluation" / "npz-test-2"
    assert "crops" not in json.loads((own / "evaluation.json").read_text())
    np.testing.assert_allclose(np.load(own / "predictions.npz")["scores"], of_crops[0], atol=1e-5)


def test_other_numbers_of_crops_are_refused(trained, monkeypatch):
    workdir, _ = trained
    with pytest.raises(ValueError, match="1, the central crop, or 13, not 5"):
        run_evaluate(monkeypatch, workdir, 5)


def test_a_network_that_does_not_crop_has_no_crops(tmp_path, monkeypatch):
    train_and_evaluate(tiny_config(train__epochs=1), tmp_path / "run")
    with pytest.raises(ValueError, match="does not crop its images; leave out --crops"):
        run_evaluate(monkeypatch, tmp_path / "run", 13)
