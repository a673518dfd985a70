"""A user's own images, from a .npz file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from capsjax.data.arrays import Arrays, DataError
from capsjax.data.labels import check_no_gaps, from_one_hot
from capsjax.data.splits import divide

TEST_SHARE = 6  # one of six examples is for testing, as in MNIST, if the file has no test part
SPLIT_SEED = 0
OWN_TEST_PART = "save test_images and test_labels too"
# What labels are, by the number of their axes.
FORMS = {1: "one class each", 2: "several classes each", 3: "a class for each pixel"}


def load_npz(path: str, part: str, split: str = "auto") -> Arrays:
    """Load one part of a .npz file.

    The file holds `images` (n, h, w) or (n, h, w, c) and `labels` (n,), integers or the names of
    classes, which are numbered in their order; labels (n, k) are 1 for each class that an image
    has, and those of one class for each image are taken as numbers. Instead of labels it may hold
    `masks` (n, h, w), the class of each pixel, and may hold `test_images` and `test_labels`, or
    `test_masks`; without them a sixth is set aside for testing by a fixed seed. Images are uint8 in
    0..255, or floating point in 0..1 (or bool); masks of one class may be bool. To train on it,
    every class from 0 to the largest label has an image; a test part may have any of them.

    Args:
      path: the file.
      part: "train" or "test".
      split: how the test part is set aside, see `capsjax.data.splits.divide`.

    Raises:
      DataError: if the file is missing or unreadable, or its arrays do not fit.
    """
    if not path:
        raise DataError("data.name=npz needs the file: --config.data.file=PATH.npz")
    try:
        with (
            Path(path).expanduser().open("rb") as opened,
            np.lib.npyio.NpzFile(opened, allow_pickle=False) as file,
        ):
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise DataError(f"no file {path!r} (--config.data.file)") from None
    except Exception as error:  # whatever zipfile, zlib and numpy raise for a damaged file
        if "Object arrays" in str(error):
            raise DataError(
                f"{path!r} holds an array of Python objects, which are not read: save names of "
                "classes as text, labels.astype(str)"
            ) from None
        raise DataError(f"{path!r} is not a readable .npz file: {error}") from error
    _rename_masks(arrays, path)
    class_names = _number_names(arrays)
    missing = {"images", "labels"} - arrays.keys()
    if missing:
        raise DataError(
            f"{path!r} lacks {' and '.join(sorted(missing))}; "
            f"it holds {', '.join(arrays) or 'nothing'}"
        )
    if ("test_images" in arrays) != ("test_labels" in arrays):
        raise DataError(f"{path!r} has one of test_images and test_labels; it needs both or none")
    for name in ("labels", "test_labels"):
        if name in arrays:
            _check_length(arrays, name)
    named = [name for name in ("labels", "test_labels") if name in arrays]
    given = [arrays[name] for name in named]
    labels = [_labels(each, name) for each, name in zip(from_one_hot(given), named, strict=True)]
    _check_forms(labels)
    columns = [each.shape[1] for each in given if each.ndim == 2]
    if class_names:
        num_classes = len(class_names)
    elif columns:  # one for each class, seen or not
        num_classes = columns[0]
    else:
        num_classes = 1 + max(int(each.max(initial=0)) for each in labels)
        if part == "train":
            check_no_gaps(labels, path)
    if part == "train" and num_classes == 1 and labels[0].ndim == 1 and len(labels[0]):
        raise DataError(f"{path!r} has one class: a network needs two")
    classes = {"num_classes": num_classes, "class_names": class_names}
    train = Arrays(_images(arrays["images"], "images"), labels[0], **classes)
    if "test_images" in arrays:
        test = Arrays(_images(arrays["test_images"], "test_images"), labels[1], **classes)
        if test.image_shape != train.image_shape:
            raise DataError(
                f"test_images are {test.image_shape} and images {train.image_shape}, (h, w, c)"
            )
    elif len(train) < 2:
        raise DataError(f"{path!r} has one example, and no test part: none is left to test on")
    else:
        rest, held_out = set_aside(train.labels, split, class_names, OWN_TEST_PART)
        train, test = train.take(rest), train.take(held_out)
    return {"train": train, "test": test}[part]


def set_aside(
    labels: np.ndarray, split: str, class_names: Sequence[str], remedy: str
) -> tuple[np.ndarray, np.ndarray]:
    """Divide the positions of examples into those for training and a sixth for testing.

    Args:
      labels, split, class_names, remedy: as in `capsjax.data.splits.divide`.

    Raises:
      DataError: for a class of one image, which cannot be trained and tested.
    """
    return divide(
        labels,
        max(1, len(labels) // TEST_SHARE),
        SPLIT_SEED,
        split,
        class_names=class_names,
        parts="training and testing",
        remedy=remedy,
    )


def _rename_masks(arrays: dict[str, np.ndarray], path: str) -> None:
    """Call masks labels, which is what the rest of the program calls them."""
    for part in ("", "test_"):
        masks, labels = f"{part}masks", f"{part}labels"
        if masks not in arrays:
            continue
        if labels in arrays:
            raise DataError(f"{path!r} has both {masks} and {labels}: leave one of them out")
        array, images = arrays.pop(masks), arrays.get(f"{part}images")
        if images is not None and array.shape != images.shape[:3]:
            raise DataError(
                f"{masks} are (n, h, w), a class for each pixel of {part}images: "
                f"{images.shape[:3]} here, not {array.shape}"
            )
        arrays[labels] = array.astype(np.uint8) if array.dtype == np.bool_ else array


def _number_names(arrays: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Number labels that are names of classes, in the order of the names, and return these."""
    given = [name for name in ("labels", "test_labels") if name in arrays]
    named = [name for name in given if (arrays[name].dtype.kind, arrays[name].ndim) == ("U", 1)]
    if not named:
        return ()
    others = set(given) - set(named)
    if others:
        raise DataError(
            f"{named[0]} are names of classes and {others.pop()} are not: give both names, or both "
            "numbers"
        )
    found = np.unique(np.concatenate([arrays[name] for name in named]))
    for name in named:
        arrays[name] = np.searchsorted(found, arrays[name])
    return tuple(found.tolist())


def _check_length(arrays: dict[str, np.ndarray], name: str) -> None:
    images = name.replace("labels", "images")
    if arrays[name].ndim == 0 or arrays[images].ndim == 0:
        raise DataError(f"{name} and {images} are arrays, one row for each image")
    if len(arrays[name]) != len(arrays[images]):
        raise DataError(
            f"{name} has {len(arrays[name])} rows and {images} {len(arrays[images])}: each image "
            "has one"
        )


def _check_forms(labels: Sequence[np.ndarray]) -> None:
    """Check that the labels of both parts are of one form, so that both fit one task."""
    forms = [FORMS.get(each.ndim, f"the shape {each.shape}") for each in labels]
    if len(set(forms)) > 1:
        raise DataError(
            f"images have {forms[0]} and test_images {forms[1]}: give both labels of one form"
        )


def _images(images: np.ndarray, name: str) -> np.ndarray:
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype == np.uint8:
        return images
    if images.dtype == np.bool_ or np.issubdtype(images.dtype, np.floating):
        if not ((images >= 0) & (images <= 1)).all():  # false for NaN, true for no images
            raise DataError(f"{name} of {images.dtype} lie between 0 and 1; use uint8 for 0..255")
        return np.round(images * 255.0).astype(np.uint8)
    raise DataError(f"{name} are uint8 (0..255) or floating point (0..1), not {images.dtype}")


def _labels(labels: np.ndarray, name: str) -> np.ndarray:
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{name} are integers from 0 or names of classes, not {labels.dtype}: "
            f"np.searchsorted(np.unique(labels), {name}) makes them so"
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < 2**31 - 1:
        raise DataError(f"{name} run from {labels.min()} to {labels.max()}; they start at 0")
    return labels.astype(np.int32)
