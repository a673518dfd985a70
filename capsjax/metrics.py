"""Metrics as sums and counts, so that they add up exactly over batches of any size."""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
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


def is_correct(scores: Float[Array, "n k"], labels: Int[Array, "n"]) -> Float[Array, "n"]:
    """Return 1 where the highest score, or the longest capsule, is the label's, else 0.

    >>> is_correct(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1])).tolist()
    [1.0, 0.0]
    """
    return (jnp.argmax(scores, axis=-1) == labels).astype(jnp.float32)
