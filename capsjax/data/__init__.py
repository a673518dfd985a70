"""Sources of images. The test part is loaded by a call of its own, at the end."""

from collections.abc import Callable, Mapping
from typing import Any

from capsjax import registry
from capsjax.data.arrays import Arrays, DataError, Sizes, split_validation
from capsjax.data.own_pictures import Folder, Table
from capsjax.data.shapes import Shapes

__all__ = [
    "COMPONENTS",
    "Arrays",
    "DataError",
    "Folder",
    "Shapes",
    "Sizes",
    "Table",
    "fitted",
    "load_part",
    "load_training",
    "register",
    "source_of",
    "split_validation",
    "training_sizes",
]


def load_part(name: str, part: str, *, dir: str = "", file: str = "", **settings: Any) -> Arrays:
    """Load the whole training or test part of a data set.

    Args:
      name: "digits", "npz", "folder", "csv", "shapes", or an image-classification set of TFDS.
      part: "train" or "test".
      dir: TFDS's directory; empty for $TFDS_DATA_DIR, else TFDS's default.
      file: the .npz file of "npz", the folder of "folder", the table of "csv".
      **settings: by name, the settings of sources that have any: `shapes` those of `Shapes`.

    Raises:
      DataError: if it is not available; the message names the remedy.
    """
    if part not in ("train", "test"):
        raise ValueError(f"a part is 'train' or 'test', not {part!r}")
    own = registry.settings_in({"name": name, **settings}, COMPONENTS)
    if name in SOURCES:
        return SOURCES[name](part, dir, file)
    if name in COMPONENTS:
        source = registry.make(COMPONENTS, "source of data", name, own)
        return source.load(part) if name in GENERATED else source.load(part, file)
    from capsjax.data.tfds import load_tfds

    return load_tfds(name, dir, part)


def register(name: str, load: Callable[[str, str, str], Arrays]) -> Callable:
    """Make a source of data known by name, for configs: `data.name`.

    Args:
      name: an identifier.
      load: a function of (part, dir, file) that returns the part "train" or "test"; the last two
        are the fields of the config, and may be ignored.

    Raises:
      ValueError: for a name that is taken.
    """
    return registry.register(SOURCES, name, load, "source of data")


def _digits(part: str, dir: str, file: str) -> Arrays:
    from capsjax.data.digits import load_digits

    return load_digits(part)


def _npz(part: str, dir: str, file: str) -> Arrays:
    from capsjax.data.npz import load_npz

    return load_npz(file, part)


# Every other name is one of TFDS.
SOURCES: dict[str, Callable[[str, str, str], Arrays]] = {"digits": _digits, "npz": _npz}
# Data that are generated, which need no file.
GENERATED = {"shapes": Shapes}
# A user's own pictures, of any size.
PICTURES = {"folder": Folder, "csv": Table}
# Sources that are components, which a config names, with settings in `data.NAME`.
COMPONENTS = {**GENERATED, **PICTURES}

# Fields of a section `data` that choose among the examples of a source.
OF_PARTS = ("train_size", "validation_size", "split_seed")


def source_of(data: Any) -> dict[str, Any]:
    """Return the arguments of `load_part` that the section `data` of a config has, but the part.

    Args:
      data: a dict or a ConfigDict.

    >>> source_of({"name": "digits", "dir": "", "train_size": 10})
    {'name': 'digits', 'dir': ''}
    """
    return {field: value for field, value in data.items() if field not in OF_PARTS}


def fitted(source: Mapping[str, Any], image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return the arguments of `load_part` that make images of a network's shape of any pictures.

    Args:
      source: arguments of `load_part`; other sources than pictures keep theirs.
      image_shape: (h, w, c) that the network takes.

    >>> fitted({"name": "csv", "file": "a.csv"}, (28, 28, 1))["csv"]
    {'image_size': (28, 28), 'colour': 'grey'}
    """
    if source["name"] not in PICTURES:
        return dict(source)
    *size, channels = image_shape
    settings = {"image_size": tuple(size), "colour": "grey" if channels == 1 else "colour"}
    return {**source, source["name"]: settings}


def load_training(
    name: str,
    *,
    dir: str = "",
    file: str = "",
    train_size: int = 0,
    validation_size: int = 0,
    split_seed: int = 0,
    **settings: Any,
) -> tuple[Arrays, Arrays | None]:
    """Load what a training run may use: training and validation examples, never the test part.

    Args:
      name, dir, file, **settings: as in `load_part`.
      train_size: number of training examples to use, chosen after the split; 0 for all.
      validation_size: number of examples held out for validation; 0 for none.
      split_seed: seed of the shuffle that chooses both.

    Returns:
      Training and validation examples; None for an empty validation part.

    Raises:
      DataError: if the set is not available or too small for the sizes.
    """
    train, validation = split_validation(
        load_part(name, "train", dir=dir, file=file, **settings),
        validation_size,
        split_seed,
        stratify=name == "digits",
    )
    if train_size > len(train):
        raise DataError(f"data.train_size is {train_size} and only {len(train)} examples are left")
    if 0 < train_size < len(train):
        _, train = split_validation(train, train_size, split_seed)
    return train, validation


def training_sizes(name: str, **settings) -> Sizes:
    """Return the sizes of the training examples that `load_training` gives.

    The common sets of TFDS are known by name, so that a network can be sized before a download.

    Args:
      name, settings: the arguments of `load_training`.

    Raises:
      DataError: as `load_training`, for a set that has to be read.
    """
    from capsjax.data.tfds import TRAINING_SIZES

    if name not in TRAINING_SIZES:
        train, _ = load_training(name, **settings)
        return Sizes(train.image_shape, train.num_classes, len(train))
    known = TRAINING_SIZES[name]
    rest = known.num_examples - settings.get("validation_size", 0)
    return known._replace(num_examples=settings.get("train_size", 0) or rest)
