"""Images to choose from: those of a run's test part, or handwritten digits, without a download."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from capsjax.analysis.examples import some_of_each_class
from capsjax.data import COMPONENTS, SOURCES, DataError, fitted, load_part, source_of
from capsjax.data.digits import load_digits
from capsjax.data.tfds import find_data_dir
from capsjax.explore.inputs import BOX, centred
from capsjax.registry import component_of
from capsjax.runs.predictor import Predictor

# Data sets whose images are digits in grey, for which other handwritten digits do.
DIGITS = ("mnist", "digits")


class Samples(NamedTuple):
    """Images to choose from.

    Attributes:
      images: uint8, (n, h, w, c); none where there are none.
      labels: class of each, (n,); empty where an image has not one class.
      origin: a sentence about where they are from, or why there are none.
    """

    images: np.ndarray
    labels: np.ndarray
    origin: str


def find_samples(predictor: Predictor) -> Samples:
    """Find images for a network: the test part of its data, or digits for a network of digits.

    Nothing is downloaded: a set of TFDS is read where it is prepared already.
    """
    data, shape = predictor.config.data, tuple(predictor.model.image_shape)
    try:
        _check_needs_no_download(data.name, data.dir)
        test = load_part(part="test", **fitted(source_of(data), shape))
        test = test.numbered_as(predictor.class_names, predictor.model.num_classes)
    except (ValueError, OSError, KeyError, TypeError, ImportError) as error:
        if data.name in DIGITS and shape[-1] == 1:
            return enlarged_digits(shape)
        return _none(shape, f"No images to choose from: {error}")
    if test.image_shape != shape:
        return _none(shape, f"No images to choose from: those of {data.name} have another size.")
    labels = test.labels if test.labels.ndim == 1 else np.zeros(0, np.int32)
    return Samples(test.images, labels, f"Test images of {data.name}.")


def _check_needs_no_download(name: str, directory: str) -> None:
    if name in SOURCES or component_of(name) in COMPONENTS:
        return  # on this machine, or, of Hugging Face, read offline as its command sets
    if not (Path(find_data_dir(directory)) / re.split("[/:]", name)[0]).is_dir():
        raise DataError(f"the data set {name!r} is not on this machine.")


def _none(shape: tuple[int, ...], origin: str) -> Samples:
    return Samples(np.zeros((0, *shape), np.uint8), np.zeros(0, np.int32), origin)


def enlarged_digits(image_shape: tuple[int, int, int]) -> Samples:
    """Return the test digits of scikit-learn as images of another size, centred as MNIST's are."""
    test = load_digits("test")
    large = (32, 32)  # of which the border is paper
    images = []
    for image in test.images[..., 0]:
        smooth = Image.fromarray(np.pad(image, 2)).resize(large, Image.Resampling.BICUBIC)
        images.append(centred(np.asarray(smooth), image_shape[:2]))
    origin = "Digits of scikit-learn, enlarged; MNIST is not on this machine."
    return Samples(np.stack(images)[..., None], test.labels, origin)


def box_of(samples: Samples) -> float:
    """Return the share of an image that the longer side of the ink takes in the samples.

    That of MNIST, 20 of 28 pixels, where there are no samples.
    """
    ink = samples.images[:200].any(axis=-1)
    spans = [_span(ink.any(axis=3 - axis)) / ink.shape[axis] for axis in (1, 2)]
    longest = np.max(spans, axis=0) if len(ink) else np.zeros(0)
    return float(np.median(longest)) if longest.any() else BOX


def _span(some: np.ndarray) -> np.ndarray:
    """Return from the first true value to the last one, of each row; 0 for none."""
    last = some.shape[1] - some[:, ::-1].argmax(axis=1)
    return np.where(some.any(axis=1), last - some.argmax(axis=1), 0)


def are_ink_on_black(samples: Samples) -> bool:
    """Whether the samples are light ink on black, as digits are: most of their borders is black."""
    if not len(samples.images) or samples.images.shape[-1] != 1:
        return False
    some = samples.images[:200]
    border = np.concatenate([some[:, 0], some[:, -1], some[:, :, 0], some[:, :, -1]], axis=1)
    return bool(np.mean(border < 26) > 0.7)


def choose(samples: Samples, count: int, seed: int) -> np.ndarray:
    """Choose the positions of a number of samples by a seed, all classes in turn."""
    order = np.random.default_rng(seed).permutation(len(samples.images))
    if not len(samples.labels):
        return order[:count]
    return order[some_of_each_class(samples.labels[order], count)]
