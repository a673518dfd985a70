"""Settings that follow from the data: the batch size, class weights, and what does not fit."""

import math

import flax.linen as nn
import numpy as np
from ml_collections import ConfigDict

from capsjax.data import OWN, Arrays
from capsjax.kernels.compute import NOT_LAYERS, Compute
from capsjax.models import CapsNet
from capsjax.registry import component_of, suggest

# The largest batch that is chosen, and the steps that an epoch has at least.
LARGEST_BATCH, FEWEST_STEPS = 128, 8
# Primary capsules from which a line warns of them, and the number that it shows the way to. The
# paper's network has 1,152.
MANY_CAPSULES, FEWER_CAPSULES = 10_000, 4_000
# Weight of the mean squared error in the paper: 0.0005 for each of 784 pixels.
WEIGHT = 0.392
# How far the mean of class weights is from 1 once they have six digits.
ROUNDING = 1e-5


def fit_to_data(config: ConfigDict, training: Arrays) -> ConfigDict:
    """Return a config in which what the data decide is decided: batch size and class weights.

    Args:
      config: see `capsjax.config`.
      training: the training part.

    Raises:
      ValueError: for class weights that do not fit the classes.
    """
    changes = {}
    if config.train.batch_size == 0:
        changes["train.batch_size"] = choose_batch_size(len(training))
    weights = choose_class_weights(config.class_weights, training)
    if weights != config.class_weights:
        changes["class_weights"] = weights
    if not changes:
        return config
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return config.lock()


def choose_batch_size(num_examples: int) -> int:
    """Return the largest power of two, up to 128, that makes eight steps an epoch.

    >>> [choose_batch_size(count) for count in (5, 36, 1000, 60_000)]
    [1, 4, 64, 128]
    """
    most = max(1, min(LARGEST_BATCH, num_examples // FEWEST_STEPS))
    return 2 ** int(math.log2(most))


def choose_class_weights(setting: str, training: Arrays) -> str:
    """Return the class weights of a setting, whose mean over the training examples is 1.

    Args:
      setting: "none"; "balanced", the inverse of the number of each class; or a number for each
        class, with commas between.
      training: the training part, with one class for each image or pixel.

    Returns:
      "none", or a number for each class.

    Raises:
      ValueError: for another setting, weights that do not fit the classes, or other labels.
    """
    if setting == "none":
        return setting
    if training.labels.ndim == 2:
        raise ValueError(
            "class_weights are for one class for each image or pixel: leave them at 'none'"
        )
    counts = np.bincount(training.labels.ravel(), minlength=training.num_classes)
    if setting == "balanced":
        weights = np.where(counts > 0, 1.0 / np.maximum(counts, 1), 0.0)
    else:
        weights = np.array(parse_class_weights(setting))
        if len(weights) != training.num_classes:
            raise ValueError(
                f"class_weights has {len(weights)} numbers for {training.num_classes} classes"
            )
    total = float(weights @ counts)
    if total == 0:
        raise ValueError("class_weights are above 0 for at least one class of the training images")
    if setting != "balanced" and abs(total / counts.sum() - 1) < ROUNDING:
        return setting  # chosen before: another division would change the last digit
    return ",".join(f"{weight:.6g}" for weight in weights * counts.sum() / total)


def parse_class_weights(setting: str) -> tuple[float, ...]:
    """Read the numbers of the setting `class_weights`; none for "none".

    Raises:
      ValueError: for anything else than numbers from 0 on.

    >>> parse_class_weights("0.5,2")
    (0.5, 2.0)
    """
    if setting == "none":
        return ()
    if setting == "balanced":
        raise ValueError("class_weights=balanced needs the training labels: call fit_to_data first")
    try:
        weights = tuple(float(number) for number in setting.split(","))
    except ValueError:
        weights = (-1.0,)
    if not all(0 <= weight < math.inf for weight in weights):
        raise ValueError(
            "class_weights is 'none', 'balanced' or a number of at least 0 for each class, such as "
            f"1,2,0.5; not {setting!r}"
        )
    return weights


def describe_misfits(config: ConfigDict, model: nn.Module) -> list[str]:
    """Describe in lines what of a config does not suit the size of the images, and what to set.

    Args:
      config: see `capsjax.config`.
      model: the network that it describes.
    """
    lines = [
        _describe_capsules(model),
        _describe_reconstruction(config, model.image_shape),
        _describe_forms(config, model),
    ]
    return [line for line in lines if line]


def _describe_capsules(model: nn.Module) -> str:
    if not isinstance(model, CapsNet) or model.num_primary_caps() < MANY_CAPSULES:
        return ""
    h, w, _ = model.image_shape
    found = model.num_primary_caps()
    line = f"warning: images of {h}x{w} pixels make {found:,} primary capsules, each with a matrix "
    line += "for each class: slow, and large"
    for stride in range(model.conv["stride"] + 1, min(h, w)):
        fewer = model.clone(conv={**model.conv, "stride": stride}).num_primary_caps()
        if 0 < fewer <= FEWER_CAPSULES:
            return f"{line}. With --config.model.conv.stride={stride} there are {fewer:,}"
    return f"{line}. Make images smaller, or model.primary_caps.types"


def _describe_reconstruction(config: ConfigDict, image_shape: tuple[int, int, int]) -> str:
    """Compare what a sum over the numbers of an image of one's own weighs with the paper's."""
    weight = config.loss_weights.get("reconstruction", 0.0)
    if component_of(config.data.name) not in OWN or not weight:
        return ""
    if config.reconstruction_loss.reduction != "sum":
        return ""
    times = weight * math.prod(image_shape) / WEIGHT
    if 1 / 2 < times < 2:
        return ""
    h, w, c = image_shape
    return (
        f"warning: the reconstruction loss, a sum over {h}x{w}x{c} numbers, weighs {times:.2g} "
        "times what it does in the paper: --config.reconstruction_loss.reduction=mean "
        f"--config.loss_weights.reconstruction={WEIGHT:g} is its weight for images of any size"
    )


def _describe_forms(config: ConfigDict, model: nn.Module) -> str:
    """Name a layer that has a form of convolution in the config and does not exist."""
    # Names of layers do not depend on the batch.
    layers = model.chosen_forms(1)
    unknown = [name for name in Compute(**config.model.compute).layers if name not in layers]
    if not unknown:
        return ""
    known = suggest(unknown[0], (name for name in layers if name not in NOT_LAYERS))
    line = f"warning: model.compute.conv names the layer {unknown[0]!r}, which is not there"
    return f"{line}; {known}"
