"""What becomes of an example of a set of TFDS: an image and a label."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Form(NamedTuple):
    """How a set is read.

    Attributes:
      name: what decoded arrays are kept under, different for each way to read a set; empty for
        images and labels as the set names them.
      image_shape: (h, w, c) of an image.
      num_classes: number of classes.
      image_of: makes the image, uint8 of that shape, of an example.
      label: the feature that is the label.
      class_names: name of each class; empty where classes are numbers alone.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int
    image_of: Callable[[Mapping[str, Any]], np.ndarray]
    label: str
    class_names: tuple[str, ...] = ()
