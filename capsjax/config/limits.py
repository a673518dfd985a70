"""The values that the fields of a config may have, in one place."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict


class Limits(NamedTuple):
    """The values that a number may have; a tuple of numbers, each of them.

    Attributes:
      least: the smallest.
      below: what it is smaller than.
      above: what it is larger than.
      most: the largest.
    """

    least: float | int = -math.inf
    below: float | int = math.inf
    above: float | int = -math.inf
    most: float | int = math.inf

    def allow(self, value: float | int) -> bool:
        """Return whether a number is within the limits; NaN is not, nor infinity."""
        return self.least <= value < self.below and self.above < value <= self.most

    def __str__(self) -> str:
        parts = [
            f"at least {self.least}" if self.least > -math.inf else "",
            f"above {self.above}" if self.above > -math.inf else "",
            f"below {self.below}" if self.below < math.inf else "",
            f"at most {self.most}" if self.most < math.inf else "",
        ]
        return " and ".join(filter(None, parts)) or "finite"


AT_LEAST_0, AT_LEAST_1, POSITIVE = Limits(0), Limits(1), Limits(above=0)
SHARE = Limits(0, 1)  # 1 is no share: nothing would be left
PROBABILITY = Limits(0, most=1)

# By dotted name.
LIMITS = {
    "augment.brightness": AT_LEAST_0,
    "augment.contrast": SHARE,
    "augment.elastic": AT_LEAST_0,
    "augment.elastic_sigma": POSITIVE,
    "augment.flip_horizontal": PROBABILITY,
    "augment.flip_vertical": PROBABILITY,
    "augment.hue": AT_LEAST_0,
    "augment.max_shift": AT_LEAST_0,
    "augment.noise": AT_LEAST_0,
    "augment.rotation": AT_LEAST_0,
    "augment.saturation": AT_LEAST_0,
    "augment.scale": SHARE,
    "binary_cross_entropy_loss.positive_weight": AT_LEAST_0,
    "checkpoint.every_epochs": AT_LEAST_1,
    "checkpoint.every_minutes": AT_LEAST_0,
    "checkpoint.every_steps": AT_LEAST_0,
    "checkpoint.keep": AT_LEAST_1,
    "data.split_seed": Limits(0, 2**32),
    "data.train_size": AT_LEAST_0,
    "data.validation_size": AT_LEAST_0,
    "evaluate.batch_size": AT_LEAST_0,
    "log.every_steps": AT_LEAST_1,
    "model.batch_norm.epsilon": AT_LEAST_0,
    "model.batch_norm.momentum": SHARE,
    # 0: class capsules without poses, of self-routing.
    "model.class_caps.pose_size": AT_LEAST_0,
    "model.dropout.dense": SHARE,
    "model.dropout.pool": SHARE,
    "model.input.brightness": AT_LEAST_0,
    "model.input.contrast": SHARE,
    "model.input.crop": AT_LEAST_0,
    "model.input.crops": AT_LEAST_1,
    "model.norm.epsilon": AT_LEAST_0,
    "model.norm.momentum": SHARE,
    "model.squash.eps": AT_LEAST_0,
    "optimizer.b1": SHARE,
    "optimizer.b2": SHARE,
    "optimizer.clip_norm": AT_LEAST_0,
    "optimizer.eps": POSITIVE,
    "optimizer.momentum": SHARE,
    "optimizer.weight_decay": AT_LEAST_0,
    "schedule.anneal_epochs": AT_LEAST_0,
    "schedule.decay_every": AT_LEAST_1,
    "schedule.decay_rate": POSITIVE,
    "schedule.floor": AT_LEAST_0,
    "schedule.learning_rate": AT_LEAST_0,
    "schedule.plateau.decay": AT_LEAST_0,
    "schedule.plateau.factor": Limits(above=0, below=1),
    "schedule.plateau.min_improvement": AT_LEAST_0,
    "schedule.plateau.patience": AT_LEAST_1,
    "schedule.stage_factors": AT_LEAST_0,
    # The 32 bits that jax.random.key takes of it: any other seed is the run of one of these. A
    # negative one is that of seed + 2**32.
    "seed": Limits(-(2**31), 2**32),
    "soft_dice_loss.smooth": POSITIVE,
    "spread_loss.margin_steps": AT_LEAST_1,
    "task.multilabel.count": AT_LEAST_0,
    "train.batch_size": AT_LEAST_0,
    "train.epochs": AT_LEAST_1,
    "train.patience": AT_LEAST_0,
}
# By the last part of the name, for all fields below "model.": sizes of layers.
SIZES = (
    "blocks",
    "features",
    "hidden",
    "kernel_size",
    "num_capsules",
    "pose_size",
    "stride",
    "types",
    "window",
)


def check_limits(fields: Mapping[str, Any]) -> None:
    """Check the numbers of a config.

    Args:
      fields: the fields of a run, flat: dotted name to value.

    Raises:
      ValueError: for one that is outside of its limits; the message names them.

    >>> check_limits({"train.epochs": 5, "model.conv.kernel_size": 3})
    """
    for name, value in fields.items():
        limits = LIMITS.get(name)
        if limits is None and name.startswith("model.") and name.split(".")[-1] in SIZES:
            limits = AT_LEAST_1
        numbers = value if isinstance(value, tuple) else (value,)
        if limits is not None and not all(limits.allow(number) for number in numbers):
            each = "each value of " if isinstance(value, tuple) else ""
            raise ValueError(f"{each}{name} is {limits}, not {value}")


def decided_by_validation(config: ConfigDict) -> dict[str, str]:
    """Return the settings by which validation changes training, each with one that does without."""
    found = {}
    if config.schedule.name == "plateau":
        found["schedule.name=plateau"] = "schedule.name=constant"
    if config.train.patience > 0:
        found[f"train.patience={config.train.patience}"] = "train.patience=0"
    return found
