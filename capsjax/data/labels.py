"""The classes that labels name: numbers without gaps, all of them seen in training."""

from collections.abc import Sequence

import numpy as np

from capsjax.data.arrays import Arrays, DataError

# Ranges of numbers that a message lists.
MOST_LISTED = 5
RENUMBER = (
    "number the classes from 0 without gaps, labels = np.searchsorted(np.unique(labels), labels)"
)


def check_no_gaps(labels: Sequence[np.ndarray], where: str, remedy: str = RENUMBER) -> None:
    """Check that every number from 0 to the largest label is the class of at least one image.

    Otherwise one wrong label would make a network of as many classes as its number.

    Args:
      labels: numbers of classes from 0, of all parts of a data set and of any shapes.
      where: the file, for the message.
      remedy: what to do if none of the labels is wrong, for the message.

    Raises:
      DataError: if numbers between are missing; the message names them and the remedy.
    """
    found = np.unique(np.concatenate([each.ravel() for each in labels])).tolist()
    before = [-1, *found][:-1]
    gaps = [(a + 1, b - 1) for a, b in zip(before, found, strict=True) if b - a > 1]
    if gaps:
        raise DataError(
            f"the labels in {where!r} name {len(found)} classes up to {found[-1]}, and no image "
            f"has the label {_listed(gaps)}: correct the wrong ones, or {remedy}"
        )


def from_one_hot(labels: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return numbers of classes in place of one-hot labels, of any type; others as they are.

    Args:
      labels: those of all parts of a data set. All of them are one-hot or numbers, or they have
        several classes for some image.

    >>> from_one_hot([np.eye(3), np.array([[0.0, 1.0, 0.0]])])[1].tolist()
    [1]
    """
    if not all(each.ndim == 1 or _is_one_hot(each) for each in labels):
        return [*labels]
    return [each if each.ndim == 1 else each.argmax(axis=1) for each in labels]


def _is_one_hot(labels: np.ndarray) -> bool:
    if labels.ndim != 2 or labels.dtype.kind not in "biuf" or labels.shape[1] < 2:
        return False
    ones = labels == 1
    return bool((ones | (labels == 0)).all() and (ones.sum(axis=1) == 1).all())


def describe_unseen(training: Arrays, part: Arrays, name: str) -> str:
    """Describe the classes of a part of the data that training never saw; "" if there are none.

    Args:
      training: the training part.
      part: the other part.
      name: its name, for the line.
    """
    unseen = np.setdiff1d(part.classes(), training.classes())
    if not unseen.size:
        return ""
    names = part.class_names or range(part.num_classes)
    listed = _listed([(names[each], names[each]) for each in unseen.tolist()])
    return f"warning: {name} images have classes that no training image has: {listed}"


def _listed(ranges: Sequence[tuple[int | str, int | str]]) -> str:
    texts = [str(a) if a == b else f"{a} to {b}" for a, b in ranges[:MOST_LISTED]]
    rest = len(ranges) - len(texts)
    return ", ".join(texts) + (f" and {rest} more" if rest else "")
