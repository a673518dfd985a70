"""Parts that networks for maps of labels share."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from capsjax.tasks import Segmentation, Task


def with_background(foreground: Float[Array, "n h w j"]) -> Float[Array, "n h w k"]:
    """Put the score of the background, 1 - the largest, before the scores of the other classes.

    A class is then predicted where its score is the largest and above one half.

    Args:
      foreground: scores in [0, 1] of all classes but the background, which is class 0.

    >>> with_background(jnp.array([0.75, 0.5]).reshape(1, 1, 1, 2)).tolist()
    [[[[0.25, 0.75, 0.5]]]]
    """
    return jnp.concatenate([1.0 - jnp.max(foreground, axis=-1, keepdims=True), foreground], axis=-1)


def check_map_task(task: Task, num_classes: int, network: str) -> None:
    """Check that a network for maps gets a task of maps, with classes beside the background.

    Raises:
      ValueError: if it does not.
    """
    if not isinstance(task, Segmentation):
        raise ValueError(
            f"{network} labels each pixel, and the task is {type(task).__name__}: "
            "--config.task.name=segmentation, and data with maps"
        )
    if num_classes < 2:
        raise ValueError(f"{network} needs maps with a class beside the background, which is 0")
