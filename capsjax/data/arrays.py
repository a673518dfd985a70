"""The form of data from every source: images and labels as arrays, checked once."""

import dataclasses
import hashlib
from typing import Any, NamedTuple

import numpy as np


class DataError(ValueError):
    """A missing or unusable data set; the message names the remedy."""


class Sizes(NamedTuple):
    """The sizes of a part of a data set: shape of an image (h, w, c), classes, examples."""

    image_shape: tuple[int, int, int]
    num_classes: int
    num_examples: int


@dataclasses.dataclass(frozen=True)
class Arrays:
    """One part of a data set.

    Attributes:
      images: uint8, (n, h, w, c), 0 black and 255 white.
      labels: int32 from 0: (n,), or (n, k) of 0 and 1 for several classes, or (n, h, w) for a map.
      num_classes: number of classes of the whole data set.
      recipe: how the examples were generated, a text that differs if anything in it does; empty for
        those that were read.
      class_names: name of each class; empty where classes are numbers alone.

    Raises:
      DataError: if shapes or types are wrong, the part is empty, a label is out of range, or there
        are more or fewer names than classes.
    """

    images: np.ndarray
    labels: np.ndarray
    num_classes: int
    recipe: str = ""
    class_names: tuple[str, ...] = ()

    def __post_init__(self):
        images, labels = self.images, self.labels
        if images.ndim != 4 or images.dtype != np.uint8:
            raise DataError(
                "images are uint8 of shape (n, h, w, c), "
                f"not {images.dtype} of shape {images.shape}"
            )
        n, h, w = images.shape[:3]
        shapes = [(n,), (n, self.num_classes), (n, h, w)]
        if labels.shape not in shapes or labels.dtype != np.int32:
            raise DataError(
                f"labels are int32 of shape ({n},), {shapes[1]} for several classes or {shapes[2]} "
                f"for a map, not {labels.dtype} of shape {labels.shape}"
            )
        if len(labels) == 0:
            raise DataError("a part of the data set is empty")
        if labels.ndim == 2 and not np.isin(labels, (0, 1)).all():
            raise DataError(
                f"labels of shape {labels.shape} are 0 or 1 for each of {self.num_classes} "
                f"classes, not from {labels.min()} to {labels.max()}; the numbers of one class for "
                f"each image have shape ({n},)"
            )
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise DataError(
                f"labels run from 0 to {self.num_classes - 1}, "
                f"not from {labels.min()} to {labels.max()}"
            )
        if self.class_names and len(self.class_names) != self.num_classes:
            raise DataError(f"{len(self.class_names)} names for {self.num_classes} classes")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of one image, (h, w, c)."""
        return self.images.shape[1:]

    def take(self, indices: np.ndarray) -> "Arrays":
        """Return the examples at `indices`, in that order."""
        recipe = f"{self.recipe}, those at {_digest(indices)}" if self.recipe else ""
        return dataclasses.replace(
            self, images=self.images[indices], labels=self.labels[indices], recipe=recipe
        )

    def numbered_as(self, class_names: tuple[str, ...], num_classes: int) -> "Arrays":
        """Return the same examples, of classes that are numbered as those of a network.

        Where one of them has no names, names of the other that are whole numbers are the numbers of
        the classes. Other names leave the labels as they are.

        Args:
          class_names: the names of the network's classes; empty where they are numbers alone.
          num_classes: their number.

        Raises:
          DataError: for a class of these examples that the network lacks, or names of some of its
            classes where it has none.
        """
        ours, theirs = self.class_names, class_names
        if ours == theirs:
            return self
        if not (ours and theirs):
            if not all(name.isdecimal() for name in (*ours, *theirs)):
                if ours and len(ours) < num_classes:
                    raise DataError(
                        f"these data have the classes {', '.join(ours)}, and the network numbers "
                        f"its {num_classes} classes: name each by its number, 0 to "
                        f"{num_classes - 1}"
                    )
                return self
            ours = tuple(map(int, ours or range(self.num_classes)))
            theirs = tuple(map(int, theirs or range(num_classes)))
        others = sorted(set(ours) - set(theirs))
        if others:
            raise DataError(
                f"these data have the class {others[0]!r}, and the network has "
                f"{', '.join(map(str, theirs))}"
            )
        numbers = np.array([theirs.index(each) for each in ours], np.int32)
        return dataclasses.replace(
            self, labels=numbers[self.labels], num_classes=num_classes, class_names=class_names
        )

    def classes(self) -> np.ndarray:
        """Return the numbers of the classes that occur, in ascending order."""
        if self.labels.ndim == 2:
            return np.flatnonzero(self.labels.any(axis=0))
        return np.unique(self.labels)

    def fingerprint(self) -> dict[str, Any]:
        """Return values for JSON that differ if anything in the data does.

        A run compares them, and uses nothing else of its data to recognise them. Those of generated
        examples come from their recipe.
        """
        sizes: dict[str, Any] = {"number": len(self), "classes": self.num_classes}
        if self.class_names:
            sizes["class names"] = list(self.class_names)
        if self.recipe:
            return {**sizes, "recipe": hashlib.sha256(self.recipe.encode()).hexdigest()}
        return {**sizes, "images": _digest(self.images), "labels": _digest(self.labels)}


def _digest(array: np.ndarray) -> str:
    """Return the SHA-256 of an array's type, shape and bytes: 0.06 s for those of MNIST."""
    sha = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


def split_validation(
    train: Arrays, validation_size: int, seed: int, stratify: bool = False
) -> tuple[Arrays, Arrays | None]:
    """Split a validation part off the training part, by a fixed seed.

    The positions come from a seeded shuffle, not from the order of the files: TFDS has already
    shuffled the original data sets, so "the first 5,000" means something else there.

    Args:
      train: the training part.
      validation_size: number of validation examples; 0 for none.
      seed: seed of the shuffle, independent of the seed of training.
      stratify: give both parts the same share of each class.

    Returns:
      The rest of the training part, and the validation part or None; both in the order of the
      source.

    Raises:
      DataError: if nothing would be left to train on, or stratified parts are too small.
    """
    if not 0 <= validation_size < len(train):
        raise DataError(
            f"data.validation_size is between 0 and {len(train) - 1} here, not {validation_size}; "
            "below 1 it is a share"
        )
    if validation_size == 0:
        return train, None
    if stratify:
        count = len(np.unique(train.labels))
        if not count <= validation_size <= len(train) - count:
            raise DataError(
                f"data.validation_size is between {count} and {len(train) - count} here, or 0, so "
                f"that both parts have all {count} classes; not {validation_size}"
            )
        from sklearn.model_selection import train_test_split

        rest, held_out = train_test_split(
            np.arange(len(train)),
            test_size=validation_size,
            random_state=np.random.RandomState(seed),
            stratify=train.labels,
        )
    else:
        rest, held_out = split_positions(len(train), validation_size, seed)
    return train.take(np.sort(rest)), train.take(np.sort(held_out))


def split_positions(count: int, held_out: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split the positions of `count` examples by a fixed seed: the rest, and those held out.

    >>> [part.tolist() for part in split_positions(5, 2, seed=0)]
    [[1, 3, 4], [0, 2]]
    """
    # RandomState, because numpy has frozen its streams: the split is the same in every version.
    order = np.random.RandomState(seed).permutation(count)
    return np.sort(order[held_out:]), np.sort(order[:held_out])
