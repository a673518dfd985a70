"""Sources of images. The test part is loaded by a call of its own, at the end."""

from collections.abc import Callable, Mapping
from typing import Any

from capsjax import registry
from capsjax.data.arrays import Arrays, DataError, Sizes, split_validation
from capsjax.data.own_pictures import Folder, HuggingFace, Table
from capsjax.data.shapes import Shapes
from capsjax.data.splits import SPLITS, count_of, divide

__all__ = [
    "COMPONENTS",
    "Arrays",
    "DataError",
    "Folder",
    "HuggingFace",
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


def load_part(
    name: str, part: str, *, dir: str = "", file: str = "", split: str = "auto", **settings: Any
) -> Arrays:
    """Load the whole training or test part of a data set.

    Args:
      name: "digits", "npz", "folder", "csv", "shapes", "hf:" and a set of the Hugging Face Hub, or
        an image-classification set of TFDS.
      part: "train" or "test".
      dir: TFDS's directory, or that of downloads from the Hub; empty for $TFDS_DATA_DIR, else the
        default of either.
      file: the .npz file of "npz", the folder of "folder", the table of "csv", a copy of a set of
        the Hub.
      split: how a sixth of a user's own data is set aside for testing where they have no test part,
        see `capsjax.data.splits.divide`.
      **settings: by name, the settings of sources that have any: `shapes` those of `Shapes`.

    Raises:
      DataError: if it is not available; the message names the remedy.
    """
    if part not in ("train", "test"):
        raise ValueError(f"a part is 'train' or 'test', not {part!r}")
    registry.look_up(SPLITS, split, "way to split (data.split)")
    own = registry.settings_in({"name": name, **settings}, COMPONENTS)
    component = registry.component_of(name)
    how = {"split": split} if component in OWN else {}
    if name in SOURCES:
        return SOURCES[name](part, dir, file, **how)
    if component in COMPONENTS:
        source = registry.make(COMPONENTS, "source of data", component, own)
        if isinstance(source, HuggingFace):
            return source.load(name, part, dir, file, **how)
        return source.load(part) if name in GENERATED else source.load(part, file, **how)
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


def _npz(part: str, dir: str, file: str, split: str) -> Arrays:
    from capsjax.data.npz import load_npz

    return load_npz(file, part, split)


# Every other name is one of TFDS.
SOURCES: dict[str, Callable[..., Arrays]] = {"digits": _digits, "npz": _npz}
# Data that are generated, which need no file.
GENERATED = {"shapes": Shapes}
# A user's own pictures, of any size.
PICTURES = {"folder": Folder, "csv": Table, "hf": HuggingFace}
# Sources that are components, which a config names, with settings in `data.NAME`.
COMPONENTS = {**GENERATED, **PICTURES}
# Sources of a user's own data, of any number of examples, and with classes of any sizes.
OWN = ("npz", *PICTURES)

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


def split_before(name: str) -> str:
    """Return the way in which earlier versions split the data of a source, for `data.split`.

    >>> split_before("npz"), split_before("mnist")
    ('shuffled', 'auto')
    """
    return "shuffled" if registry.component_of(name) in OWN else "auto"


def fitted(source: Mapping[str, Any], image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return the arguments of `load_part` that make images of a network's shape of any pictures.

    Args:
      source: arguments of `load_part`; other sources than pictures keep theirs.
      image_shape: (h, w, c) that the network takes.

    >>> fitted({"name": "csv", "file": "a.csv"}, (28, 28, 1))["csv"]
    {'image_size': (28, 28), 'colour': 'grey'}
    """
    component = registry.component_of(source["name"])
    if component not in PICTURES:
        return dict(source)
    *size, channels = image_shape
    settings = {"image_size": tuple(size), "colour": "grey" if channels == 1 else "colour"}
    return {**source, component: {**source.get(component, {}), **settings}}


def load_training(
    name: str,
    *,
    dir: str = "",
    file: str = "",
    train_size: int = 0,
    validation_size: float | int = 0,
    split_seed: int = 0,
    split: str = "auto",
    **settings: Any,
) -> tuple[Arrays, Arrays | None]:
    """Load what a training run may use: training and validation examples, never the test part.

    Args:
      name, dir, file, **settings: as in `load_part`.
      train_size: number of training examples to use, chosen after the split by a shuffle that does
        not look at classes, whatever `split` is; 0 for all.
      validation_size: number of examples held out for validation, or their share if it is below 1;
        0 for none.
      split_seed: seed of the shuffle that chooses both.
      split: how examples are held out, see `capsjax.data.splits.divide`. "auto" gives all parts of
        a user's own data every class; other sets have a shuffle of all examples.

    Returns:
      Training and validation examples; None for an empty validation part.

    Raises:
      DataError: if the set is not available or too small for the sizes.
    """
    everything = load_part(name, "train", dir=dir, file=file, split=split, **settings)
    count = count_of(validation_size, len(everything))
    if registry.component_of(name) in OWN or split != "auto":
        train, validation = _hold_out(everything, count, split_seed, split, validation_size < 1)
    else:
        train, validation = split_validation(everything, count, split_seed, name == "digits")
    if train_size > len(train):
        raise DataError(f"data.train_size is {train_size} and only {len(train)} examples are left")
    if 0 < train_size < len(train):
        _, train = split_validation(train, train_size, split_seed)
    return train, validation


def _hold_out(
    everything: Arrays, count: int, seed: int, split: str, is_share: bool
) -> tuple[Arrays, Arrays | None]:
    """Hold examples out for validation, of every class unless they are "shuffled"."""
    if split == "shuffled" or not 0 < count < len(everything):
        return split_validation(everything, count, seed)
    rest, held_out = divide(
        everything.labels,
        count,
        seed,
        split,
        class_names=everything.class_names,
        parts="training and validation",
        remedy="train without validation (data.validation_size=0, selection=last)",
    )
    if len(held_out) != count and not is_share:
        classes = len(everything.classes())
        raise DataError(
            f"data.validation_size is a share below 1, or between {classes} and "
            f"{len(everything) - classes} here, so that both parts have all {classes} classes; not "
            f"{count}"
        )
    return everything.take(rest), everything.take(held_out)


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
    rest = known.num_examples - count_of(settings.get("validation_size", 0), known.num_examples)
    return known._replace(num_examples=settings.get("train_size", 0) or rest)
