"""Parts of small and imbalanced data: every class in all of them, shares, and what is refused."""

import numpy as np
import pytest

from capsjax.config import load_config
from capsjax.config.renamed import modernize
from capsjax.data import DataError, load_part, load_training
from capsjax.data.arrays import split_positions
from capsjax.data.splits import count_of, divide

NAMES = {"parts": "training and testing", "remedy": "give a test part"}


def labels_of(*counts):
    """Labels of so many examples of each class, in the order of the classes."""
    return np.repeat(np.arange(len(counts)), counts)


def save(path, *counts, **arrays):
    """A file whose images show their class, and their own number."""
    labels = labels_of(*counts)
    images = np.zeros((len(labels), 2, 2), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = labels, np.arange(len(labels))
    np.savez(path, images=images, labels=arrays.pop("labels", labels), **arrays)
    return str(path)


def counts_of(part):
    return np.bincount(part.labels, minlength=part.num_classes).tolist()


def test_a_size_below_one_is_a_share():
    assert [count_of(size, 50) for size in (0, 0.25, 0.001, 1, 7.0)] == [0, 12, 1, 1, 7]
    for size in (-0.5, 1.5):
        with pytest.raises(DataError, match=f"a share below 1 or a number of examples, not {size}"):
            count_of(size, 50)


@pytest.mark.parametrize(
    ("counts", "held_out", "expected"),
    [
        ((120, 50, 20, 10), 33, [20, 8, 3, 2]),
        ((12, 6, 6), 4, [2, 1, 1]),
        # At least one of each, and one stays.
        ((100, 2, 2), 5, [3, 1, 1]),
        ((100, 2, 2), 1, [1, 1, 1]),
        ((2, 2), 4, [1, 1]),
    ],
)
def test_classes_are_held_out_in_proportion_and_none_is_left_out(counts, held_out, expected):
    labels = labels_of(*counts)
    rest, held = divide(labels, held_out, 0, "stratified", **NAMES)
    assert np.bincount(labels[held]).tolist() == expected
    assert sorted([*rest, *held]) == list(range(len(labels)))
    assert (np.diff(rest) > 0).all()
    assert (np.diff(held) > 0).all()


def test_examples_of_a_class_are_chosen_at_random_by_the_seed():
    labels = labels_of(20, 20)
    first, again, other = (divide(labels, 10, s, "auto", **NAMES)[1].tolist() for s in (0, 0, 1))
    assert first == again != other
    assert first != [0, 1, 2, 3, 4, 20, 21, 22, 23, 24]


def test_labels_that_are_no_classes_are_shuffled():
    labels = np.zeros((12, 3), np.int32)
    found = divide(labels, 2, 0, "auto", **NAMES)
    np.testing.assert_array_equal(found[1], split_positions(12, 2, 0)[1])
    with pytest.raises(DataError, match=r"data.split=stratified is for labels of one class"):
        divide(labels, 2, 0, "stratified", **NAMES)


def test_an_unknown_way_to_split_names_the_nearest(tmp_path):
    file = save(tmp_path / "own.npz", 10, 10)
    with pytest.raises(ValueError, match=r"\(data.split\) 'stratify'; did you mean 'stratified'"):
        load_part("npz", "train", file=file, split="stratify")


def test_a_class_of_one_image_is_named_with_the_remedy(tmp_path):
    named = np.array(["owl", "cat", "dog"])[labels_of(1, 9, 9)]
    file = save(tmp_path / "own.npz", 1, 9, 9, labels=named)
    message = r"the class 'owl' has one image for training and testing.* or save test_images"
    for part in ("train", "test"):
        with pytest.raises(DataError, match=message):
            load_part("npz", part, file=file)
    several = labels_of(5, 1, 1)
    with pytest.raises(DataError, match=r"the class 1 has one image .*\(so have 1 more\)"):
        divide(several, 2, 0, "auto", **NAMES)


def test_a_class_of_two_images_is_not_enough_for_three_parts(tmp_path):
    file = save(tmp_path / "own.npz", 20, 2)
    with pytest.raises(DataError, match=r"for training and validation.*data.validation_size=0"):
        load_training("npz", file=file, validation_size=0.2)
    assert counts_of(load_training("npz", file=file)[0]) == [18, 1]


@pytest.mark.parametrize("counts", [(120, 50, 20, 10), (10,) * 5, (60, 3)])
def test_every_class_is_in_all_three_parts(tmp_path, counts):
    file = save(tmp_path / "own.npz", *counts)
    settings = load_config("npz").data
    training, validation = load_training(
        "npz", file=file, validation_size=settings.validation_size, split=settings.split
    )
    test = load_part("npz", "test", file=file)
    parts = [training, validation, test]
    assert np.sum([counts_of(part) for part in parts], axis=0).tolist() == list(counts)
    assert all(min(counts_of(part)) >= 1 for part in parts)
    seen = np.concatenate([part.images[:, 0, 1, 0] for part in parts])
    assert len(set(seen.tolist())) == sum(counts)


def test_a_number_that_does_not_reach_every_class_is_refused(tmp_path):
    file = save(tmp_path / "own.npz", *(10,) * 5)
    assert len(load_training("npz", file=file, validation_size=5)[1]) == 5
    for size in (4, 38):
        with pytest.raises(DataError, match=f"between 5 and 37 here, .* all 5 classes; not {size}"):
            load_training("npz", file=file, validation_size=size)


def test_some_of_the_training_examples_are_chosen_whatever_their_classes(tmp_path):
    """As in every run that has done so: another choice would be other data."""
    path = save(tmp_path / "own.npz", 200, 10, 10)
    train, validation = load_training("npz", file=path, validation_size=0.15, train_size=20)
    assert (counts_of(train), counts_of(validation)) == ([19, 1, 0], [26, 1, 1])


def test_other_sets_are_split_as_they_were(tmp_path):
    # Fixed by the shuffle of numpy, which runs of earlier versions have.
    file = save(tmp_path / "own.npz", 10, 2)
    old = load_part("npz", "test", file=file, split="shuffled")
    assert old.images[:, 0, 1, 0].tolist() == split_positions(12, 2, 0)[1].tolist()
    digits, _ = load_training("digits", validation_size=180)
    same, _ = load_training("digits", validation_size=180.0, split="auto")
    assert digits.fingerprint() == same.fingerprint()
    other, held = load_training("digits", validation_size=180, split="shuffled")
    assert other.fingerprint() != digits.fingerprint()
    assert len(held) == 180


@pytest.mark.parametrize(("name", "split"), [("npz", "shuffled"), ("mnist", "auto")])
def test_a_config_of_an_earlier_version_keeps_its_split(name, split):
    fields = {"model": {}, "data": {"name": name, "validation_size": 100}}
    assert modernize(fields)["data"]["split"] == split
    fields["data"]["split"] = "stratified"
    assert modernize(fields)["data"]["split"] == "stratified"
