"""smallNORB: toys photographed by two cameras, of which each pair is one image of two channels."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from capsjax.data.arrays import DataError
from capsjax.data.forms import Form

# In the order of the numbers of `label_category`, which are those of the original files.
CLASS_NAMES = ("animal", "human", "plane", "truck", "car")
# The cameras in the order of channels.
CAMERAS = ("image", "image2")
LABEL = "label_category"
SIZE = 96


def make_pairs(features: Mapping[str, Any]) -> Form:
    """Make the form of smallNORB: stereo pairs of half the size, and the five categories.

    Both parts have 24,300 pairs, of five instances of each category that the other part lacks, so
    that a validation part held out of the training part is not of new instances, as the test is.

    Args:
      features: those of the set in TFDS, by name.

    Raises:
      DataError: if they are not those of smallNORB.

    Source: LeCun, Huang and Bottou 2004; 48x48 pixels: Hinton et al. 2018, section 5.
    """
    shapes = [getattr(features.get(name), "shape", None) for name in CAMERAS]
    num_classes = getattr(features.get(LABEL), "num_classes", None)
    if shapes != [(SIZE, SIZE, 1)] * 2 or num_classes != len(CLASS_NAMES):
        raise DataError(
            f"smallnorb has {CAMERAS[0]} and {CAMERAS[1]} of {SIZE}x{SIZE} pixels and {LABEL} of "
            f"{len(CLASS_NAMES)} classes, and these data have shapes {shapes[0]} and {shapes[1]}, "
            f"{num_classes} classes"
        )
    return Form(
        name="pairs48",
        image_shape=(SIZE // 2, SIZE // 2, 2),
        num_classes=len(CLASS_NAMES),
        image_of=pair_of,
        label=LABEL,
        class_names=CLASS_NAMES,
    )


def pair_of(example: Mapping[str, Any]) -> np.ndarray:
    """Return the two images of an example as channels, at half the size."""
    return halve(np.concatenate([example[name] for name in CAMERAS], axis=-1))


def halve(image: np.ndarray) -> np.ndarray:
    """Reduce an image to half its rows and columns, by the mean of each 2x2 pixels.

    Args:
      image: uint8, (2h, 2w, c).

    Returns:
      uint8, (h, w, c), rounded; halves are rounded up.

    >>> halve(np.array([[[1], [2]], [[3], [4]]], np.uint8)).tolist()
    [[[3]]]
    """
    h, w, c = image.shape
    sums = image.astype(np.uint16).reshape(h // 2, 2, w // 2, 2, c).sum(axis=(1, 3))
    return ((sums + 2) // 4).astype(np.uint8)
