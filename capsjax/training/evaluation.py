"""Evaluation: every example exactly once, in one compiled program."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from capsjax.chunks import join, split
from capsjax.data.augment import to_float
from capsjax.metrics import Sums, is_correct
from capsjax.training.objective import Objective


class Evaluation(NamedTuple):
    """Attributes:
    sums: metrics over all examples, as in training.
    lengths: class scores, (N, k).
    """

    sums: Sums
    lengths: Float[Array, "N k"]


def make_evaluate(
    model: nn.Module, objective: Objective, *, batch_size: int, train_batch_size: int
) -> Callable[[dict, Array, Array], Evaluation]:
    """A function that evaluates parameters on a whole data set.

    The network decodes its longest capsule: no label is used but to score. The result does not
    depend on the batch size but for rounding.

    Args:
      model, objective: as in training.
      batch_size: images at once.
      train_batch_size: images of a training batch. A loss that is summed over the batch
        ("batch_sum") is reported for a batch of that many, so that it compares with training.

    Returns:
      A pure function (params, images, labels) -> Evaluation, to be compiled.
    """
    scale = {
        "margin": _batch_factor(objective.margin_loss, train_batch_size),
        "reconstruction": _batch_factor(objective.reconstruction_loss, train_batch_size),
    }

    def losses(output, images, labels):
        """The parts of the loss for each example: each as a batch of its own."""

        def loss_of_one(*example):
            return objective.parts(*jax.tree.map(lambda x: x[None], example))

        return jax.vmap(loss_of_one)(output, images, labels)

    def one_batch(params, batch):
        images, labels = batch
        images = to_float(images)
        output = model.apply({"params": params}, images)._replace(intermediates={})
        parts = {name: scale[name] * part for name, part in losses(output, images, labels).items()}
        scores = {"loss": objective.total(parts), **parts}
        return {**scores, "correct": is_correct(output.lengths, labels)}, output.lengths

    def evaluate(params, images, labels):
        count = len(labels)
        size = min(batch_size, count)
        per_example, lengths = lax.map(
            lambda batch: one_batch(params, batch), (split(images, size), split(labels, size))
        )
        # The padding is cut off before anything is summed.
        totals = {name: jnp.sum(join(values, count)) for name, values in per_example.items()}
        return Evaluation(Sums(totals, jnp.array(float(count))), join(lengths, count))

    return evaluate


def _batch_factor(settings, train_batch_size: int) -> int:
    return train_batch_size if settings["reduction"] == "batch_sum" else 1
