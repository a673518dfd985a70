"""Metrics as sums and counts, so that they add up exactly over batches of any size."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# Classes have different numbers of examples where the commonest has this multiple of their mean, or
# where the accuracy and the balanced one differ by so much.
COMMON, DIFFERENT = 1.25, 0.01


class Sums(NamedTuple):
    """Sums of metrics over examples, and the number of these examples.

    Attributes:
      totals: sum over examples, by metric name.
      count: number of examples.
    """

    totals: dict[str, Float[Array, ""]]
    count: Float[Array, ""]


def zero_sums(names: tuple[str, ...]) -> Sums:
    """Return sums over no examples.

    >>> sorted(zero_sums(("loss", "correct")).totals)
    ['correct', 'loss']
    """
    return Sums({name: jnp.zeros(()) for name in names}, jnp.zeros(()))


def add_means(sums: Sums, means: Mapping[str, Float[Array, ""]], count: int) -> Sums:
    """Add a batch of `count` examples, given their means."""
    totals = {name: total + count * means[name] for name, total in sums.totals.items()}
    return Sums(totals, sums.count + count)


def means_of(sums: Sums) -> dict[str, float]:
    """Return the means over all examples as Python numbers; "correct" as "accuracy" and "error".

    >>> means_of(add_means(zero_sums(("correct",)), {"correct": jnp.array(0.75)}, 4))
    {'accuracy': 0.75, 'error': 0.25}
    """
    count = float(sums.count)
    means = {name: float(total) / count for name, total in sums.totals.items()}
    if "correct" in means:
        means["accuracy"] = means.pop("correct")
        means["error"] = 1.0 - means["accuracy"]
    return means


def results_of(
    sums: Sums,
    labels: Int[np.ndarray, "n *label"] | None = None,
    predictions: Int[np.ndarray, "n"] | None = None,
    num_classes: int = 0,
) -> dict[str, float]:
    """Return `means_of` a whole part of the data, and the counts behind the accuracy.

    Maps of labels have no number of errors.

    Args:
      sums: metrics of the part.
      labels: its labels.
      predictions: the predicted classes, for `summary_of_classes` too; None for other labels than
        one class for each image.
      num_classes: number of classes.

    >>> results_of(add_means(zero_sums(("correct",)), {"correct": jnp.array(0.75)}, 4))
    {'accuracy': 0.75, 'error': 0.25, 'num_errors': 1, 'num_examples': 4}
    """
    results, num_examples = means_of(sums), int(sums.count)
    # A map has a share of right pixels: no image is an error as a whole.
    if "dice" not in sums.totals:
        results["num_errors"] = num_examples - round(float(sums.totals["correct"]))
    results["num_examples"] = num_examples
    if labels is None or predictions is None:
        return results
    return {**results, **summary_of_classes(count_confusions(labels, predictions, num_classes))}


def count_confusions(
    labels: Int[np.ndarray, "*n"], predictions: Int[np.ndarray, "*n"], num_classes: int
) -> Int[np.ndarray, "k k"]:
    """Count the examples, or pixels of maps, of each class (rows) taken for each class (columns).

    Raises:
      ValueError: for a class that is not one of 0 to `num_classes` - 1.

    >>> count_confusions(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    for classes, name in ((labels, "labels"), (predictions, "predictions")):
        if classes.size and not 0 <= classes.min() <= classes.max() < num_classes:
            raise ValueError(
                f"{name} run from {classes.min()} to {classes.max()}, and there are "
                f"{num_classes} classes"
            )
    pairs = labels.ravel().astype(np.int64) * num_classes + predictions.ravel()
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def measures_of_classes(confusions: Int[np.ndarray, "k k"]) -> dict[str, list[float | None]]:
    """Compute precision, recall and F1 of each class from exact counts.

        precision = TP / (TP + FP),  recall = TP / (TP + FN),  F1 = 2 TP / (2 TP + FP + FN)

    F1 of pixels is their Dice coefficient.

    Args:
      confusions: examples by class and by what they are taken for.

    Returns:
      A number for each class; None where it would be 0/0: the recall of a class without examples.

    >>> measures_of_classes(np.array([[1, 1], [0, 1]]))["precision"]
    [1.0, 0.5]
    """
    right, of_class, taken = np.diag(confusions), confusions.sum(axis=1), confusions.sum(axis=0)
    shares = {
        "precision": (right, taken),
        "recall": (right, of_class),
        "f1": (2 * right, of_class + taken),
    }
    return {
        name: [float(part / whole) if whole else None for part, whole in zip(*counts, strict=True)]
        for name, counts in shares.items()
    }


def summary_of_classes(confusions: Int[np.ndarray, "k k"]) -> dict[str, float]:
    """Compute what the accuracy hides where classes have different numbers of examples.

    Args:
      confusions: as in `measures_of_classes`.

    Returns:
      The mean recall of the classes that have examples ("balanced_accuracy"), the mean F1 of those
      that have examples or predictions ("macro_f1"), and the accuracy of always naming the
      commonest class ("majority_accuracy").

    >>> summary_of_classes(np.array([[3, 1], [0, 1]]))["balanced_accuracy"]
    0.875
    """
    of_each = measures_of_classes(confusions)
    known = {name: [x for x in values if x is not None] for name, values in of_each.items()}
    counts = confusions.sum(axis=1)
    return {
        "balanced_accuracy": float(np.mean(known["recall"])),
        "macro_f1": float(np.mean(known["f1"])),
        "majority_accuracy": float(counts.max() / counts.sum()),
    }


def describe_imbalance(results: Mapping[str, Any], num_classes: int) -> str:
    """Describe in words what the accuracy hides; "" where classes have similar numbers.

    Args:
      results: results with those of `summary_of_classes`, or without them for other labels.
      num_classes: number of classes.

    >>> results = {"balanced_accuracy": 0.75, "macro_f1": 0.7, "majority_accuracy": 0.9}
    >>> describe_imbalance({"accuracy": 0.95, **results}, 3)
    'balanced accuracy 75.00 %, macro F1 0.7000, always the commonest class 90.00 %'
    """
    if "majority_accuracy" not in results:
        return ""
    difference = abs(results["accuracy"] - results["balanced_accuracy"])
    if num_classes * results["majority_accuracy"] < COMMON and difference < DIFFERENT:
        return ""
    return (
        f"balanced accuracy {100 * results['balanced_accuracy']:.2f} %, macro F1 "
        f"{results['macro_f1']:.4f}, always the commonest class "
        f"{100 * results['majority_accuracy']:.2f} %"
    )


def dice_coefficient(
    predictions: Int[Array | np.ndarray, "n h w"],
    labels: Int[Array | np.ndarray, "n h w"],
    num_classes: int,
) -> Float[Array, "n"]:
    """Compute the Dice coefficient of each map: the mean over its classes but the background.

        Dice_k = 2 |P_k ∩ T_k| / (|P_k| + |T_k|)

    A class of which neither map has a pixel is left out; where there is none but the background in
    both maps, the coefficient is 1.

    Args:
      predictions, labels: P and T, classes from 0, which is the background.
      num_classes: number of classes with the background.

    Source: Dice 1945.

    >>> (dice,) = dice_coefficient(jnp.array([[[1, 1, 0]]]), jnp.array([[[1, 0, 0]]]), 2)
    >>> round(float(dice), 4)
    0.6667
    """
    classes = jnp.arange(1, num_classes)
    predicted = predictions[..., None] == classes.reshape(1, 1, 1, -1)
    labelled = labels[..., None] == classes.reshape(1, 1, 1, -1)
    both = jnp.sum(predicted & labelled, axis=(1, 2))
    sizes = jnp.sum(predicted, axis=(1, 2)) + jnp.sum(labelled, axis=(1, 2))
    of_classes = jnp.where(sizes > 0, 2.0 * both / jnp.maximum(sizes, 1), 0.0)
    count = jnp.sum(sizes > 0, axis=-1)
    return jnp.where(count > 0, jnp.sum(of_classes, axis=-1) / jnp.maximum(count, 1), 1.0)


def is_correct(scores: Float[Array, "n k"], labels: Int[Array, "n"]) -> Float[Array, "n"]:
    """Return 1 where the highest score, or the longest capsule, is the label's, else 0.

    >>> is_correct(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1])).tolist()
    [1.0, 0.0]
    """
    return (jnp.argmax(scores, axis=-1) == labels).astype(jnp.float32)
