"""Division of examples into two parts: as one shuffle falls, or with every class in both."""

from collections.abc import Sequence

import numpy as np

from capsjax.data.arrays import DataError, split_positions
from capsjax.registry import look_up

# Whether a part that is split off has every class, for labels of one class for each image.
SPLITS = {"auto": True, "shuffled": False, "stratified": True}


def count_of(size: float | int, total: int) -> int:
    """Return the number of examples that `data.validation_size` means.

    Args:
      size: a share of the examples if it is below 1, otherwise their number.
      total: number of examples that it is a share of.

    Raises:
      DataError: for a number that is not whole, and no share.

    >>> count_of(0.25, 40), count_of(30, 40), count_of(0, 40)
    (10, 30, 0)
    """
    if 0 < size < 1:
        return max(1, round(size * total))
    if size != int(size):
        raise DataError(
            f"data.validation_size is a share below 1 or a number of examples, not {size}"
        )
    return int(size)


def divide(
    labels: np.ndarray,
    held_out: int,
    seed: int,
    split: str,
    *,
    class_names: Sequence[str] = (),
    parts: str,
    remedy: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Divide the positions of examples: the rest, and those held out.

    Args:
      labels: the labels of all of them.
      held_out: number of examples held out, more if there are more classes.
      seed: seed of the shuffle.
      split: "shuffled"; "stratified", which gives both parts every class, in proportion to its
        examples; or "auto", which does so where an image has one class.
      class_names: names of the classes, for messages.
      parts: the two parts, for messages.
      remedy: what else to do about a class that is too small, for messages.

    Raises:
      DataError: for a class of one example, which cannot be in both parts.
      ValueError: for an unknown way to split.

    >>> labels = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    >>> rest, held = divide(labels, 2, 0, "auto", parts="training and testing", remedy="")
    >>> labels[held].tolist()
    [0, 1]
    """
    stratify = look_up(SPLITS, split, "way to split (data.split)")
    if split == "stratified" and labels.ndim != 1:
        raise DataError("data.split=stratified is for labels of one class for each image")
    if not stratify or labels.ndim != 1:
        return split_positions(len(labels), held_out, seed)
    classes, counts = np.unique(labels, return_counts=True)
    _check_sizes(classes, counts, class_names, parts, remedy)
    shares = _share_out(counts, min(max(held_out, len(classes)), len(labels) - len(classes)))
    # RandomState, because numpy has frozen its streams.
    order = np.random.RandomState(seed).permutation(len(labels))
    chosen = [
        order[labels[order] == label][:share] for label, share in zip(classes, shares, strict=True)
    ]
    held = np.sort(np.concatenate(chosen))
    return np.setdiff1d(np.arange(len(labels)), held), held


def _check_sizes(
    classes: np.ndarray, counts: np.ndarray, class_names: Sequence[str], parts: str, remedy: str
) -> None:
    single = classes[counts == 1]
    if not single.size:
        return
    name = repr(class_names[single[0]]) if class_names else str(single[0])
    more = f" (so have {single.size - 1} more)" if single.size > 1 else ""
    raise DataError(
        f"the class {name} has one image for {parts}, which need one each{more}: add images of it, "
        f"leave it out, or {remedy}"
    )


def _share_out(counts: np.ndarray, held_out: int) -> np.ndarray:
    """Divide a number among classes in proportion to their examples.

    Each class gets at least one, and keeps at least one.
    """
    wanted = held_out * counts / counts.sum()
    shares = np.clip(np.floor(wanted), 1, counts - 1).astype(int)
    while shares.sum() < held_out:
        missing = np.where(shares < counts - 1, wanted - shares, -np.inf)
        shares[np.argmax(missing)] += 1
    while shares.sum() > held_out:
        above = np.where(shares > 1, shares - wanted, -np.inf)
        shares[np.argmax(above)] -= 1
    return shares
