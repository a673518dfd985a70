"""Metrics as sums and counts, so that they add up exactly over batches of any size."""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


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


def results_of(sums: Sums) -> dict[str, float]:
    """Return `means_of` a whole part of the data, and the counts behind the accuracy.

    >>> results_of(add_means(zero_sums(("correct",)), {"correct": jnp.array(0.75)}, 4))
    {'accuracy': 0.75, 'error': 0.25, 'num_errors': 1, 'num_examples': 4}
    """
    num_examples = int(sums.count)
    num_errors = num_examples - round(float(sums.totals["correct"]))
    return {**means_of(sums), "num_errors": num_errors, "num_examples": num_examples}


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
