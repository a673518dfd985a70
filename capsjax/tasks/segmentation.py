"""Segmentation: one class for each pixel."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from capsjax.metrics import dice_coefficient


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """One class for each pixel: labels (n, h, w) from 0; class 0 is the background.

    The correctness of an image is the share of its pixels that are correct. A decoder is given the
    classes of the image, except the background.
    """

    # Metrics besides `correct`: methods of (scores, labels) that return one number for each image.
    MEASURES = ("dice",)

    def targets(self, labels: Int[Array, "n h w"], num_classes: int) -> Float[Array, "n h w k"]:
        return jax.nn.one_hot(labels, num_classes)

    def predictions(self, scores: Float[Array, "n h w k"]) -> Int[Array, "n h w"]:
        return jnp.argmax(scores, axis=-1)

    def correct(
        self, scores: Float[Array, "n h w k"], labels: Int[Array, "n h w"]
    ) -> Float[Array, "n"]:
        return jnp.mean(self.predictions(scores) == labels, axis=(1, 2))

    def dice(
        self, scores: Float[Array, "n h w k"], labels: Int[Array, "n h w"]
    ) -> Float[Array, "n"]:
        """Return the Dice coefficient of each image, see `dice_coefficient`."""
        return dice_coefficient(self.predictions(scores), labels, scores.shape[-1])

    def mask(
        self, scores: Float[Array, "n h w k"], labels: Int[Array, "n h w"] | None
    ) -> Float[Array, "n k"]:
        shown = self.predictions(scores) if labels is None else labels
        present = jnp.max(jax.nn.one_hot(shown, scores.shape[-1]), axis=(1, 2))
        return present.at[:, 0].set(0.0)

    def shape_of_labels(self, image_shape: tuple[int, int, int], num_classes: int) -> tuple:
        return image_shape[:2]
