"""Tasks: what labels mean, one class each, and their names.

A task is a hashable value, a frozen dataclass of its settings. Losses, predictions, accuracy and
the mask of the decoder use it; nothing else depends on what a label is.
"""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array

from capsjax import registry
from capsjax.tasks.classification import Classification
from capsjax.tasks.multilabel import MultiLabel
from capsjax.tasks.segmentation import Segmentation

__all__ = [
    "TASKS",
    "Classification",
    "MultiLabel",
    "Segmentation",
    "Task",
    "check_labels",
    "make_task",
    "register",
]


@runtime_checkable
class Task(Protocol):
    """The interface of every task; scores are (n, k), or (n, h, w, k) for a map.

    A task may have `MEASURES`: the names of methods like `correct`, for further metrics, of which
    more is better.
    """

    def targets(self, labels: Array, num_classes: int) -> Array:
        """Return what losses compare scores with: 1 for what is there, shaped like the scores."""

    def predictions(self, scores: Array) -> Array:
        """Return the labels that the scores mean, shaped like labels."""

    def correct(self, scores: Array, labels: Array) -> Array:
        """Return how correct each example is, from 0 to 1, (n,)."""

    def mask(self, scores: Array, labels: Array | None) -> Array:
        """Return the classes that a decoder is given, (n, k): the labels', or else the scores'."""

    def shape_of_labels(self, image_shape: tuple[int, int, int], num_classes: int) -> tuple:
        """Return the shape of the label of one image, for images of that shape.

        Raises:
          ValueError: for settings of the task that do not suit so many classes.
        """


def check_labels(
    task: Task,
    labels: tuple[int, ...],
    image_shape: tuple[int, int, int],
    num_classes: int,
) -> None:
    """Check that the labels of a data set fit a task.

    Args:
      task: what the labels shall mean.
      labels: their shape, (n, ...).
      image_shape: (h, w, c).
      num_classes: number of classes.

    Raises:
      ValueError: if they do not, where the message names the task that they fit, or for settings
        of the task that do not suit so many classes.
    """
    wanted = tuple(task.shape_of_labels(image_shape, num_classes))
    if labels[1:] != wanted:
        fitting = {1: "classification", 2: "multilabel", 3: "segmentation"}[len(labels)]
        network = ", with a network of maps (--config=segcaps or unet)" * (len(labels) == 3)
        raise ValueError(
            f"{type(task).__name__} has a label of shape {wanted} for each image, and the data "
            f"have {labels[1:]}: --config.task.name={fitting}{network}"
        )


TASKS = {
    "classification": Classification,
    "multilabel": MultiLabel,
    "segmentation": Segmentation,
}


def register(name: str, task: type) -> type:
    """Register a task for configs: `task.name`.

    Raises:
      ValueError: for a name that is taken, or a class that is no dataclass.
    """
    return registry.register_component(TASKS, name, task, "task")


def make_task(name: str, **settings: Any) -> Task:
    """Make the task of a given name with the given settings.

    Raises:
      ValueError: for an unknown name (the nearest one is named) or a wrong setting.

    >>> make_task("classification")
    Classification()
    """
    return registry.make(TASKS, "task", name, settings)
