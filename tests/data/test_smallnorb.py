"""smallNORB, as a source of the same features as TFDS's, with values worked by hand."""

import socket
from types import SimpleNamespace

import numpy as np
import pytest

import capsjax.data.tfds
from capsjax.data import DataError, Sizes, load_part, load_training, training_sizes
from capsjax.data.smallnorb import halve

SHAPE = (96, 96, 1)
FEATURES = {
    "image": SimpleNamespace(shape=SHAPE),
    "image2": SimpleNamespace(shape=SHAPE),
    "label_category": SimpleNamespace(shape=(), num_classes=5),
    "instance": SimpleNamespace(shape=(), num_classes=10),
}


def picture(block, elsewhere):
    """A picture whose first row ends with a block of 2x2 grey levels, and is even elsewhere."""
    image = np.full(SHAPE, elsewhere, np.uint8)
    image[:2, 94:, 0] = block
    return image


def example(left, right, category, instance):
    return {
        "image": picture(*left),
        "image2": picture(*right),
        "label_category": category,
        "instance": instance,
    }


# Means 2.5, 254.75, 2.25 and 1.5, with halves rounded up.
EXAMPLES = {
    "train": [
        example(([[1, 2], [3, 4]], 10), ([[255, 255], [255, 254]], 20), category=3, instance=6),
        example(([[0, 0], [0, 9]], 30), ([[0, 0], [1, 5]], 40), category=0, instance=9),
    ],
    "test": [example(([[7, 7], [7, 7]], 0), ([[8, 8], [8, 8]], 0), category=4, instance=3)],
}


class Builder:
    """What reading needs of a builder of TFDS."""

    def __init__(self, features, data_path):
        self.data_path, self.decoded = data_path, []
        self.info = SimpleNamespace(
            name="smallnorb",
            full_name="smallnorb/2.0.0",
            features=features,
            splits={
                part: SimpleNamespace(num_examples=len(examples), num_bytes=1)
                for part, examples in EXAMPLES.items()
            },
        )

    def is_prepared(self):
        return True

    def as_data_source(self, part):
        self.decoded.append(part)
        return EXAMPLES[part]


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    monkeypatch.setenv("CAPSJAX_CACHE_DIR", str(tmp_path / "cache"))

    def prepare(**changes):
        builder = Builder({**FEATURES, **changes}, tmp_path)
        monkeypatch.setattr(capsjax.data.tfds, "_make_builder", lambda *_: builder)
        return builder

    return prepare


def test_pairs_of_half_the_size_and_categories(prepare):
    prepare()
    train = load_part("smallnorb", "train")
    assert train.images.shape == (2, 48, 48, 2)
    # Both cameras at the last pixel of the first row, and everywhere else.
    assert train.images[:, 0, 47].tolist() == [[3, 255], [2, 2]]
    assert train.images[:, 0, :47].reshape(2, -1, 2).min(axis=1).tolist() == [[10, 20], [30, 40]]
    assert train.images[:, 1:].reshape(2, -1, 2).max(axis=1).tolist() == [[10, 20], [30, 40]]
    # Not the instance, which is no class.
    assert train.labels.tolist() == [3, 0]
    assert train.num_classes == 5
    assert train.class_names == ("animal", "human", "plane", "truck", "car")


def test_a_half_is_rounded_up_and_sums_of_four_do_not_overflow():
    block = np.array([[[255], [255]], [[255], [255]]], np.uint8)
    assert halve(block).tolist() == [[[255]]]
    quarters = np.array([[[0], [0], [0], [0]], [[0], [1], [1], [1]]], np.uint8)
    assert halve(quarters).tolist() == [[[0], [1]]]


def test_from_the_cache_they_have_their_names_too(prepare):
    builder = prepare()
    first, again = load_part("smallnorb", "train"), load_part("smallnorb", "train")
    assert builder.decoded == ["train"]
    assert again.fingerprint() == first.fingerprint()
    assert first.fingerprint()["class names"] == ["animal", "human", "plane", "truck", "car"]


def test_pairs_are_not_taken_for_arrays_that_were_read_in_another_way(prepare, monkeypatch):
    builder = prepare()
    load_part("smallnorb", "train")
    form = capsjax.data.smallnorb.make_pairs(FEATURES)
    other = form._replace(name="other", image_of=lambda e: np.zeros((48, 48, 2), np.uint8))
    monkeypatch.setitem(capsjax.data.tfds.FORMS, "smallnorb", lambda _: other)
    assert load_part("smallnorb", "train").images.max() == 0
    assert builder.decoded == ["train", "train"]


def test_training_never_reads_the_test_part(prepare):
    builder = prepare()
    train, validation = load_training("smallnorb", validation_size=1)
    assert (len(train), len(validation)) == (1, 1)
    assert builder.decoded == ["train"]


def test_its_sizes_are_known_without_it():
    assert training_sizes("smallnorb") == Sizes((48, 48, 2), 5, 24_300)
    assert training_sizes("smallnorb", validation_size=0.1).num_examples == 21_870


@pytest.mark.parametrize(
    ("name", "feature", "message"),
    [
        ("image2", SimpleNamespace(shape=(96, 96, 3)), r"\(96, 96, 1\) and \(96, 96, 3\), 5 cl"),
        ("label_category", SimpleNamespace(shape=(), num_classes=6), r"\(96, 96, 1\), 6 classes"),
    ],
)
def test_other_features_are_refused(prepare, name, feature, message):
    prepare(**{name: feature})
    with pytest.raises(DataError, match=message):
        load_part("smallnorb", "train")


def test_a_set_without_one_camera_is_refused(prepare):
    builder = prepare()
    del builder.info.features["image2"]
    with pytest.raises(DataError, match=r"shapes \(96, 96, 1\) and None"):
        load_part("smallnorb", "train")


def test_where_it_is_missing_a_message_names_the_remedy(tmp_path, monkeypatch):
    def resolve(host, *_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(DataError, match="no host of its download can be reached") as error:
        load_part("smallnorb", "train", dir=str(tmp_path / "data"))
    for part in ("'smallnorb' is not in", str(tmp_path / "data"), "--config.data.dir"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.ci
def test_what_tfds_has_prepared_is_read(tmp_path, monkeypatch):
    """Everything real but the transfer: TFDS encodes, shuffles, writes and decodes."""
    import tensorflow_datasets as tfds

    monkeypatch.setenv("CAPSJAX_CACHE_DIR", str(tmp_path / "cache"))
    cls = tfds.builder_cls("smallnorb")
    others = {"label_elevation": 8, "label_azimuth": 17, "label_lighting": 5}

    def generate(self, part):
        for index, each in enumerate(EXAMPLES[part]):
            yield index, {**each, **others}

    monkeypatch.setattr(
        cls, "_split_generators", lambda self, _: {p: self._generate_examples(p) for p in EXAMPLES}
    )
    monkeypatch.setattr(cls, "_generate_examples", generate)
    monkeypatch.setattr(capsjax.data.tfds, "_network_answers", lambda builder: True)
    train = load_part("smallnorb", "train", dir=str(tmp_path / "data"))
    order = np.argsort(train.labels)
    assert train.labels[order].tolist() == [0, 3]
    assert train.images[order, 0, 47].tolist() == [[2, 2], [3, 255]]
    test = load_part("smallnorb", "test", dir=str(tmp_path / "data"))
    assert test.images[0, 0, 47].tolist() == [7, 8]
    assert [test.class_names[label] for label in test.labels] == ["car"]
