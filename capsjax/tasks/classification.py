"""Classification: one class for each image."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from capsjax.metrics import is_correct
from capsjax.ops import mask_of_labels, mask_of_longest


@dataclasses.dataclass(frozen=True)
class Classification:
    """One class for each image: labels (n,) from 0, predicted by the highest score."""

    def targets(self, labels: Int[Array, "n"], num_classes: int) -> Float[Array, "n k"]:
        return jax.nn.one_hot(labels, num_classes)

    def predictions(self, scores: Float[Array, "n k"]) -> Int[Array, "n"]:
        return jnp.argmax(scores, axis=-1)

    def correct(self, scores: Float[Array, "n k"], labels: Int[Array, "n"]) -> Float[Array, "n"]:
        return is_correct(scores, labels)

    def mask(
        self, scores: Float[Array, "n k"], labels: Int[Array, "n"] | None
    ) -> Float[Array, "n k"]:
        if labels is None:
            return mask_of_longest(scores)
        return mask_of_labels(labels, scores.shape[-1])

    def shape_of_labels(self, image_shape: tuple[int, int, int], num_classes: int) -> tuple:
        return ()
