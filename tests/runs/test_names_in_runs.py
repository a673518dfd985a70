"""Runs on a user's own pictures: the names of classes from the folders to figures and tables."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from capsjax.commands import evaluate, predict, visualize
from capsjax.plots import figures
from capsjax.runs.data_record import read_data
from capsjax.runs.exported import export, load_exported
from capsjax.runs.files import WorkdirError
from capsjax.runs.predictor import load_predictor
from capsjax.runs.train import train_and_evaluate
from capsjax.sweeps import levels_of, make_sweep, run, trials_of
from tests.command_flags import of_trained_run
from tests.npz_digits import DIGITS, TEST
from tests.tiny import tiny_config

NAMES = ("one", "three", "two")  # in the order of names

# What trains a network.
pytestmark = pytest.mark.ci


def save_pictures(folder, data, count):
    for digit, name in ((1, "one"), (2, "two"), (3, "three")):
        (folder / name).mkdir(parents=True)
        for number, image in enumerate(data.images[data.labels == digit][:count]):
            Image.fromarray(image[..., 0]).save(folder / name / f"{number:03}.png")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    save_pictures(folder / "train", DIGITS, 70)
    save_pictures(folder / "test", TEST, 20)
    return folder


def config_of(pictures, **overrides):
    return tiny_config(data__name="folder", data__file=str(pictures), **overrides)


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "run"
    return workdir, train_and_evaluate(config_of(pictures), workdir)


def flags(workdir, **changed):
    drawn = {"images": 6, "pose_range": 0.25, "pose_steps": 3}
    given = {"network": "", "invert": False, "inside": False}
    return of_trained_run(workdir, **{"mistakes": 5, **drawn, **given, **changed})


def evaluation_in(workdir, name):
    (path,) = workdir.glob(f"evaluation/{name}/evaluation.json")
    return json.loads(path.read_text())


def titles_of(figure):
    ticks = [tick.get_text() for axis in figure.axes for tick in axis.get_yticklabels()]
    titles = [axis.get_title() for axis in figure.axes]
    return "|".join([figure.get_suptitle(), *titles, *ticks])


def test_the_run_and_what_is_loaded_from_it_have_the_names(finished, tmp_path):
    workdir, summary = finished
    assert tuple(summary["class_names"]) == NAMES
    assert read_data(workdir)["training"]["class names"] == list(NAMES)
    predictor = load_predictor(workdir)
    assert predictor.class_names == NAMES
    export(predictor, workdir, tmp_path / "exported")
    assert load_exported(tmp_path / "exported").class_names == NAMES


def test_evaluate_names_classes(finished, monkeypatch):
    workdir, summary = finished
    drawn = {}
    for name in ("confusion_matrix", "mistakes"):
        draw = getattr(figures, name)

        def kept(*arguments, draw=draw, name=name):
            return drawn.setdefault(name, draw(*arguments))

        monkeypatch.setattr(figures, name, kept)
    monkeypatch.setattr(evaluate, "FLAGS", flags(workdir))
    evaluate.main()
    result = evaluation_in(workdir, "folder-test-?")
    assert result["class_names"] == list(NAMES)
    assert result["num_errors"] == summary["test"]["num_errors"] > 0
    assert "|one|three|two" in titles_of(drawn["confusion_matrix"])
    assert ",\nis " in titles_of(drawn["mistakes"])


def test_visualize_names_classes(finished, monkeypatch):
    workdir, _ = finished
    drawn = {}
    monkeypatch.setattr(visualize, "FLAGS", flags(workdir))
    draw = visualize.draw

    def kept(*arguments):
        for name, figure in draw(*arguments):
            drawn[name] = titles_of(figure)
            yield name, figure

    monkeypatch.setattr(visualize, "draw", kept)
    visualize.main()
    assert "|one|three|two" in drawn["couplings"]
    assert "|three|" in drawn["reconstructions"]
    assert "|three, dim " in drawn["poses"]
    assert "class two" in drawn["poses_class_2"]


def test_predict_writes_the_name_beside_the_label(finished, pictures, tmp_path, monkeypatch):
    workdir, summary = finished
    output = tmp_path / "labels.csv"
    monkeypatch.setattr(predict, "FLAGS", flags(workdir, output=str(output)))
    predict.main([str(pictures / "test")])
    table = pd.read_csv(output)
    assert list(table.label_name) == [NAMES[label] for label in table.label]
    true = [image.split("/")[-2] for image in table.image]
    assert (table.label_name != true).sum() == summary["test"]["num_errors"]


def test_other_data_are_numbered_as_the_network_is(finished, pictures, tmp_path, monkeypatch):
    workdir, _ = finished
    (tmp_path / "test").mkdir()
    for name in ("three", "two"):
        (tmp_path / "test" / name).mkdir()
        for path in (pictures / "test" / name).iterdir():
            with Image.open(path) as picture:
                # Another size, and in colour, but the same for the network.
                other = picture.convert("RGB").resize((16, 16), Image.Resampling.NEAREST)
            other.save(tmp_path / "test" / name / path.name)
    monkeypatch.setattr(evaluate, "FLAGS", flags(workdir, data_file=str(tmp_path)))
    with pytest.raises(WorkdirError, match="60 test examples there, 40 here"):
        evaluate.main()
    other = flags(workdir, data_file=str(tmp_path), other_data=True)
    monkeypatch.setattr(evaluate, "FLAGS", other)
    evaluate.main()
    monkeypatch.setattr(evaluate, "FLAGS", flags(workdir))
    evaluate.main()
    of_other, of_own = (evaluation_in(workdir, f"folder-test-{name}") for name in ("*-*", "?"))
    matrix, own = of_other["confusion_matrix"], of_own["confusion_matrix"]
    assert (of_other["file"], of_other["part"]) == (str(tmp_path), "test")
    assert "file" not in of_own
    assert of_other["fingerprint"] != of_own["fingerprint"]
    assert matrix == [[0, 0, 0], own[1], own[2]]
    assert np.sum(matrix) == 40


def test_a_trial_of_a_sweep_has_the_names(pictures, tmp_path):
    factors = {"rounds": levels_of("model.routing.dynamic.num_iterations", (1,))}
    config = make_sweep("test", config_of(pictures, train__epochs=1), factors, num_seeds=1)
    run.run_sweep(config, tmp_path)
    (trial,) = trials_of(config)
    assert load_predictor(tmp_path / "trials" / trial.id).class_names == NAMES
