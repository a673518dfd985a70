"""Metrics as sums and counts, so that they add up exactly over batches of any size."""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Sums(NamedTuple):
    """Sums of metrics over examples, and how many examples they run over.

    Attributes:
      totals: by name, the sum over examples.
      count: number of examples.
    """

    totals: dict[str, Float[Array, ""]]
    count: Float[Array, ""]


def zero_sums(names: tuple[str, ...]) -> Sums:
    """Sums over no examples.

    >>> sorted(zero_sums(("loss", "correct")).totals)
    ['correct', 'loss']
    """
    return Sums({name: jnp.zeros(()) for name in names}, jnp.zeros(()))


def add_means(sums: Sums, means: Mapping[str, Float[Array, ""]], count: int) -> Sums:
    """Add a batch of `count` examples, whose means are given."""
    totals = {name: total + count * means[name] for name, total in sums.totals.items()}
    return Sums(totals, sums.count + count)


def means_of(sums: Sums) -> dict[str, float]:
    """The means over all examples, as Python numbers; "accuracy" and "error" from "correct".

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
    """`means_of` a whole part of the data, and the counts behind the accuracy.

    >>> results_of(add_means(zero_sums(("correct",)), {"correct": jnp.array(0.75)}, 4))
    {'accuracy': 0.75, 'error': 0.25, 'num_errors': 1, 'num_examples': 4}
    """
    num_examples = int(sums.count)
    num_errors = num_examples - round(float(sums.totals["correct"]))
    return {**means_of(sums), "num_errors": num_errors, "num_examples": num_examples}


def is_correct(scores: Float[Array, "n k"], labels: Int[Array, "n"]) -> Float[Array, "n"]:
    """1 where the highest score, or the longest capsule, is that of the label, else 0.

    >>> is_correct(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1])).tolist()
    [1.0, 0.0]
    """
    return (jnp.argmax(scores, axis=-1) == labels).astype(jnp.float32)
