"""Multi-label classification: several classes for each image."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class MultiLabel:
    """Several classes for each image, as in MultiMNIST: labels (n, k) of 0 and 1.

    An image is correct if all of its classes are found and no other.

    Attributes:
      count: number of classes of every image; those of the highest scores are predicted. 0 if the
        number is unknown: then those of all scores above the threshold are.
      threshold: threshold of the scores, where `count` is 0.

    Source: Sabour et al. 2017, section 6.
    """

    count: int = 0
    threshold: float = 0.5

    def targets(self, labels: Int[Array, "n k"], num_classes: int) -> Float[Array, "n k"]:
        del num_classes  # the labels have them all
        return labels.astype(jnp.float32)

    def predictions(self, scores: Float[Array, "n k"]) -> Int[Array, "n k"]:
        if self.count == 0:
            return (scores > self.threshold).astype(jnp.int32)
        _, highest = jax.lax.top_k(scores, self.count)
        return jnp.sum(jax.nn.one_hot(highest, scores.shape[-1], dtype=jnp.int32), axis=-2)

    def correct(self, scores: Float[Array, "n k"], labels: Int[Array, "n k"]) -> Float[Array, "n"]:
        return jnp.all(self.predictions(scores) == labels, axis=-1).astype(jnp.float32)

    def mask(
        self, scores: Float[Array, "n k"], labels: Int[Array, "n k"] | None
    ) -> Float[Array, "n k"]:
        shown = self.predictions(scores) if labels is None else labels
        return shown.astype(jnp.float32)

    def shape_of_labels(self, image_shape: tuple[int, int, int], num_classes: int) -> tuple:
        if self.count > num_classes:
            raise ValueError(
                f"task.multilabel.count is at most {num_classes} here, the number of classes, not "
                f"{self.count}"
            )
        return (num_classes,)
