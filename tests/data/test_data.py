"""Arrays, their validation split, the digits, and a user's own .npz file."""

import hashlib
import zipfile

import numpy as np
import pytest

import capsjax.data
from capsjax.data import Arrays, DataError, load_part, load_training, split_validation
from capsjax.data.digits import load_digits
from capsjax.data.labels import describe_unseen

IMAGES = np.random.RandomState(0).randint(0, 256, (12, 4, 5, 3)).astype(np.uint8)
LABELS = np.arange(12, dtype=np.int32) % 3
SEVERAL = np.tri(3, dtype=np.int32)[LABELS]  # one to three classes for each image


def numbered(n, num_classes=10):
    """Examples that can be told apart: image k holds the bytes of k."""
    images = np.arange(n, dtype=np.uint32)[:, None].view(np.uint8).reshape(n, 2, 2, 1)
    return Arrays(images, (np.arange(n) % num_classes).astype(np.int32), num_classes)


def positions(arrays):
    return arrays.images.reshape(len(arrays), 4).view(np.uint32)[:, 0].tolist()


def digest(array):
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


def image_set(arrays):
    return {image.tobytes() for image in arrays.images}


@pytest.fixture
def npz(tmp_path):
    def write(**arrays):
        path = tmp_path / "own.npz"
        np.savez(path, **arrays)
        return str(path)

    return write


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES[..., 0], LABELS, r"shape \(n, h, w, c\), not uint8 of shape \(12, 4, 5\)"),
        (IMAGES.astype(np.float32), LABELS, "not float32"),
        (IMAGES, LABELS[:-1], r"of shape \(12,\), .*, not int32 of shape \(11,\)"),
        (IMAGES, LABELS[:, None], "labels are int32"),
        (IMAGES, LABELS.astype(np.int64), "not int64"),
        (IMAGES[:0], LABELS[:0], "empty"),
        (IMAGES, LABELS + 1, "labels run from 0 to 2, not from 1 to 3"),
        (IMAGES, LABELS - 1, "labels run from 0 to 2, not from -1 to 1"),
    ],
)
def test_arrays_refuse_what_does_not_fit(images, labels, message):
    with pytest.raises(DataError, match=message):
        Arrays(images, labels, 3)


def test_take_keeps_order_and_classes():
    taken = numbered(20).take(np.array([7, 3, 3]))
    assert positions(taken) == [7, 3, 3]
    assert taken.labels.tolist() == [7, 3, 3]
    assert taken.num_classes == 10
    assert taken.image_shape == (2, 2, 1)
    assert len(taken) == 3


@pytest.mark.parametrize("stratify", [False, True])
def test_split_covers_each_example_once_in_the_order_of_the_source(stratify):
    train, validation = split_validation(numbered(200), 50, seed=0, stratify=stratify)
    assert len(train) == 150
    assert len(validation) == 50
    assert positions(train) == sorted(positions(train))
    assert positions(validation) == sorted(positions(validation))
    assert sorted(positions(train) + positions(validation)) == list(range(200))
    if stratify:
        assert np.bincount(validation.labels).tolist() == [5] * 10


def test_split_is_the_frozen_shuffle_of_its_seed():
    """Not the first examples: TFDS has shuffled the original files already."""
    first, again, other = (split_validation(numbered(100), 10, seed)[1] for seed in (0, 0, 1))
    assert positions(first) == [2, 16, 26, 54, 55, 73, 75, 86, 93, 95]
    assert positions(first) == positions(again)
    assert positions(first) != positions(other)


@pytest.mark.parametrize("size", [-1, 100, 101])
def test_split_refuses_a_size_that_leaves_nothing(size):
    with pytest.raises(DataError, match=f"validation_size is between 0 and 99 here, not {size}"):
        split_validation(numbered(100), size, seed=0)


def test_no_validation_is_none():
    arrays = numbered(100)
    assert split_validation(arrays, 0, seed=0) == (arrays, None)


def test_digits_are_the_pinned_1437_and_360():
    train, test = load_part("digits", "train"), load_part("digits", "test")
    assert train.images.shape == (1437, 8, 8, 1)
    assert test.images.shape == (360, 8, 8, 1)
    assert (train.images.min(), train.images.max()) == (0, 255)
    # Of 36 digits in 360, each class has its share to within one.
    assert set(np.bincount(test.labels)) <= {35, 36, 37}
    assert np.bincount(train.labels).sum() == 1437
    # A split that moved would make every published number of this data set wrong.
    assert digest(test.labels) == "9ce5b942abae7d0e"
    assert digest(test.images) == "de85aee14a9506dd"
    assert digest(train.images) == "c74011e1ef81bfc8"


def test_train_validation_and_test_of_the_digits_are_disjoint():
    train, validation = load_training("digits", validation_size=180)
    test = load_part("digits", "test")
    parts = [image_set(part) for part in (train, validation, test)]
    # No two of the 1,797 images are equal, so sets of bytes tell whether an example is shared.
    assert [len(part) for part in parts] == [1257, 180, 360]
    assert len(set.union(*parts)) == 1797
    assert set(np.bincount(validation.labels)) <= {17, 18, 19}


def test_validation_depends_on_split_seed_alone():
    """Two runs that differ in their training seed must be compared on the same examples."""
    np.random.seed(1)  # noqa: NPY002 - a split that used the global state would change here
    _, first = load_training("digits", validation_size=180, split_seed=3)
    np.random.seed(2)  # noqa: NPY002
    _, again = load_training("digits", validation_size=180, split_seed=3)
    _, other = load_training("digits", validation_size=180, split_seed=4)
    np.testing.assert_array_equal(first.images, again.images)
    assert image_set(first) != image_set(other)


def test_train_size_cuts_after_the_validation_split():
    """So the validation part stays the same for every size of the training part."""
    whole, validation = load_training("digits", validation_size=180)
    cut, same_validation = load_training("digits", validation_size=180, train_size=100)
    assert len(cut) == 100
    assert image_set(cut) < image_set(whole)
    np.testing.assert_array_equal(validation.images, same_validation.images)


def test_train_size_of_everything_that_is_left_is_everything():
    train, _ = load_training("digits", validation_size=437, train_size=1000)
    assert len(train) == 1000


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"validation_size": 1437}, "data.validation_size is between 0 and 1436 here, not 1437"),
        ({"validation_size": -1}, "data.validation_size is between 0 and 1436"),
        ({"train_size": 1438}, "data.train_size is 1438 and only 1437 examples are left"),
        ({"train_size": 1400, "validation_size": 100}, "only 1337 examples are left"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(DataError, match=message):
        load_training("digits", **sizes)


def test_training_never_asks_for_the_test_part(monkeypatch):
    asked = []

    def spy(part):
        asked.append(part)
        return load_digits(part)

    monkeypatch.setattr("capsjax.data.digits.load_digits", spy)
    load_training("digits", validation_size=180, train_size=500)
    assert asked == ["train"]


def test_parts_are_train_and_test():
    with pytest.raises(ValueError, match="'train' or 'test', not 'validation'"):
        load_part("digits", "validation")


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_npz_with_a_test_part_is_taken_as_it_is(npz, channels):
    images = IMAGES[..., 0] if channels is None else IMAGES[..., :channels]
    path = npz(images=images[:8], labels=LABELS[:8], test_images=images[8:], test_labels=LABELS[8:])
    train, test = (load_part("npz", part, file=path) for part in ("train", "test"))
    assert train.image_shape == (4, 5, channels or 1)
    np.testing.assert_array_equal(train.images.reshape(images[:8].shape), images[:8])
    np.testing.assert_array_equal(test.images.reshape(images[8:].shape), images[8:])
    np.testing.assert_array_equal(train.labels, LABELS[:8])
    np.testing.assert_array_equal(test.labels, LABELS[8:])


def test_npz_without_a_test_part_sets_a_sixth_aside(npz):
    images = numbered(60).images
    path = npz(images=images, labels=np.arange(60) % 10)
    train, test = (load_part("npz", part, file=path) for part in ("train", "test"))
    assert len(train) == 50
    assert len(test) == 10
    assert sorted(positions(train) + positions(test)) == list(range(60))
    assert positions(test) == positions(load_part("npz", "test", file=path))
    assert capsjax.data.load_training("npz", file=path, validation_size=10)[1].num_classes == 10


@pytest.mark.parametrize("dtype", ["i1", "u1", ">i2", "u4", "i8", "u8"])
def test_npz_labels_are_integers_of_any_type(npz, dtype):
    train = load_part("npz", "train", file=npz(images=IMAGES, labels=LABELS.astype(dtype)))
    assert (train.num_classes, train.class_names) == (3, ())
    assert set(train.labels.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float32])
def test_npz_one_hot_labels_are_numbers(tmp_path, kind):
    images, numbers = np.zeros((12, 4, 4), np.uint8), np.arange(12) % 3
    one_hot = np.eye(4)[numbers].astype(kind)  # of four classes, one of which has no image
    parts = {"test_images": images[:2], "test_labels": one_hot[:2]}
    np.savez(tmp_path / "a.npz", images=images, labels=one_hot, **parts)
    train = load_part("npz", "train", file=str(tmp_path / "a.npz"))
    assert train.labels.tolist() == numbers.tolist()
    assert train.num_classes == 4
    several = {**parts, "test_labels": np.ones((2, 4), np.uint8)}
    np.savez(tmp_path / "b.npz", images=images, labels=one_hot.astype(np.uint8), **several)
    assert load_part("npz", "train", file=str(tmp_path / "b.npz")).labels.shape == (12, 4)


@pytest.mark.parametrize("one_hot", ["labels", "test_labels"])
def test_npz_one_hot_labels_may_stand_beside_numbers(npz, one_hot):
    given = {"labels": LABELS, "test_labels": LABELS[::-1]}
    given[one_hot] = np.eye(4, dtype=np.uint8)[given[one_hot]]
    path = npz(images=IMAGES, test_images=IMAGES, **given)
    train, test = (load_part("npz", part, file=path) for part in ("train", "test"))
    assert (train.labels.tolist(), test.labels.tolist()) == (LABELS.tolist(), LABELS[::-1].tolist())
    assert train.num_classes == test.num_classes == 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"test_labels": SEVERAL}, "images have one class each and test_images several classes"),
        ({"labels": SEVERAL, "test_labels": LABELS}, "several classes each and test_images one"),
        ({"test_masks": IMAGES[..., 0] > 9}, "one class each and test_images a class for each"),
        ({"test_labels": LABELS.astype(str)}, "test_labels are names of classes and labels are"),
        ({"labels": LABELS.astype(str), "test_labels": LABELS}, "and test_labels are not: give"),
    ],
)
def test_npz_labels_of_two_forms_are_refused_before_training(npz, given, message):
    given = {"images": IMAGES, "labels": LABELS, "test_images": IMAGES, **given}
    with pytest.raises(DataError, match=message):
        load_part("npz", "train", file=npz(**given))


def test_npz_labels_may_be_names_in_both_parts(npz):
    names = np.array(["owl", "cat", "dog", "cat"])
    path = npz(images=IMAGES[:4], labels=names, test_images=IMAGES[4:6], test_labels=["emu", "dog"])
    train, test = (load_part("npz", part, file=path) for part in ("train", "test"))
    assert train.class_names == test.class_names == ("cat", "dog", "emu", "owl")
    assert train.labels.tolist() == [3, 0, 1, 0]
    assert test.labels.tolist() == [2, 1]
    assert describe_unseen(train, test, "test").endswith("no training image has: emu")


def test_there_are_as_many_names_as_classes():
    named = Arrays(IMAGES, LABELS, 3, class_names=("a", "b", "c"))
    assert named.take(np.array([1])).class_names == ("a", "b", "c")
    with pytest.raises(DataError, match="2 names for 3 classes"):
        Arrays(IMAGES, LABELS, 3, class_names=("a", "b"))


def test_npz_classes_are_counted_over_both_parts(npz):
    path = npz(
        images=IMAGES[:8],
        labels=np.arange(8) % 4,
        test_images=IMAGES[8:],
        test_labels=np.array([0, 4, 0, 0], np.uint8),
    )
    assert load_part("npz", "train", file=path).num_classes == 5
    assert load_part("npz", "test", file=path).labels.tolist() == [0, 4, 0, 0]


@pytest.mark.parametrize(
    ("label", "missing"),
    [(1_000_000, "3 to 999999: correct"), (2**31 - 3, "3 to 2147483644"), (4, "3: correct")],
)
def test_one_wrong_label_is_refused_at_once_with_the_missing_classes(npz, label, missing):
    labels = LABELS.astype(np.int64)
    labels[7] = label
    with pytest.raises(
        DataError, match=f"name 4 classes up to {label}, .* has the label {missing}"
    ):
        load_part("npz", "train", file=npz(images=IMAGES, labels=labels))


def test_many_missing_classes_are_a_short_list(npz):
    path = npz(images=IMAGES, labels=np.arange(12) * 2)
    with pytest.raises(DataError, match="has the label 1, 3, 5, 7, 9 and 6 more: "):
        load_part("npz", "train", file=path)


def test_a_file_with_some_classes_can_be_tested_on(npz):
    path = npz(images=IMAGES, labels=LABELS * 4)
    assert load_part("npz", "test", file=path).num_classes == 9


def test_classes_that_training_never_saw_are_described():
    three, two = Arrays(IMAGES, LABELS, 3), Arrays(IMAGES[:8], LABELS[:8] % 2, 3)
    line = "warning: test images have classes that no training image has: 2"
    assert describe_unseen(two, three, "test") == line
    assert describe_unseen(three, two, "test") == ""
    several = np.zeros((12, 3), np.int32)
    several[0, 1] = 1
    columns = Arrays(IMAGES, several, 3), Arrays(IMAGES, several[:, [1, 0, 2]], 3)
    assert describe_unseen(*columns, "test").endswith("has: 0")


@pytest.mark.parametrize(
    ("changed", "differing"),
    [
        (lambda a: Arrays(255 - a.images, a.labels, 3), {"images"}),
        (lambda a: Arrays(a.images.reshape(12, 5, 4, 3), a.labels, 3), {"images"}),
        (lambda a: Arrays(a.images[:, ::-1], a.labels, 3), {"images"}),
        (lambda a: Arrays(a.images, a.labels[::-1], 3), {"labels"}),
        (lambda a: Arrays(a.images, a.labels, 4), {"classes"}),
        (lambda a: a.take(np.arange(11)), {"number", "images", "labels"}),
        (lambda a: a.take(np.arange(12)), set()),
    ],
)
def test_a_fingerprint_differs_where_the_data_do(changed, differing):
    arrays = Arrays(IMAGES, LABELS, 3)
    before, after = arrays.fingerprint(), changed(arrays).fingerprint()
    assert {name for name in before if before[name] != after[name]} == differing


def test_a_fingerprint_is_pinned():
    """Otherwise every run would take its own data for others after an update."""
    assert Arrays(IMAGES, LABELS, 3).fingerprint() == {
        "number": 12,
        "classes": 3,
        "images": "a32ea49083072bc58f06e590b762d3abf7d2a559c8f7276137c48cadd3bf0347",
        "labels": "49d91e2700fc9aecf61ed4e2a6abf66ef4414f5b2431761f065a56296dcb469b",
    }


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_npz_floats_from_0_to_1_become_the_nearest_byte(npz, dtype):
    images = np.zeros((12, 2, 2), dtype)
    images[:, 0] = 1.0
    images[:, 1, 1] = 0.5
    train = load_part("npz", "train", file=npz(images=images, labels=LABELS))
    np.testing.assert_array_equal(train.images[0, ..., 0], [[255, 255], [0, 128]])


def test_npz_bool_is_black_and_white(npz):
    images = np.zeros((12, 2, 2), bool)
    images[:, 0] = True
    train = load_part("npz", "train", file=npz(images=images, labels=LABELS))
    np.testing.assert_array_equal(train.images[0, ..., 0], [[255, 255], [0, 0]])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": IMAGES / np.float32(128)}, "images of .*float32 lie between 0 and 1"),
        ({"images": IMAGES - 1.0}, "lie between 0 and 1"),
        ({"images": np.full((12, 4, 4), np.nan)}, "lie between 0 and 1"),
        ({"images": IMAGES.astype(np.int64)}, "uint8 .* or floating point .*, not int64"),
        ({"images": IMAGES.astype(np.complex64)}, "not complex64"),
        ({"images": IMAGES.reshape(12, -1)}, r"shape \(n, h, w, c\)"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "empty"),
        ({"labels": LABELS.astype(np.float64)}, "integers from 0 or names of classes, not float64"),
        ({"labels": np.eye(3)[LABELS].astype(str)}, "labels are integers from 0 or names"),
        ({"labels": LABELS - 1}, r"labels run from .*-1 to 1"),
        ({"labels": LABELS / 2}, r"np.searchsorted\(np.unique\(labels\), labels\) makes"),
        ({"labels": LABELS[:-1]}, "labels has 11 rows and images 12: each image has one"),
        ({"labels": LABELS[:, None]}, r"0 or 1 .*, not from 0 to 2; .* have shape \(12,\)"),
        ({"labels": np.eye(3, dtype=int)[LABELS] * 2}, "are 0 or 1 for each of 3 classes"),
        ({"labels": np.int64(3)}, "one row for each image"),
        ({"labels": LABELS + 1}, "name 3 classes up to 3, and no image has the label 0: correct"),
        ({"test_images": IMAGES, "test_labels": LABELS[1:]}, "test_labels has 11 rows and test_im"),
        ({"test_images": IMAGES[:, :3], "test_labels": LABELS}, r"test_images are \(3, 5, 3\)"),
        ({"test_images": IMAGES + 1.0, "test_labels": LABELS}, "test_images of .*float64"),
        ({"test_images": IMAGES, "test_labels": LABELS / 2}, "test_labels are integers"),
    ],
)
def test_npz_arrays_that_do_not_fit_are_refused(npz, changed, message):
    with pytest.raises(DataError, match=message):
        load_part("npz", "train", file=npz(**{"images": IMAGES, "labels": LABELS, **changed}))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": IMAGES, "labels": LABELS}, "lacks images; it holds x, labels"),
        ({"images": IMAGES}, "lacks labels; it holds images"),
        ({}, "lacks images and labels; it holds nothing"),
    ],
)
def test_npz_names_the_missing_arrays(npz, arrays, message):
    with pytest.raises(DataError, match=message):
        load_part("npz", "train", file=npz(**arrays))


def test_npz_refuses_pickled_objects(npz):
    """Loading a pickle runs code of whoever wrote the file."""
    objects = np.empty(12, object)
    with pytest.raises(DataError, match=r"Python objects, .* labels.astype\(str\)"):
        load_part("npz", "train", file=npz(images=objects, labels=LABELS))


def test_npz_of_one_class_is_refused(npz):
    path = npz(images=np.zeros((4, 4, 4), np.uint8), labels=np.zeros(4, int))
    with pytest.raises(DataError, match="has one class: a network needs two"):
        load_part("npz", "train", file=path)
    # To evaluate a network on some of its classes is no mistake.
    assert len(load_part("npz", "test", file=path)) == 1


@pytest.mark.parametrize(
    ("path", "message"), [("", "--config.data.file=PATH.npz"), ("nowhere.npz", "no file 'nowhere")]
)
def test_npz_file_that_is_not_there(path, message):
    with pytest.raises(DataError, match=message):
        load_part("npz", "train", file=path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"not a zip file",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data[:150] + b"\xff" + data[151:],  # inside of an array: the sum is wrong
    ],
    ids=["empty", "text", "half", "last byte missing", "one byte changed"],
)
def test_npz_that_is_damaged(npz, damage):
    path = npz(images=IMAGES, labels=LABELS)
    with open(path, "rb") as file:
        data = file.read()
    with open(path, "wb") as file:
        file.write(damage(data))
    with pytest.raises(DataError, match="is not a readable"):
        load_part("npz", "train", file=path)


def test_npz_directory_is_no_file(tmp_path):
    with pytest.raises(DataError, match="is not a readable"):
        load_part("npz", "train", file=str(tmp_path))


def test_npz_in_the_home_directory(npz, monkeypatch, tmp_path):
    npz(images=IMAGES, labels=LABELS)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_part("npz", "train", file="~/own.npz")) == 9


def test_npz_may_be_compressed(tmp_path):
    path = str(tmp_path / "small.npz")
    np.savez_compressed(path, images=IMAGES, labels=LABELS)
    assert zipfile.is_zipfile(path)
    assert len(load_part("npz", "train", file=path)) == 9


def test_npz_that_is_compressed_and_damaged(tmp_path):
    path = tmp_path / "small.npz"
    np.savez_compressed(path, images=np.repeat(IMAGES, 50, 0), labels=np.repeat(LABELS, 50))
    data = bytearray(path.read_bytes())
    data[200:260] = b"\xff" * 60
    path.write_bytes(data)
    with pytest.raises(DataError, match="is not a readable"):
        load_part("npz", "train", file=str(path))


def test_npy_file_is_not_npz(tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, IMAGES)
    with pytest.raises(DataError, match="is not a readable"):
        load_part("npz", "train", file=str(path))


@pytest.mark.parametrize("lone", [{"test_images": IMAGES}, {"test_labels": LABELS}])
def test_npz_with_half_a_test_part_is_refused(npz, lone):
    with pytest.raises(DataError, match=r"test_images.*test_labels|test_labels.*test_images"):
        load_part("npz", "test", file=npz(images=IMAGES, labels=LABELS, **lone))


def test_npz_without_any_float_image_is_empty(npz):
    path = npz(images=np.zeros((0, 4, 4)), labels=LABELS[:0])
    with pytest.raises(DataError, match="empty"):
        load_part("npz", "train", file=path)


def test_npz_labels_that_int32_cannot_hold_are_refused(npz):
    with pytest.raises(DataError, match="labels"):
        load_part("npz", "train", file=npz(images=IMAGES, labels=LABELS.astype(np.int64) + 2**32))


def test_npz_with_one_example_says_that_it_is_too_small(npz):
    with pytest.raises(DataError, match="test"):
        load_part("npz", "train", file=npz(images=IMAGES[:1], labels=LABELS[:1]))
