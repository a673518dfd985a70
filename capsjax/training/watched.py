"""The validation metrics that decide: on the learning rate, the end of a run, its parameters."""

import math
from collections.abc import Mapping
from typing import NamedTuple


class Watched(NamedTuple):
    """A validation metric that something depends on.

    Attributes:
      name: "loss", of which less is better, or another metric, of which more is: "accuracy", or one
        of the task's `MEASURES`, such as "dice".
      value: its value.
    """

    name: str
    value: float

    @property
    def cost(self) -> float:
        """The value, with the sign that makes less of it better."""
        return self.value if self.name == "loss" else -self.value

    def is_better_than(self, best: float | None) -> bool:
        """Return whether the value is finite and better than the best so far, None for none.

        >>> Watched("loss", 0.5).is_better_than(0.75), Watched("accuracy", 0.5).is_better_than(0.5)
        (True, False)
        """
        return math.isfinite(self.value) and (
            best is None or self.cost < Watched(self.name, best).cost
        )


def watched(metrics: Mapping[str, float]) -> Watched:
    """Return the metric that the learning rate and the end of a run depend on.

    This is the Dice coefficient for maps of labels, else the loss.

    >>> watched({"loss": 0.25}).cost, watched({"loss": 0.25, "dice": 0.75}).cost
    (0.25, -0.75)
    """
    name = "dice" if "dice" in metrics else "loss"
    return Watched(name, metrics[name])


def selecting(metrics: Mapping[str, float], name: str) -> Watched:
    """Return the metric that the best parameters have most of, or least, see `Watched`.

    It is NaN, and never the best, where the loss is not finite: scores that are not numbers have
    an accuracy too.

    Args:
      metrics: those of a validation part.
      name: one of its names, the field `selection_metric` of a config.

    >>> selecting({"loss": 0.25, "accuracy": 0.5}, "accuracy")
    Watched(name='accuracy', value=0.5)
    """
    return Watched(name, metrics[name] if math.isfinite(metrics["loss"]) else math.nan)
