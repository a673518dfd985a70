"""The training objective: a weighted sum of losses."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from capsjax.losses import cross_entropy_loss, margin_loss, reconstruction_loss
from capsjax.models import Output
from capsjax.registry import look_up
from capsjax.registry import register as register_name
from capsjax.tasks import Classification, Task


class Objective(NamedTuple):
    """Losses and their weights; numbers may be traced values.

    Attributes:
      losses: by name, the settings of each loss: a sub-dict of a config.
      weights: by name, the weight of each loss.
      task: what labels mean (see `capsjax.tasks`).
    """

    losses: Mapping[str, Mapping[str, Any]]
    weights: Mapping[str, Any]
    task: Task = Classification()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the losses, in alphabetical order."""
        return tuple(sorted(self.losses))

    def parts(
        self, output: Output, images: Float[Array, "n h w c"], labels: Int[Array, "n *label"]
    ) -> dict[str, Float[Array, ""]]:
        """Compute a batch's unweighted losses by name; "reconstruction" is 0 without a decoder.

        Raises:
          ValueError: for an unknown loss (the nearest one is named).
        """
        num_classes = output.scores.shape[-1]
        targets = self.task.targets(labels, num_classes)
        # A loss over classes takes the pixels of a map as examples.
        flat = output._replace(scores=output.scores.reshape(-1, num_classes))
        targets = targets.reshape(-1, num_classes)
        return {
            name: look_up(LOSSES, name, "loss")(flat, images, targets, **self.losses[name])
            for name in self.names
        }

    def total(self, parts: Mapping[str, Array]) -> Array:
        """Sum the weighted parts: scalars, or one number for each example."""
        return sum(self.weights[name] * part for name, part in parts.items())

    def scales(self, count: int) -> dict[str, int]:
        """Return, by name, what scales the mean loss of `count` equal pieces to the whole batch.

        This is `count` where the loss is a sum over the batch ("batch_sum"), 1 where it is a mean.
        """
        return {
            name: count if settings.get("reduction") == "batch_sum" else 1
            for name, settings in self.losses.items()
        }


def _margin(output: Output, images: Array, targets: Array, **settings) -> Float[Array, ""]:
    return margin_loss(output.scores, targets, **settings)


def _reconstruction(output: Output, images: Array, targets: Array, **settings) -> Float[Array, ""]:
    if output.reconstruction is None:
        return jnp.zeros(())
    return reconstruction_loss(output.reconstruction, images, **settings)


def _cross_entropy(output: Output, images: Array, targets: Array) -> Float[Array, ""]:
    return cross_entropy_loss(output.scores, targets)


# The losses that `loss_weights` of a config may name.
LOSSES = {
    "cross_entropy": _cross_entropy,
    "margin": _margin,
    "reconstruction": _reconstruction,
}


def register(name: str, loss: Callable[..., Array]) -> Callable[..., Array]:
    """Register a loss for configs: `loss_weights.NAME` and the sub-dict `NAME_loss`.

    Args:
      name: an identifier.
      loss: a function of (output, images, targets, **settings) that returns a scalar, the mean or
        the sum over a batch; targets are the task's, with as many rows as `output.scores`.

    Raises:
      ValueError: for a name that is taken.
    """
    return register_name(LOSSES, name, loss, "loss")
