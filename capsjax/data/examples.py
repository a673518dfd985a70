"""Pictures of named classes: found in folders or in a table, divided into parts, and read."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from capsjax.data.arrays import Arrays, DataError
from capsjax.data.npz import set_aside
from capsjax.data.pictures import (
    SUFFIXES,
    check_size,
    describe_picture,
    find_pictures,
    read_pictures,
)
from capsjax.registry import look_up

# Channels by the setting `colour`; "auto" is grey if every picture is.
CHANNELS = {"auto": 0, "grey": 1, "colour": 3}
PARTS = ("train", "test")
# Other names of parts in sets that are passed around, and what we call them; none for validation.
OTHER_NAMES = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "",
    "valid": "",
    "validation": "",
}


class Example(NamedTuple):
    """A picture and the name of its class."""

    path: Path
    class_name: str


# Examples by part; where there is no "test", a share of "train" is set aside.
Parts = Mapping[str, Sequence[Example]]


def find_in_folders(file: str) -> Parts:
    """Find pictures in DIR/CLASS/, or in DIR/train/CLASS/ and DIR/test/CLASS/.

    Args:
      file: the folder DIR.

    Raises:
      ValueError: if there is no such folder, or it has none of these forms.
    """
    if not file:
        raise DataError("data.name=folder needs the folder: --config.data.file=DIR")
    folder = Path(file).expanduser()
    if not folder.is_dir():
        raise DataError(f"no folder {file!r} (--config.data.file)")
    _check_names_of_parts(folder)
    names = {each.name for each in _folders_in(folder)}
    if not names & set(PARTS):
        return {"train": _find_classes(folder)}
    if names - set(PARTS):
        raise DataError(
            f"{file!r} has the folders {', '.join(sorted(names))}: either classes, or train and "
            "test, which hold classes"
        )
    return {part: _find_classes(folder / part) for part in PARTS if part in names}


def find_in_table(file: str) -> Parts:
    """Find the pictures that a table lists, of comma-separated values with a line of names first.

    Args:
      file: the table, with the columns path, relative to its folder, label, and part if there is a
        test part.

    Raises:
      DataError: for a table without these columns, or a row that names no picture or class.
    """
    if not file:
        raise DataError("data.name=csv needs the table: --config.data.file=PATH.csv")
    path = Path(file).expanduser()
    try:
        with path.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened)
            rows, columns = list(reader), list(reader.fieldnames or ())
    except FileNotFoundError:
        raise DataError(f"no file {file!r} (--config.data.file)") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file!r} is no readable table: {error}") from None
    missing = [name for name in ("path", "label") if name not in columns]
    if missing:
        raise DataError(
            f"{file!r} lacks the column {missing[0]!r}; it has {', '.join(columns) or 'none'}"
        )
    parts: dict[str, list[Example]] = {name: [] for name in PARTS}
    for number, row in enumerate(rows, start=1):
        where = f"row {number} of {file!r}"
        found, part = path.parent / (row["path"] or ""), row.get("part", "train")
        if not row["label"] or part not in PARTS:
            raise DataError(f"{where} needs a label, and train or test as its part")
        if not found.is_file():
            raise DataError(f"{where} names the picture {str(found)!r}, which is not there")
        parts[part].append(Example(found, row["label"]))
    if not rows:
        raise DataError(f"{file!r} has no rows")
    return {name: examples for name, examples in parts.items() if examples}


def load_examples(
    parts: Parts,
    part: str,
    file: str,
    image_size: Sequence[int],
    colour: str,
    split: str = "auto",
) -> Arrays:
    """Read the pictures of a part; classes have the order of their names.

    Args:
      parts: the examples.
      part: "train" or "test".
      file: where they were found, for messages.
      image_size: rows and columns that pictures are resized to; empty for their own.
      colour: a name of `CHANNELS`.
      split: how the test part is set aside, see `capsjax.data.splits.divide`.

    Raises:
      ValueError: for pictures that cannot be read, or that do not make classes of images of one
        size; the message names the first.
    """
    everything = [example for examples in parts.values() for example in examples]
    class_names = tuple(sorted({example.class_name for example in everything}))
    chosen = _divide(parts, class_names, split).get(part, ())
    if not chosen:
        raise DataError(f"{file!r} has no pictures for training, its part 'train'")
    if part == "train":
        _check_classes(chosen, class_names, file)
    image_shape = _image_shape([example.path for example in everything], image_size, colour)
    images = read_pictures([example.path for example in chosen], image_shape)
    numbers = {name: number for number, name in enumerate(class_names)}
    labels = np.array([numbers[example.class_name] for example in chosen], np.int32)
    return Arrays(images, labels, len(class_names), class_names=class_names)


def _image_shape(
    paths: Sequence[Path], image_size: Sequence[int], colour: str
) -> tuple[int, int, int]:
    """Return the shape of all images, (h, w, c)."""
    channels = look_up(CHANNELS, colour, "colour of pictures")
    check_size(image_size)
    # All of them, though the size may be given: otherwise a picture of the test part that cannot be
    # read would be found after training.
    found = [describe_picture(path) for path in paths]
    first = found[0].size
    for path, each in zip(paths, found, strict=True):
        if not image_size and each.size != first:
            raise DataError(
                f"{paths[0]} has {first[0]}x{first[1]} pixels and {path} "
                f"{each.size[0]}x{each.size[1]}: give the rows and columns for all, image_size"
            )
    return (*(image_size or first), channels or (1 if all(each.is_grey for each in found) else 3))


def _folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder by name, without those that other programs hide there."""
    return sorted(
        each for each in folder.iterdir() if each.is_dir() and not each.name.startswith((".", "__"))
    )


def _check_names_of_parts(folder: Path) -> None:
    """Check that no part of another name than ours would be taken for a class."""
    remedies = {}
    for each in _folders_in(folder):
        part = OTHER_NAMES.get(each.name.casefold(), each.name)
        holds_pictures = any(inside.suffix.lower() in SUFFIXES for inside in each.iterdir())
        if part == each.name or holds_pictures or not _folders_in(each):
            continue
        remedies[each.name] = (
            f"rename {each.name} to {part}"
            if part
            else f"move the classes of {each.name} into train, of which a validation part is held "
            "out, data.validation_size"
        )
    if remedies:
        raise DataError(
            f"{', '.join(remedies)} in {str(folder)!r} hold folders and no pictures, as parts of a "
            f"set do: {', '.join(remedies.values())}"
        )


def _find_classes(folder: Path) -> list[Example]:
    classes = _folders_in(folder)
    if not classes:
        raise DataError(
            f"no folders of classes in {str(folder)!r}: pictures lie in DIR/CLASS/, or in "
            "DIR/train/CLASS/ and DIR/test/CLASS/"
        )
    return [Example(path, each.name) for each in classes for path in find_pictures([each])]


def _divide(parts: Parts, class_names: Sequence[str], split: str) -> Parts:
    """Set a sixth aside for testing if there is no test part."""
    if "test" in parts:
        return parts
    train = parts["train"]
    labels = np.array([class_names.index(example.class_name) for example in train])
    rest, held_out = set_aside(labels, split, class_names, "make a test part of your own")
    return {"train": [train[k] for k in rest], "test": [train[k] for k in held_out]}


def _check_classes(chosen: Sequence[Example], class_names: Sequence[str], file: str) -> None:
    if len(class_names) == 1:
        raise DataError(f"{file!r} has one class, {class_names[0]!r}: a network needs two")
    trained = {example.class_name for example in chosen}
    for name in class_names:
        if name not in trained:
            raise DataError(
                f"the class {name!r} in {file!r} has pictures for testing and none for training: "
                "add some, or make a test part of your own"
            )
