"""capsjax predict: pictures, folders and arrays, and what it refuses."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from capsjax.commands import predict
from capsjax.data.pictures import find_pictures, read_picture
from capsjax.runs.predictor import Prediction, Predictor
from capsjax.training.build import build
from tests import command_flags
from tests.tiny import tiny_config

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def predictor():
    config = tiny_config()
    built = build(config, SHAPE, 10, 1000)
    return Predictor(config, 0, built.model, built.init_state(0).variables, built.objective)


@pytest.fixture
def pictures(tmp_path):
    """A folder with three pictures, one below another folder, and a file of another kind."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in ("b.png", "a.JPG", "more/c.png"):
        Image.fromarray(random.integers(0, 256, (32, 24, 3), np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_all_pictures_below_a_folder_are_found_in_order(pictures):
    names = [str(path.relative_to(pictures)) for path in find_pictures([pictures])]
    assert names == ["a.JPG", "b.png", "more/c.png"]
    assert find_pictures([pictures / "b.png"]) == [pictures / "b.png"]


def test_a_picture_is_resized_by_means_and_in_grey_if_the_network_is(tmp_path):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, 8:] = 200
    Image.fromarray(pixels).save(tmp_path / "x.png")
    grey = read_picture(tmp_path / "x.png", (4, 4, 1))
    assert grey.shape == (4, 4, 1)
    np.testing.assert_array_equal(grey[0, :, 0], [0, 0, 200, 200])
    assert read_picture(tmp_path / "x.png", (4, 4, 3)).shape == (4, 4, 3)


def test_images_of_files_folders_and_arrays_are_one_batch(pictures, tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (2, 8, 8), np.uint8)
    np.savez(tmp_path / "some.npz", images=images)
    np.save(tmp_path / "one.npy", images[:1, ..., None] / 255)
    arguments = [str(pictures), str(tmp_path / "some.npz"), str(tmp_path / "one.npy")]
    names, found = predict.read_images(arguments, SHAPE)
    assert found.shape == (6, *SHAPE)
    assert names[3:] == [f"{arguments[1]}[0]", f"{arguments[1]}[1]", f"{arguments[2]}[0]"]
    np.testing.assert_allclose(found[3], found[5], atol=1e-6)
    _, inverted = predict.read_images(arguments[:1], SHAPE, invert=True)
    np.testing.assert_allclose(inverted, 1 - found[:3], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.png", "no file or folder .*nowhere.png"),
        ("empty", "no pictures below .*empty"),
        ("text.png", "text.png is no picture that Pillow can read"),
        ("labels.npz", "labels.npz has no array `images`, but labels"),
        ("large.npy", r"takes images of 8x8x1, and an array has \(9, 9, 1\)"),
        ("text.npy", "text.npy cannot be read"),
        ("cut.npz", "cut.npz cannot be read"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    for text in ("text.png", "text.npy"):
        (tmp_path / text).write_text("no picture")
    np.savez(tmp_path / "labels.npz", labels=np.zeros(3))
    np.save(tmp_path / "large.npy", np.zeros((1, 9, 9)))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "labels.npz").read_bytes()[:100])
    with pytest.raises(ValueError, match=message):
        predict.read_images([str(tmp_path / name)], SHAPE)


@pytest.mark.ci
@pytest.mark.parametrize(("low", "high"), [(0.0, 255.0), (-1.0, 1.0)])
def test_floats_outside_of_0_and_1_are_refused(predictor, low, high):
    images = np.linspace(low, high, 64).reshape(1, *SHAPE)
    with pytest.raises(ValueError, match=f"these from {low:g} to {high:g}: divide them by 255"):
        predictor.forward(images)


@pytest.mark.slow
def test_the_command_writes_a_table_and_arrays(predictor, pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(predict, "load_predictor", lambda *_: predictor)
    output = tmp_path / "new" / "labels.csv"
    given = {"workdir": "run", "network": "", "checkpoint": "last", "output": str(output)}
    monkeypatch.setattr(predict, "FLAGS", SimpleNamespace(invert=False, inside=True, **given))
    predict.main([str(pictures)])
    table = pd.read_csv(output)
    with np.load(output.with_suffix(".npz")) as arrays:
        np.testing.assert_array_equal(table.label, arrays["labels"])
        scores = table[[f"score_{k}" for k in range(10)]].to_numpy()
        np.testing.assert_allclose(scores, arrays["scores"], rtol=1e-6)
        assert arrays["poses"].shape == (3, 10, 4)
        children = np.prod(arrays["primary_layer_poses"].shape[1:-1])
        assert arrays["class_layer_couplings"].shape == (3, children, 10)
    np.testing.assert_array_equal(table.label, scores.argmax(axis=1))
    assert list(table.image) == [str(path) for path in find_pictures([pictures])]
    assert f"wrote {output} and" in capsys.readouterr().out


def test_the_name_of_the_label_is_in_the_table_where_classes_have_names():
    prediction = Prediction(np.array([1, 0]), np.array([[0.1, 0.9], [0.8, 0.2]]), None, None)
    named = predict.tabulate(["x", "y"], prediction, ("cat", "dog"))
    assert list(named.columns) == ["image", "label", "label_name", "score_0", "score_1"]
    assert list(named.label_name) == ["dog", "cat"]
    assert "label_name" not in predict.tabulate(["x", "y"], prediction)


def test_a_network_of_maps_is_refused(predictor, monkeypatch, pictures):
    maps = Prediction(np.zeros((3, 8, 8)), np.zeros((3, 8, 8, 10)), None, None)
    monkeypatch.setattr(predict, "_load", lambda: predictor)
    command_flags.give(monkeypatch, predict, f"--output={pictures / 'labels.csv'}")
    monkeypatch.setattr(predictor, "predict", lambda _: maps)
    with pytest.raises(ValueError, match="labels whole images"):
        predict.main([str(pictures)])


@pytest.mark.parametrize(
    ("given", "output", "message"),
    [
        ("images.npz", "images.csv", r"images\.npz is one of the files to label .*: give ano"),
        ("images.npz", "linked.csv", r"linked\.npz is one of the files to label"),
        ("photos", "photos/b.png", r"b\.png is one of the files to label"),
        ("photos", "photos", r"--output=.*photos is a folder: name a file in it"),
        ("photos", "labels.npz", r"--output=.*labels\.npz is the table, .* end its name in \.csv"),
    ],
)
def test_nothing_that_is_read_is_overwritten(pictures, monkeypatch, given, output, message):
    folder = pictures.parent
    np.savez(folder / "images.npz", images=np.zeros((1, 8, 8)))
    (folder / "linked.npz").symlink_to("images.npz")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr(predict, "_load", lambda: pytest.fail("loads the network"))
    command_flags.give(monkeypatch, predict, f"--output={folder / output}")
    with pytest.raises(ValueError, match=message):
        predict.main([str(folder / given)])
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after == before


def test_earlier_results_may_be_written_again(pictures):
    output = pictures.parent / "labels.csv"
    output.write_text("of an earlier call")
    beside = output.with_suffix(".npz")
    np.savez(beside, labels=[3], scores=np.ones((1, 10)), poses=np.ones((1, 10, 16)))
    assert predict.check_outputs(output, [str(pictures)]) == (output, beside)


@pytest.mark.parametrize("content", ["a data set", "no arrays"])
def test_arrays_that_are_of_something_else_are_not_overwritten(pictures, content):
    beside = pictures.parent / "digits.npz"
    beside.write_text("notes")
    if content == "a data set":
        np.savez(beside, images=np.zeros((1, 8, 8)), labels=[3])
    with pytest.raises(ValueError, match=r"digits\.npz would be overwritten, .* another --output"):
        predict.check_outputs(beside.with_suffix(".csv"), [str(pictures)])


def test_a_checkpoint_of_a_network_without_a_run_is_refused(predictor, monkeypatch):
    monkeypatch.setattr(predict, "load_exported", lambda _: predictor)
    command_flags.give(monkeypatch, predict, "--network=export")
    assert predict._load() is predictor
    command_flags.give(monkeypatch, predict, "--network=export", "--checkpoint=best")
    with pytest.raises(ValueError, match="--checkpoint is a flag for a run: give --workdir"):
        predict._load()


def test_tables_of_other_names_have_arrays_of_their_own(tmp_path):
    names = ("v1.0", "v1.1", "labels.csv", "labels.tsv")
    found = [predict.check_outputs(tmp_path / name, [])[1].name for name in names]
    assert found == ["v1.0.npz", "v1.1.npz", "labels.npz", "labels.tsv.npz"]


@pytest.mark.parametrize("dtype", [int, bool])
def test_whole_numbers_are_refused_beside_pictures_too(pictures, tmp_path, dtype):
    np.save(tmp_path / "whole.npy", np.ones((1, 8, 8, 1), dtype))
    with pytest.raises(ValueError, match=r"uint8 or floating point, not \w+: .*whole.npy"):
        predict.read_images([str(pictures), str(tmp_path / "whole.npy")], (8, 8, 1))
