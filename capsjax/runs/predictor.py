"""A trained network, ready to use: load a checkpoint and predict.

from capsjax.runs.predictor import load_predictor
predictor = load_predictor("runs/a")
print(predictor.predict(images).labels)  # images (n, h, w, c), uint8 or in [0, 1]
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from capsjax.kernels.compute import Compute
from capsjax.models import Output, look_inside
from capsjax.runs.checkpoint import CheckpointError, Checkpoints
from capsjax.runs.own_files import load_own_files
from capsjax.runs.workdir import read_config
from capsjax.training import Objective
from capsjax.training.build import build
from capsjax.training.evaluation import images_at_once

# How often a network is loaded anew because the run has replaced its checkpoints meanwhile.
TRIES = 5


class Prediction(NamedTuple):
    """Predictions for a number of images.

    Attributes:
      labels: the predicted class, that of the highest score, (n,), or (n, h, w) for a map.
      scores: scores of the classes, (n, k), or (n, h, w, k): lengths of class capsules in [0, 1),
        or logits.
      poses: class capsules, (n, k, d); None for a network without capsules, and for maps, where
        they would fill the memory: `Predictor.forward` returns them.
      reconstruction: decoded from the predicted class, (n, h, w, c); None without a decoder.
    """

    labels: np.ndarray
    scores: np.ndarray
    poses: np.ndarray | None
    reconstruction: np.ndarray | None


class Predictor:
    """A network with its trained parameters.

    Attributes:
      config: config of the run.
      step: step of the checkpoint.
      model: the Flax module.
      variables: its parameters and statistics, for `model.apply(variables, images)`.
      objective: the loss it was trained with.
      class_names: name of each class; empty where classes are numbers alone.
    """

    def __init__(
        self,
        config: ConfigDict,
        step: int,
        model: nn.Module,
        variables: dict,
        objective: Objective,
        class_names: Sequence[str] = (),
    ):
        self.config, self.step, self.model, self.variables = config, step, model, variables
        self.objective, self.class_names = objective, tuple(class_names)
        apply = Compute(**config.model.compute).in_precision(model.apply)
        self._apply = jax.jit(apply)
        inside = functools.partial(look_inside, model)
        self._look_inside = jax.jit(Compute(**config.model.compute).in_precision(inside))
        self._decode = jax.jit(
            lambda variables, *inputs: apply(variables, *inputs, method="decode")
        )

    def forward(self, images: np.ndarray) -> Output:
        """Apply the network.

        Args:
          images: (n, h, w, c), uint8 in 0..255 or floating point in [0, 1].

        Raises:
          ValueError: for images of another shape or type.
        """
        return self._apply(self.variables, self._checked(images))

    def look_inside(self, images: np.ndarray) -> tuple[Output, dict[str, dict]]:
        """Apply the network, and return votes, couplings and logits of its layers too.

        Args:
          images: as in `forward`.

        Returns:
          As `capsjax.models.look_inside`.
        """
        return self._look_inside(self.variables, self._checked(images))

    def _checked(self, images: np.ndarray) -> np.ndarray:
        """Check the images and return them as float32 in [0, 1]."""
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[1:] != tuple(self.model.image_shape):
            h, w, c = self.model.image_shape
            raise ValueError(
                f"this network takes images of shape (n, {h}, {w}, {c}), not {images.shape}"
            )
        if images.dtype == np.uint8:
            images = images / np.float32(255)
        elif not np.issubdtype(images.dtype, np.floating):
            raise ValueError(f"images are uint8 or floating point, not {images.dtype}")
        elif images.size and not (images.min() >= 0 and images.max() <= 1):
            raise ValueError(
                f"images of floating point are in [0, 1], and these from {images.min():g} to "
                f"{images.max():g}: divide them by 255, or give uint8"
            )
        return images.astype(np.float32)

    def predict(self, images: np.ndarray, batch_size: int = 0) -> Prediction:
        """Classify and reconstruct any number of images.

        Args:
          images: as in `forward`.
          batch_size: images at once, which bounds the memory; 0 for as many as suit the device.
        """
        batch_size = batch_size or images_at_once()
        parts = []
        firsts = range(0, len(images), batch_size)
        for first in tqdm(firsts, "predicting", unit="batch", disable=None, leave=False, delay=1):
            batch = np.asarray(images[first : first + batch_size])
            # A smaller last batch is filled up: another shape would compile again.
            missing = min(batch_size, len(images)) - len(batch)
            filled = np.pad(batch, [(0, missing)] + [(0, 0)] * (batch.ndim - 1))
            output = self._apply(self.variables, self._checked(filled))
            if output.scores.ndim == 4:
                output = output._replace(poses=None)
            kept = len(batch)
            parts.append(jax.tree.map(lambda x, kept=kept: np.asarray(x)[:kept], output))
        if not parts:
            raise ValueError("no images to predict")
        output = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
        labels = np.asarray(self.objective.task.predictions(jnp.asarray(output.scores)))
        return Prediction(labels, *output)

    def decode(self, poses: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Decode class poses (n, k, d) to images, each of its given class (n,).

        Raises:
          ValueError: if the network has no decoder.
        """
        mask = jax.nn.one_hot(jnp.asarray(labels), self.model.num_classes)
        return np.asarray(self._decode(self.variables, jnp.asarray(poses), mask))


def load_predictor(
    workdir: str | Path, checkpoint: str = "selected", crops: int | None = None
) -> Predictor:
    """Load the network of a run.

    Args:
      workdir: folder of the run.
      checkpoint: "best" (by the config's `selection_metric` on validation), "last", a step, or
        "selected": the one of the two that the config selects, and summary.json reports.
      crops: crops of each image, in place of the config's `model.input.crops`.

    Raises:
      ValueError: if there is no run or no such checkpoint, or it is damaged, or the network does
        not crop so; the message names the remedy.
    """
    workdir = Path(workdir).expanduser()
    config = read_config(workdir)
    if crops is not None:
        if "input" not in config.model:
            raise ValueError(f"{config.name} does not crop its images; leave out --crops")
        config.model.input.crops = crops
    load_own_files(workdir)
    which = config.selection if checkpoint == "selected" else checkpoint
    for _ in range(TRIES):
        checkpoints = _checkpoints_of(workdir, config)
        try:
            return _load(config, checkpoints, which)
        except CheckpointError as error:
            damage = error
            # A run that goes on replaces its checkpoints while they are read.
            if _checkpoints_of(workdir, config).steps() == checkpoints.steps():
                break
    raise damage


def _checkpoints_of(workdir: Path, config: ConfigDict) -> Checkpoints:
    folder, metric = workdir / "checkpoints", config.selection_metric
    return Checkpoints(folder, read_only=True, metric=metric)


def _load(config: ConfigDict, checkpoints: Checkpoints, which: str) -> Predictor:
    """Load the network of one of the checkpoints of a run."""
    notes = checkpoints.notes(which)
    # The number of examples matters only to the learning rate.
    built = build(
        config, tuple(notes["image_shape"]), notes["num_classes"], config.train.batch_size
    )
    like = jax.eval_shape(lambda: built.init_state(config.seed))
    restored = checkpoints.restore(like, which)
    return Predictor(
        config,
        restored.step,
        built.model,
        restored.state.variables,
        built.objective,
        notes.get("class_names", ()),
    )
