"""The training objective: a weighted sum of losses."""

import inspect
from collections.abc import Callable, Collection, Mapping
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
      class_weights: weight of the losses of an example, or a pixel, by its class; empty for equal
        ones.

    Raises:
      ValueError: at a call, for class weights and a loss that has none.
    """

    losses: Mapping[str, Mapping[str, Any]]
    weights: Mapping[str, Any]
    task: Task = Classification()
    class_weights: tuple[float, ...] = ()

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
          ValueError: for an unknown loss (the nearest one is named), or scores of a map where the
            task has one class for each image, or the reverse.
        """
        num_classes = output.scores.shape[-1]
        targets = self.task.targets(labels, num_classes)
        if targets.shape != output.scores.shape:
            raise ValueError(
                f"the scores of this network have the shape {output.scores.shape}, and what "
                f"{type(self.task).__name__} compares them with {targets.shape}: maps of labels "
                "need a network of maps (--config=segcaps or unet), other labels another one"
            )
        context: dict[str, Any] = {"step": step, "is_map": targets.ndim > 2}
        # A loss over classes takes the pixels of a map as examples.
        flat = output._replace(scores=output.scores.reshape(-1, num_classes))
        targets = targets.reshape(-1, num_classes)
        if self.class_weights:
            of_classes = jnp.asarray(self.class_weights, targets.dtype)
            context["weights"] = jnp.sum(targets * of_classes[None, :], axis=-1)
        return {
            name: _call(
                look_up(LOSSES, name, "loss"), context, flat, images, targets, **self.losses[name]
            )
            for name in self.names
        }

    def check_class_weights(self) -> None:
        """Raise ValueError for class weights that none of the losses takes."""
        takes = [name for name in sorted(LOSSES) if "weights" in _parameters(LOSSES[name])]
        # A weight that is traced is that of a loss.
        used = [name for name, weight in self.weights.items() if _is_used(weight)]
        if self.class_weights and not set(takes) & set(used):
            raise ValueError(
                f"class_weights are for the losses {', '.join(takes)}, and this config has "
                f"{', '.join(used)} (loss_weights)"
            )

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
    loss: Callable[..., Array], context: Mapping[str, Any], *arguments: Any, **settings: Any
) -> Array:
    """Call a loss, with those values of the context that it has parameters for."""
    wanted = {name: value for name, value in context.items() if name in _parameters(loss)}
    return loss(*arguments, **wanted, **settings)


def _is_used(weight: Any) -> bool:
    return isinstance(weight, Array) or weight != 0


def _parameters(loss: Callable[..., Array]) -> Collection[str]:
    return inspect.signature(loss).parameters.keys()


def _margin(
    output: Output,
    images: Array,
    targets: Array,
    background: bool = True,
    weights: Array | None = None,
    **settings,
) -> Float[Array, ""]:
    """Without `background`, class 0 costs nothing: its score follows from those of the others."""
    first = 0 if background else 1
    return margin_loss(output.scores[:, first:], targets[:, first:], weights=weights, **settings)


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
    output: Output,
    images: Array,
    targets: Array,
    is_map: bool,
    weights: Array | None = None,
    **settings,
) -> Float[Array, ""]:
    scores, targets = (_with_a_loss(x, is_map) for x in (output.scores, targets))
    return binary_cross_entropy_loss(scores, targets, weights=weights, **settings)


def _soft_dice(
    output: Output, images: Array, targets: Array, is_map: bool, **settings
) -> Float[Array, ""]:
    n, k = len(images), targets.shape[-1]
    scores, targets = (_with_a_loss(x.reshape(n, -1, k), is_map) for x in (output.scores, targets))
    return soft_dice_loss(scores, targets, **settings)


def _with_a_loss(of_classes: Array, is_map: bool) -> Array:
    """Leave out class 0 of a map, the background, whose score follows from those of the others."""
    return of_classes[..., 1:] if is_map else of_classes


def _cross_entropy(
    output: Output, images: Array, targets: Array, weights: Array | None = None
) -> Float[Array, ""]:
    return cross_entropy_loss(output.scores, targets, weights)


def _spread(
    output: Output,
    images: Array,
    targets: Array,
    step: int | Array | None,
    reduction: str = "sum",
    weights: Array | None = None,
    **schedule,
) -> Float[Array, ""]:
    margin = spread_margin(step, **schedule)
    return spread_loss(output.scores, targets, margin, reduction, weights)


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
        has a parameter `step`, this is the number of steps before, and None in evaluation. If it
        has a parameter `weights`, these are the class weights of the rows, where there are any;
        and if it has a parameter `is_map`, whether the rows are pixels of maps.

    Raises:
      ValueError: for a name that is taken.
    """
    return register_name(LOSSES, name, loss, "loss")
