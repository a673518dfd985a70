"""Image-classification sets of the Hugging Face Hub, or local copies of them.

`data.name="hf:ylecun/mnist"` loads a set of the Hub, with the package `datasets` (the extra `hf`).
With `data.file` the set is read from there: a folder of the set's files, or one that
`Dataset.save_to_disk` wrote.
"""

from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from capsjax.data.arrays import Arrays, DataError
from capsjax.data.examples import CHANNELS
from capsjax.data.npz import set_aside
from capsjax.data.own_pictures import HuggingFace
from capsjax.data.pictures import GREY, check_size, fitted_picture
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
    labels, class_names = _labels(parts, label_column, name)
    chosen, rows = part, np.arange(len(labels.get(part, ())))
    if "test" not in parts:
        divided = set_aside(labels["train"], split, class_names, "make a test part of your own")
        chosen, rows = "train", divided[part == "test"]
    pictures = {key: each.select_columns([image_column]) for key, each in parts.items()}
    images = _read(settings, pictures, chosen, image_column, rows, name)
    num_classes = len(class_names) or int(max(each.max() for each in labels.values())) + 1
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
    return {part: parts[part] for part in ("train", "test") if part in parts}


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


def _read(
    settings: HuggingFace,
    pictures: dict[str, Any],
    part: str,
    column: str,
    rows: np.ndarray,
    name: str,
) -> np.ndarray:
    """Read the pictures in the given rows of a part, as uint8 (n, h, w, c)."""
    channels = look_up(CHANNELS, settings.colour, "colour of pictures")
    check_size(settings.image_size)
    # Both parts have the same shape, so both look at the training part.
    sample = pictures["train"]
    height, width = settings.image_size or sample[0][column].size[::-1]
    if not channels:
        few = np.linspace(0, len(sample) - 1, min(len(sample), LOOKED_AT)).astype(int)
        channels = 1 if all(sample[int(k)][column].mode in GREY for k in few) else 3
    images = np.empty((len(rows), height, width, channels), np.uint8)
    shown = tqdm(rows, "reading", unit="picture", disable=None, leave=False, delay=1)
    for position, row in enumerate(shown):
        picture = pictures[part][int(row)][column]
        if not settings.image_size and picture.size != (width, height):
            raise DataError(
                f"picture {row} of {name} has {picture.height}x{picture.width} pixels and the "
                f"first {height}x{width}: give the rows and columns for all, data.hf.image_size"
            )
        if channels == 1 and settings.colour == "auto" and picture.mode not in GREY:
            raise DataError(
                f"picture {row} of {name} is in colour and others are grey: give the same for "
                "all, data.hf.colour"
            )
        images[position] = fitted_picture(picture, images.shape[1:])
    return images


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
    parts: dict[str, Any], column: str, name: str
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the labels of each part, and the names of classes if they have any."""
    import datasets

    feature = parts["train"].features[column]
    found = {part: np.asarray(rows[column]) for part, rows in parts.items()}
    if isinstance(feature, datasets.ClassLabel):
        names = tuple(feature.names)
        numbered = names == tuple(str(k) for k in range(len(names)))
        class_names = () if numbered else names
    elif found["train"].dtype.kind in "US":
        class_names = tuple(np.unique(np.concatenate(list(found.values()))).tolist())
        found = {part: np.searchsorted(class_names, each) for part, each in found.items()}
    else:
        class_names = ()
    for part, each in found.items():
        if each.dtype.kind not in "iu" or each.ndim != 1 or each.min(initial=0) < 0:
            raise DataError(
                f"the column {column!r} of {name} has no class for each image of its part {part!r} "
                "(the Hub has test parts whose labels are kept back): name another label_column, "
                "or save a copy without that part and name it, --config.data.file"
            )
    return {part: each.astype(np.int32) for part, each in found.items()}, class_names
