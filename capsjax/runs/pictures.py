"""What a network in training makes of a few images, as pictures for TensorBoard."""

from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from capsjax.analysis.examples import some_of_each_class
from capsjax.data import Arrays
from capsjax.data.augment import to_float
from capsjax.metrics import count_confusions
from capsjax.plots import tiles
from capsjax.runs import devices
from capsjax.training.build import Built

# Images of a picture, at most.
MOST = 10
# Epochs after which pictures are drawn, and ten, a hundred, ... times as many; and the last one.
EPOCHS = (1, 2, 5)


def is_due(epoch: int, epochs: int) -> bool:
    """Return whether pictures are drawn after an epoch.

    >>> [epoch for epoch in range(1, 61) if is_due(epoch, epochs=60)]
    [1, 2, 5, 10, 20, 50, 60]
    """
    first = epoch
    while first % 10 == 0:
        first //= 10
    return first in EPOCHS or epoch == epochs


class Pictures:
    """Pictures of images that training may look at: of its validation part, or else its own.

    Args:
      built: what the config describes.
      part: the images and their labels.
      mesh: the devices.
      batch_size: images of a training step: as many fit into the memory.
    """

    def __init__(self, built: Built, part: Arrays, mesh: Mesh, batch_size: int):
        self._part, self._mesh = part, mesh
        self._count, labels = min(MOST, batch_size), part.labels
        some = some_of_each_class(labels, MOST) if labels.ndim == 1 else np.arange(len(labels))
        self._some = some[: self._count]

        def reconstruct(variables, images):
            return built.model.apply(variables, to_float(images)).reconstruction

        self._reconstruct = jax.jit(built.compute.in_precision(reconstruct))

    def draw(
        self, variables: dict, predictions: np.ndarray | None
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Draw what a network makes of the images.

        Args:
          variables: its parameters and statistics.
          predictions: its answers to all images of the part, where those are classes; else None.

        Yields:
          Names and pictures, uint8, (h, w, 3): images over their reconstructions, if it makes any,
          and of answers the confusion matrix and the first mistakes.
        """
        below = self._rows(variables, self._some)
        if len(below) > 1:
            yield "reconstructions", tiles.stacked(below)
        if predictions is None:
            return
        labels, names, count = self._part.labels, self._part.class_names, self._part.num_classes
        matrix = count_confusions(labels, predictions, count)
        yield "confusion", tiles.confusion(matrix, names)
        wrong = np.flatnonzero(labels != predictions)[: self._count]
        if len(wrong):
            shown = names or [str(k) for k in range(count)]
            captions = [f"{shown[labels[i]]} as {shown[predictions[i]]}" for i in wrong]
            yield "mistakes", tiles.stacked(self._rows(variables, wrong), captions)

    def _rows(self, variables: dict, chosen: np.ndarray) -> list[np.ndarray]:
        """Return chosen images, and their reconstructions if the network makes any."""
        images = self._part.images[chosen]
        # Another number of images would compile again.
        filled = np.resize(images, (self._count, *images.shape[1:]))
        made = self._reconstruct(variables, devices.replicate(filled, self._mesh))
        return [images] if made is None else [images, devices.to_host(made)[: len(images)]]
