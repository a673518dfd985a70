"""Image-classification sets of the Hugging Face Hub, or local copies of them.

`data.name="hf:ylecun/mnist"` loads a set of the Hub, with the package `datasets` (the extra `hf`).
With `data.file` the set is read from there: a folder of the set's files, or one that
`Dataset.save_to_disk` wrote.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from capsjax.data.arrays import Arrays, DataError
from capsjax.data.examples import CHANNELS, PARTS
from capsjax.data.labels import check_no_gaps
from capsjax.data.npz import set_aside
from capsjax.data.own_pictures import HuggingFace
from capsjax.data.pictures import GREY, check_depth, check_size, fitted_picture, naming
from capsjax.registry import look_up

# Files by which a folder of `save_to_disk` is known: several parts, or one.
SAVED = ("dataset_dict.json", "state.json")
# Pictures that decide whether all are read as grey; a coloured one among the others is refused.
LOOKED_AT = 100


def load_set(
    settings: HuggingFace, name: str, part: str, dir: str, file: str, split: str
) -> Arrays:
    """Load a part of a set, see `HuggingFace.load`."""
    if not name.partition(":")[2]:
        raise DataError("data.name=hf needs the name of a set: --config.data.name=hf:ylecun/mnist")
    parts = _open(settings, name, dir, file)
    if "train" not in parts:
        raise DataError(f"{name} has no part 'train', only {', '.join(sorted(parts)) or 'none'}")
    image_column, label_column = _columns(settings, parts["train"].features, name)
    labels, num_classes, class_names = _labels(parts, label_column, name, part)
    places = {key: (key, np.arange(len(each))) for key, each in labels.items()}
    if "test" not in parts:
        divided = set_aside(labels["train"], split, class_names, "make a test part of your own")
        places = {key: ("train", rows) for key, rows in zip(PARTS, divided, strict=True)}
    pictures = {key: _Pictures(each, image_column, name, key) for key, each in parts.items()}
    image_shape = _image_shape(settings, pictures["train"])
    if part == "train":
        # Otherwise a picture of the test part that cannot be used would be found after training.
        held_back, rows = places["test"]
        for row in _shown(rows, "checking"):
            _usable(pictures[held_back], row, settings, image_shape)
    chosen, rows = places[part]
    images = np.empty((len(rows), *image_shape), np.uint8)
    for position, row in enumerate(_shown(rows, "reading")):
        picture = _usable(pictures[chosen], row, settings, image_shape)
        images[position] = fitted_picture(picture, image_shape)
    return Arrays(images, labels[chosen][rows], num_classes, class_names=class_names)


def _open(settings: HuggingFace, name: str, dir: str, file: str) -> dict[str, Any]:
    """Return the parts "train" and "test" of a set, as far as it has them."""
    import datasets

    path = Path(file).expanduser() if file else None
    if path and not path.is_dir():
        raise DataError(f"no folder {file!r} (--config.data.file), the copy of {name}")
    try:
        if path and any((path / known).exists() for known in SAVED):
            loaded = datasets.load_from_disk(str(path))
        else:
            loaded = datasets.load_dataset(
                str(path) if path else name.partition(":")[2],
                settings.subset or None,
                cache_dir=dir or None,
                revision=None if path else settings.revision or None,
            )
    except Exception as error:  # of the network, the Hub, a damaged file, an unknown subset
        remedy = (
            "look at the files there"
            if path
            else "check the name and the network, or name a local copy: --config.data.file"
        )
        text = " ".join(str(error).split())
        raise DataError(
            f"{name} cannot be loaded ({type(error).__name__}: {text[:300]}): {remedy}"
        ) from error
    parts = loaded if isinstance(loaded, datasets.DatasetDict) else {"train": loaded}
    return {part: parts[part] for part in PARTS if part in parts}


def _columns(settings: HuggingFace, features: Any, name: str) -> tuple[str, str]:
    """Return the columns of images and labels."""
    import datasets

    images = [key for key, each in features.items() if isinstance(each, datasets.Image)]
    labels = [key for key, each in features.items() if isinstance(each, datasets.ClassLabel)]
    labels = labels or [key for key in ("label", "labels") if key in features]
    return (
        _one_column(settings.image_column, images, features, name, "images", "image_column"),
        _one_column(settings.label_column, labels, features, name, "labels", "label_column"),
    )


class _Pictures:
    """The pictures of a part of a set, by row."""

    def __init__(self, rows: Any, column: str, name: str, part: str):
        self._rows, self._column = rows.select_columns([column]), column
        self._origin = f"the {part} part of {name}"

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, row: int) -> str:
        """Return what a message calls the picture in a row."""
        return f"picture {row} of {self._origin}"

    def __getitem__(self, row: int) -> Image.Image:
        """Return the picture in a row.

        Raises:
          DataError: if there is none, it cannot be read, or it has more than 8 bits.
        """
        with naming(self.name(row)):
            picture = self._rows[row][self._column]
        if picture is None:
            raise DataError(
                f"{self.name(row)} is missing: save a copy without that row and name it, "
                "--config.data.file"
            )
        check_depth(picture, self.name(row))
        return picture


def _shown(rows: np.ndarray, doing: str) -> Iterable[int]:
    return tqdm(rows.tolist(), doing, unit="picture", disable=None, leave=False, delay=1)


def _image_shape(settings: HuggingFace, sample: _Pictures) -> tuple[int, int, int]:
    """Return the shape of all images, (h, w, c), by those of the training part."""
    channels = look_up(CHANNELS, settings.colour, "colour of pictures")
    check_size(settings.image_size)
    height, width = settings.image_size or sample[0].size[::-1]
    if not channels:
        few = np.linspace(0, len(sample) - 1, min(len(sample), LOOKED_AT)).astype(int)
        channels = 1 if all(sample[row].mode in GREY for row in few.tolist()) else 3
    return height, width, channels


def _usable(
    pictures: _Pictures, row: int, settings: HuggingFace, image_shape: tuple[int, int, int]
) -> Image.Image:
    """Return the picture in a row, of the size and the colours that the images have."""
    picture, (height, width, channels) = pictures[row], image_shape
    if not settings.image_size and picture.size != (width, height):
        raise DataError(
            f"{pictures.name(row)} has {picture.height}x{picture.width} pixels and the first "
            f"{height}x{width}: give the rows and columns for all, data.hf.image_size"
        )
    if channels == 1 and settings.colour == "auto" and picture.mode not in GREY:
        raise DataError(
            f"{pictures.name(row)} is in colour and others are grey: give the same for all, "
            "data.hf.colour"
        )
    return picture


def _one_column(
    given: str, found: list[str], features: Any, name: str, what: str, setting: str
) -> str:
    known = ", ".join(features)
    if given:
        return look_up({key: key for key in features}, given, f"column of {name}")
    if len(found) != 1:
        raise DataError(
            f"{name} has {len(found)} columns of {what} among {known}: name one, data.hf.{setting}"
        )
    return found[0]


def _labels(
    parts: dict[str, Any], column: str, name: str, part: str
) -> tuple[dict[str, np.ndarray], int, tuple[str, ...]]:
    """Return the labels of each part, the number of classes, and their names if they have any.

    To train on them, as `part` says, numbers have no gaps, unless the set names its classes.
    """
    import datasets

    feature = parts["train"].features[column]
    found = {part: np.asarray(rows[column]) for part, rows in parts.items()}
    num_classes = 0
    if isinstance(feature, datasets.ClassLabel):
        names = tuple(feature.names)
        num_classes = len(names)
        numbered = names == tuple(str(k) for k in range(len(names)))
        class_names = () if numbered else names
    elif found["train"].dtype.kind in "US":
        class_names = tuple(np.unique(np.concatenate(list(found.values()))).tolist())
        found = {part: np.searchsorted(class_names, each) for part, each in found.items()}
    else:
        class_names = ()
    for key, each in found.items():
        if each.dtype.kind not in "iu" or each.ndim != 1 or each.min(initial=0) < 0:
            raise DataError(
                f"the column {column!r} of {name} has no class for each image of its part {key!r} "
                "(the Hub has test parts whose labels are kept back): name another label_column, "
                "or save a copy without that part and name it, --config.data.file"
            )
    if part == "train" and not isinstance(feature, datasets.ClassLabel):
        remedy = (
            "take the numbers for names in a copy, "
            f"cast_column({column!r}, datasets.Value('string')), and name it, --config.data.file"
        )
        check_no_gaps(list(found.values()), name, remedy)
    num_classes = num_classes or 1 + max(int(each.max()) for each in found.values())
    return {key: each.astype(np.int32) for key, each in found.items()}, num_classes, class_names
