"""Sets of the Hugging Face Hub, from local copies, as nothing here may need the network."""

import sys

import numpy as np
import pytest
from PIL import Image

from capsjax.commands.extras import how_to_install
from capsjax.config.tagged import resolved
from capsjax.data import DataError, fitted, load_part, load_training
from tests.tiny import tiny_config

datasets = pytest.importorskip("datasets", reason="the extra hf is not installed")
NAME = "hf:someone/pictures"


def pictures(count, size=(6, 4), colour=False):
    """Pictures (h, w) that all differ."""
    shape = (count, *size, *([3] if colour else []))
    return np.random.RandomState(0).randint(0, 256, shape, np.uint8)


def a_part(images, labels, names=None):
    kind = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    if isinstance(labels[0], str):
        kind = datasets.Value("string")
    features = datasets.Features({"image": datasets.Image(), "label": kind})
    found = [None if image is None else Image.fromarray(image) for image in images]
    return datasets.Dataset.from_dict({"image": found, "label": list(labels)}, features=features)


def saved(folder, **parts):
    datasets.DatasetDict(parts).save_to_disk(folder)
    return {"dir": str(folder.parent / "cache"), "file": str(folder)}


@pytest.mark.parametrize("form", ["save_to_disk", "files"])
def test_a_local_copy_is_read_as_it_is(tmp_path, form):
    images, names = pictures(12), ["cat", "dog", "fox"]
    train = a_part(images[:9], [0, 1, 2] * 3, names)
    test = a_part(images[9:], [2, 1, 0], names)
    where = saved(tmp_path / "copy", train=train, test=test)
    if form == "files":
        where["file"] = str(tmp_path / "files")
        train.to_parquet(tmp_path / "files" / "data" / "train-00000-of-00001.parquet")
        test.to_parquet(tmp_path / "files" / "data" / "test-00000-of-00001.parquet")
    found = load_part(NAME, "test", **where)
    np.testing.assert_array_equal(found.images[..., 0], images[9:])
    assert found.labels.tolist() == [2, 1, 0]
    assert found.class_names == ("cat", "dog", "fox")
    assert load_part(NAME, "train", **where).images.shape == (9, 6, 4, 1)


def test_without_a_test_part_a_sixth_of_every_class_is_set_aside(tmp_path):
    images = pictures(24, colour=True)
    where = saved(tmp_path / "copy", train=a_part(images, ["b", "a"] * 12))
    train, test = (load_part(NAME, part, **where) for part in ("train", "test"))
    assert np.bincount(test.labels).tolist() == [2, 2]
    assert len(train) == 20
    assert train.class_names == ("a", "b")
    everything = np.concatenate([train.images, test.images])
    assert len(np.unique(everything.reshape(24, -1), axis=0)) == 24
    training, validation = load_training(NAME, validation_size=0.2, **where)
    assert (len(training), len(validation)) == (16, 4)


def test_a_class_without_an_image_counts_where_the_set_lists_it(tmp_path):
    part = a_part(pictures(6), [0, 1, 2] * 2, ["0", "1", "2", "3"])
    found = load_part(NAME, "train", **saved(tmp_path / "copy", train=part, test=part))
    assert (found.num_classes, found.class_names) == (4, ())


def test_settings_resize_and_choose_columns(tmp_path):
    part = a_part(pictures(6, (8, 8), colour=True), [0, 1, 2] * 2)
    part = part.rename_column("label", "kind").add_column("label", [0] * 6)
    where = saved(tmp_path / "copy", train=part, test=part)
    settings = {"image_size": (4, 4), "colour": "grey", "label_column": "kind"}
    found = load_part(NAME, "train", **where, hf=settings)
    assert found.images.shape == (6, 4, 4, 1)
    assert found.num_classes == 3
    shaped = fitted({"name": NAME, **where, "hf": settings}, (2, 2, 3))
    assert shaped["hf"]["label_column"] == "kind"
    assert load_part(part="test", **shaped).images.shape == (6, 2, 2, 3)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ("no column", "unknown column of .*'kinds'; .*image"),
        ("sizes", "picture 3 of .* has 5x5 pixels and the first 6x4.*data.hf.image_size"),
        ("colours", "picture 151 of .* is in colour and others are grey.*data.hf.colour"),
        ("kept back", "has no class for each image of its part 'test'.*label_column"),
        ("no training", "has no part 'train', only test"),
        ("no folder", "no folder 'nowhere'.*the copy of hf:someone/pictures"),
        ("no set", "cannot be loaded .*look at the files there"),
    ],
)
def test_what_cannot_be_used_is_named_with_a_remedy(tmp_path, problem, message):
    images, names = list(pictures(200 if problem == "colours" else 6)), ["cat", "dog"]
    settings = {"label_column": "kinds"} if problem == "no column" else {}
    if problem == "sizes":
        images[3] = pictures(1, (5, 5))[0]
    if problem == "colours":
        images[151] = pictures(1, colour=True)[0]
    train = a_part(images, [0, 1] * (len(images) // 2), names)
    kept_back = a_part(images[:2], [-1, -1] if problem == "kept back" else [0, 1], names)
    parts = {"test": kept_back} if problem == "no training" else {"train": train, "test": kept_back}
    where = saved(tmp_path / "copy", **parts)
    if problem == "no folder":
        where["file"] = "nowhere"
    if problem == "no set":
        where["file"] = str(tmp_path / "cache")
        (tmp_path / "cache").mkdir()
    with pytest.raises(ValueError, match=message):
        load_part(NAME, "train", **where, hf=settings)


def deep(kind):
    """Grey of more than 8 bits: Pillow's mode "I;16", "I" or "F"."""
    return (pictures(1)[0] * 100.0).astype(kind)


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_pictures_of_more_than_8_bits_are_refused_and_not_cut_off(tmp_path, kind):
    images = [*pictures(5), deep(kind)]
    where = saved(tmp_path / "copy", train=a_part(images, [0, 1] * 3, ["cat", "dog"]))
    for settings in ({}, {"colour": "grey", "image_size": (6, 4)}):
        with pytest.raises(DataError, match=r"picture 5 of the train part of .* more than 8 bits"):
            load_part(NAME, "train", **where, hf=settings)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (pictures(1, (5, 5))[0], "has 5x5 pixels and the first 6x4.*data.hf.image_size"),
        (pictures(1, colour=True)[0], "is in colour and others are grey.*data.hf.colour"),
        (deep(np.uint16), "has more than 8 bits"),
        (None, "is missing: save a copy without that row and name it, --config.data.file"),
    ],
)
def test_a_picture_for_testing_that_cannot_be_used_stops_training(tmp_path, image, message):
    train, test = a_part(pictures(6), [0, 1] * 3), a_part([*pictures(2), image], [0, 1, 0])
    where = saved(tmp_path / "copy", train=train, test=test)
    for part in ("train", "test"):
        with pytest.raises(DataError, match=f"picture 2 of the test part of .* {message}"):
            load_part(NAME, part, **where)


def test_so_does_one_that_is_set_aside_for_testing(tmp_path):
    images, labels = list(pictures(12)), [0, 1] * 6
    where = saved(tmp_path / "whole", train=a_part(images, labels))
    chosen = load_part(NAME, "test", **where).images[0, ..., 0]
    row = next(row for row in range(12) if (images[row] == chosen).all())
    images[row] = pictures(1, (5, 5))[0]
    where = saved(tmp_path / "copy", train=a_part(images, labels))
    with pytest.raises(DataError, match=f"picture {row} of the train part of .* has 5x5 pixels"):
        load_part(NAME, "train", **where, hf={"colour": "grey"})


def test_a_picture_that_is_no_picture_is_named(tmp_path):
    path = tmp_path / "broken.png"
    path.write_text("no")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    columns = {"image": [str(path)] * 4, "label": [0, 1] * 2}
    where = saved(tmp_path / "copy", train=datasets.Dataset.from_dict(columns, features=features))
    with pytest.raises(DataError, match=r"picture 0 of the train part of .* is no picture that"):
        load_part(NAME, "train", **where)


def test_numbers_that_no_image_has_are_named_with_a_remedy(tmp_path):
    part = a_part(pictures(12), [0, 7] * 6)
    where = saved(tmp_path / "copy", train=part, test=part)
    with pytest.raises(DataError, match=r"no image has the label 1 to 6: .*cast_column\('label'"):
        load_part(NAME, "train", **where)
    assert load_part(NAME, "test", **where).num_classes == 8
    # What the message says.
    named = part.cast_column("label", datasets.Value("string"))
    named = load_part(NAME, "train", **saved(tmp_path / "named", train=named, test=named))
    assert (named.class_names, named.labels.tolist()) == (("0", "7"), [0, 1] * 6)
    # A set that names its classes by numbers has them, whether or not an image does.
    numbered = a_part(pictures(12), [0, 7] * 6, [str(k) for k in range(8)])
    assert load_part(NAME, "train", **saved(tmp_path / "of 8", train=numbered)).num_classes == 8


def test_a_set_without_a_name_is_asked_for():
    with pytest.raises(DataError, match=r"needs the name of a set: --config\.data\.name=hf:"):
        load_part("hf", "train")


def test_its_settings_are_part_of_a_run_that_names_it():
    config = tiny_config(data__name=NAME, data__hf__subset="small")
    assert resolved(config)["data"]["hf"]["subset"] == "small"
    config = tiny_config(data__hf__subset="small")
    assert "hf" not in resolved(config)["data"]


def test_the_missing_package_is_named_with_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError) as failure:
        load_part(NAME, "train", file=str(tmp_path))
    assert how_to_install(failure.value) == "datasets is not installed: pip install 'capsjax[hf]'"
