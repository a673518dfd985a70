"""The training objective: a weighted sum of losses."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from capsjax.losses import (
    binary_cross_entropy_loss,
    cross_entropy_loss,
    margin_loss,
    reconstruction_loss,
    soft_dice_loss,
    spread_loss,
    spread_margin,
)
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

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names of `metrics`."""
        return ("correct", *getattr(self.task, "MEASURES", ()))

    def metrics(self, scores: Array, labels: Array) -> dict[str, Float[Array, "n"]]:
        """Compute the metrics of the task for each example, by name."""
        return {name: getattr(self.task, name)(scores, labels) for name in self.metric_names}

    def parts(
        self,
        output: Output,
        images: Float[Array, "n h w c"],
        labels: Int[Array, "n *label"],
        step: int | Int[Array, ""] | None = None,
    ) -> dict[str, Float[Array, ""]]:
        """Compute a batch's unweighted losses by name; "reconstruction" is 0 without a decoder.

        Args:
          output, images, labels: of the batch.
          step: number of steps before this one, for losses that change in training. None, as in
            evaluation, for what they end with: the losses of two steps then compare.

        Raises:
          ValueError: for an unknown loss (the nearest one is named).
        """
        num_classes = output.scores.shape[-1]
        targets = self.task.targets(labels, num_classes)
        # A loss over classes takes the pixels of a map as examples.
        flat = output._replace(scores=output.scores.reshape(-1, num_classes))
        targets = targets.reshape(-1, num_classes)
        return {
            name: _call(
                look_up(LOSSES, name, "loss"), step, flat, images, targets, **self.losses[name]
            )
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


def _call(
    loss: Callable[..., Array], step: int | Array | None, *arguments: Any, **settings: Any
) -> Array:
    """Call a loss, with the step if it has a parameter for it."""
    when = {"step": step} if "step" in inspect.signature(loss).parameters else {}
    return loss(*arguments, **when, **settings)


def _margin(
    output: Output, images: Array, targets: Array, background: bool = True, **settings
) -> Float[Array, ""]:
    """Without `background`, class 0 costs nothing: its score follows from those of the others."""
    first = 0 if background else 1
    return margin_loss(output.scores[:, first:], targets[:, first:], **settings)


def _reconstruction(
    output: Output, images: Array, targets: Array, foreground: bool = False, **settings
) -> Float[Array, ""]:
    """With `foreground`, the pixels of class 0 of a map are to be black."""
    if output.reconstruction is None:
        return jnp.zeros(())
    if foreground:
        images = images * (1.0 - targets[:, 0].reshape(*images.shape[:3], 1))
    return reconstruction_loss(output.reconstruction, images, **settings)


def _binary_cross_entropy(
    output: Output, images: Array, targets: Array, **settings
) -> Float[Array, ""]:
    """Class 0, the background, costs nothing: its score follows from those of the others."""
    return binary_cross_entropy_loss(output.scores[:, 1:], targets[:, 1:], **settings)


def _soft_dice(output: Output, images: Array, targets: Array, **settings) -> Float[Array, ""]:
    n, k = len(images), targets.shape[-1]
    scores, targets = (x.reshape(n, -1, k)[..., 1:] for x in (output.scores, targets))
    return soft_dice_loss(scores, targets, **settings)


def _cross_entropy(output: Output, images: Array, targets: Array) -> Float[Array, ""]:
    return cross_entropy_loss(output.scores, targets)


def _spread(
    output: Output,
    images: Array,
    targets: Array,
    step: int | Array | None,
    reduction: str = "sum",
    **schedule,
) -> Float[Array, ""]:
    return spread_loss(output.scores, targets, spread_margin(step, **schedule), reduction)


# The losses that `loss_weights` of a config may name.
LOSSES = {
    "binary_cross_entropy": _binary_cross_entropy,
    "cross_entropy": _cross_entropy,
    "margin": _margin,
    "reconstruction": _reconstruction,
    "soft_dice": _soft_dice,
    "spread": _spread,
}


def register(name: str, loss: Callable[..., Array]) -> Callable[..., Array]:
    """Register a loss for configs: `loss_weights.NAME` and the sub-dict `NAME_loss`.

    Args:
      name: an identifier.
      loss: a function of (output, images, targets, **settings) that returns a scalar, the mean or
        the sum over a batch; targets are the task's, with as many rows as `output.scores`. If it
        has a parameter `step`, this is the number of steps before, and None in evaluation.

    Raises:
      ValueError: for a name that is taken.
    """
    return register_name(LOSSES, name, loss, "loss")
