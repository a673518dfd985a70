"""What training makes small: a weighted sum of losses."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from capsjax.losses import cross_entropy_loss, margin_loss, reconstruction_loss
from capsjax.models import Output
from capsjax.registry import look_up


class Objective(NamedTuple):
    """Losses and their weights. Numbers may be traced values.

    Attributes:
      losses: by name, the settings of each: a sub-dict of a config.
      weights: by name, the weight of each.
    """

    losses: Mapping[str, Mapping[str, Any]]
    weights: Mapping[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the losses, in alphabetical order."""
        return tuple(sorted(self.losses))

    def parts(
        self, output: Output, images: Float[Array, "n h w c"], labels: Int[Array, "n"]
    ) -> dict[str, Float[Array, ""]]:
        """By name, the unweighted losses of a batch; "reconstruction" is 0 without a decoder.

        Raises:
          ValueError: for an unknown loss (the nearest one is named).
        """
        onehot = jax.nn.one_hot(labels, output.scores.shape[-1])
        return {
            name: look_up(LOSSES, name, "loss")(output, images, onehot, **self.losses[name])
            for name in self.names
        }

    def total(self, parts: Mapping[str, Array]) -> Array:
        """The weighted sum of the parts, scalars or one number for each example."""
        return sum(self.weights[name] * part for name, part in parts.items())

    def scales(self, count: int) -> dict[str, int]:
        """What makes the parts of the loss of a whole batch from those of its equal pieces.

        The mean over `count` pieces, times this: `count` where the loss is a sum over the batch
        ("batch_sum"), 1 where it is a mean.
        """
        return {
            name: count if settings.get("reduction") == "batch_sum" else 1
            for name, settings in self.losses.items()
        }


def _margin(output: Output, images: Array, onehot: Array, **settings) -> Float[Array, ""]:
    return margin_loss(output.scores, onehot, **settings)


def _reconstruction(output: Output, images: Array, onehot: Array, **settings) -> Float[Array, ""]:
    if output.reconstruction is None:
        return jnp.zeros(())
    return reconstruction_loss(output.reconstruction, images, **settings)


def _cross_entropy(output: Output, images: Array, onehot: Array) -> Float[Array, ""]:
    return cross_entropy_loss(output.scores, onehot)


# What a name in `loss_weights` of a config means.
LOSSES = {
    "cross_entropy": _cross_entropy,
    "margin": _margin,
    "reconstruction": _reconstruction,
}
