"""What training makes small: margin loss and reconstruction loss, weighted."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from capsjax.losses import margin_loss, reconstruction_loss
from capsjax.models import CapsNetOutput


class Objective(NamedTuple):
    """The settings of the loss: sub-dicts of a config. Numbers may be traced values.

    Attributes:
      margin_loss: settings of `margin_loss`.
      reconstruction_loss: settings of `reconstruction_loss`.
      loss_weights: weights "margin" and "reconstruction".
    """

    margin_loss: Mapping[str, Any]
    reconstruction_loss: Mapping[str, Any]
    loss_weights: Mapping[str, Any]

    def parts(
        self,
        output: CapsNetOutput,
        images: Float[Array, "n h w c"],
        labels: Int[Array, "n"],
    ) -> dict[str, Float[Array, ""]]:
        """The unweighted parts of the loss of a batch: "margin" and "reconstruction".

        The latter is zero for a network without a decoder.
        """
        onehot = jax.nn.one_hot(labels, output.lengths.shape[-1])
        margin = margin_loss(output.lengths, onehot, **self.margin_loss)
        if output.reconstruction is None:
            reconstruction = jnp.zeros(())
        else:
            reconstruction = reconstruction_loss(
                output.reconstruction, images, **self.reconstruction_loss
            )
        return {"margin": margin, "reconstruction": reconstruction}

    def total(self, parts: Mapping[str, Array]) -> Array:
        """The weighted sum of the parts, scalars or one number for each example."""
        return sum(self.loss_weights[name] * part for name, part in parts.items())

    def scales(self, count: int) -> dict[str, int]:
        """What makes the parts of the loss of a whole batch from those of its equal pieces.

        The mean over `count` pieces, times this: `count` where the loss is a sum over the batch
        ("batch_sum"), 1 where it is a mean.
        """
        settings = {"margin": self.margin_loss, "reconstruction": self.reconstruction_loss}
        return {
            name: count if each["reduction"] == "batch_sum" else 1
            for name, each in settings.items()
        }
