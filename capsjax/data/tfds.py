"""Image-classification sets of TensorFlow Datasets (TFDS), read as arrays.

Reading goes through `as_data_source` (array_record files), which needs no TensorFlow.
TensorFlow is imported only when TFDS has to prepare a set for the first time.
"""

import dataclasses
import hashlib
import logging
import operator
import os
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from capsjax.data.arrays import Arrays, DataError, Sizes
from capsjax.data.cache import cached
from capsjax.data.forms import Form
from capsjax.data.smallnorb import make_pairs
from capsjax.registry import suggest

# Sets that are not read as images and labels that TFDS names for them: the form of each, made of
# its features.
FORMS: dict[str, Callable[[Mapping[str, Any]], Form]] = {"smallnorb": make_pairs}


def load_tfds(name: str, data_dir: str, part: str) -> Arrays:
    """Load one part of a TFDS set, downloading and preparing it first if need be.

    Args:
      name: name of the set in the TFDS catalogue, e.g. "mnist" or "cifar10".
      data_dir: TFDS's directory; empty for $TFDS_DATA_DIR, else TFDS's own default.
      part: "train" or "test".

    Raises:
      DataError: if the set does not exist or is not available, or does not consist of labelled
        images of one size with a training and a test part.
    """
    directory = find_data_dir(data_dir)
    builder = _make_builder(name, directory)
    form = _form_of(builder, name)
    if not builder.is_prepared():
        _prepare(builder, name, directory)
    info = builder.info
    for needed in ("train", "test"):  # both, so that no training ends without a test
        if needed not in info.splits:
            raise DataError(
                f"the data set {name!r} has no part {needed!r}, only {sorted(info.splits)}: save "
                "its images and labels to a file and use data.name=npz, which sets a sixth aside "
                "for testing"
            )
    # Size and path of the files distinguish one preparation of a set from another.
    parts = "-".join(f"{key}{split.num_examples}" for key, split in sorted(info.splits.items()))
    place = hashlib.sha256(str(builder.data_path).encode()).hexdigest()[:12]
    origin = f"{info.splits[part].num_bytes:x}-{place}"
    set_name = "-".join(filter(None, [info.full_name.replace("/", "-"), form.name]))
    try:
        arrays = cached(f"{set_name}-{parts}-{origin}-{part}", lambda: _decode(builder, part, form))
    except DataError:
        raise
    except Exception as error:  # array_record raises RuntimeError, Pillow errors of its own
        raise DataError(
            f"the files of {name!r} in {builder.data_path} are damaged "
            f"({type(error).__name__}: {_reason(error)}). "
            "Delete that directory to prepare the set anew"
        ) from error
    return dataclasses.replace(arrays, class_names=form.class_names)


def find_data_dir(data_dir: str) -> str:
    """Return the directory of TFDS's data sets: the argument, $TFDS_DATA_DIR, or the default."""
    default = os.path.join("~", "tensorflow_datasets")
    return str(Path(data_dir or os.environ.get("TFDS_DATA_DIR") or default).expanduser())


def _import_tfds():
    logging.getLogger("absl").addFilter(_is_news)
    import tensorflow_datasets as tfds

    return tfds


def _is_news(record: logging.LogRecord) -> bool:
    # TFDS recommends OpenCV at each import, and warns of a missing set before we report it.
    message = record.getMessage()
    return "OpenCV is not installed" not in message and "has no dataset_info.json" not in message


def _make_builder(name: str, directory: str):
    tfds = _import_tfds()
    try:
        return tfds.builder(name, data_dir=directory, file_format="array_record")
    except tfds.core.registered.DatasetNotFoundError:
        ours = ("digits", "npz", "folder", "csv", "shapes")
        raise DataError(
            f"unknown data set {name!r}; {suggest(name, [*ours, *TRAINING_SIZES])}, or any other "
            "image-classification set of TFDS"
        ) from None
    except Exception as error:  # a wrong config or version, damaged metadata, another file format
        raise DataError(
            f"TFDS cannot open the data set {name!r} in {directory} ({_reason(error)}). "
            "If it was prepared there in another file format (tfrecord), prepare it once more "
            f"in another directory. {_REMEDY}"
        ) from error


_REMEDY = (
    "Point --config.data.dir or TFDS_DATA_DIR at a directory that holds it, or use "
    "--config=configs/digits.py, which needs no download."
)

# Sizes of the training parts, for what is asked before a set is prepared.
TRAINING_SIZES = {
    "mnist": Sizes((28, 28, 1), 10, 60_000),
    "fashion_mnist": Sizes((28, 28, 1), 10, 60_000),
    "kmnist": Sizes((28, 28, 1), 10, 60_000),
    "cifar10": Sizes((32, 32, 3), 10, 50_000),
    "cifar100": Sizes((32, 32, 3), 100, 50_000),
    "svhn_cropped": Sizes((32, 32, 3), 10, 73_257),
    "smallnorb": Sizes((48, 48, 2), 5, 24_300),
}


def _prepare(builder, name: str, directory: str) -> None:
    """Download and prepare a set, which needs TensorFlow and a network."""
    looked = f"The data set {name!r} is not in {directory}"
    if not _network_answers(builder):
        raise DataError(f"{looked}, and no host of its download can be reached. {_REMEDY}")
    print(f"{looked}: TFDS downloads and prepares it now, this once.", flush=True)
    try:
        # TensorFlow would take all the memory of the GPU that JAX is to use.
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")
        builder.download_and_prepare(file_format="array_record")
    except ImportError as error:
        raise DataError(
            f"{looked}, and TFDS needs TensorFlow to prepare it ({error}): "
            f"pip install tensorflow. {_REMEDY}"
        ) from error
    except Exception as error:  # TFDS raises whatever the download or the disk raised
        raise DataError(
            f"{looked}, and TFDS could not download and prepare it "
            f"({type(error).__name__}: {_reason(error)}). {_REMEDY}"
        ) from error


def _reason(error: Exception) -> str:
    """Return the start of an error's message, which may be long, on one line."""
    return " ".join(str(error).split())[:300]


def _network_answers(builder) -> bool:
    """Return whether the name of any host of the download resolves.

    TFDS itself retries for more than three minutes before it gives up.
    """
    hosts = {urllib.parse.urlsplit(url).hostname for url in builder.url_infos or ()} - {None}
    if not hosts or urllib.request.getproxies():
        return True  # nothing to look up, or a proxy resolves names: let TFDS try
    for host in hosts:
        try:
            socket.getaddrinfo(host, 443)
            return True
        except OSError:
            continue
    return False


def _form_of(builder, name: str) -> Form:
    """Return how a set is read: by default as its images and the labels that belong to them."""
    set_name = re.split("[/:]", name)[0]
    if set_name in FORMS:
        return FORMS[set_name](dict(builder.info.features.items()))
    tfds = _import_tfds()
    info = builder.info
    keys = info.supervised_keys
    features = [info.features[key] for key in keys or () if isinstance(key, str)]
    if len(features) != 2 or not (
        isinstance(features[0], tfds.features.Image)
        and isinstance(features[1], tfds.features.ClassLabel)
    ):
        raise DataError(f"the data set {name!r} is not one of images with one label each")
    if None in features[0].shape:
        raise DataError(
            f"the images of {name!r} differ in size ({features[0].shape}); resize them and use "
            "data.name=npz"
        )
    if features[0].np_dtype != np.uint8:
        raise DataError(f"the images of {name!r} are {features[0].np_dtype}, not uint8")
    image, label = keys
    return Form("", features[0].shape, features[1].num_classes, operator.itemgetter(image), label)


def _decode(builder, part: str, form: Form) -> Arrays:
    source = builder.as_data_source(part)
    images = np.empty((len(source), *form.image_shape), np.uint8)
    labels = np.empty(len(source), np.int32)
    description = f"decoding {builder.info.name} ({part}, once)"
    for index, example in enumerate(tqdm(source, description, disable=None, leave=False)):
        images[index], labels[index] = form.image_of(example), example[form.label]
    return Arrays(images, labels, form.num_classes)
