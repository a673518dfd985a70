"""A trained network, ready to use: load a checkpoint and predict.

from capsjax.predictor import load_predictor
predictor = load_predictor("runs/a")
print(predictor.predict(images).labels)  # images (n, h, w, c), uint8 or in [0, 1]
"""

from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from capsjax.checkpoint import Checkpoints
from capsjax.compute import Compute
from capsjax.training import Objective
from capsjax.training.build import build
from capsjax.training.evaluation import images_at_once
from capsjax.workdir import read_config


class Prediction(NamedTuple):
    """Attributes:
    labels: the predicted class, that of the highest score, (n,).
    scores: of the classes, (n, k): lengths of class capsules in [0, 1), or logits.
    poses: class capsules, (n, k, d); None for a network without capsules.
    reconstruction: decoded from the predicted class, (n, h, w, c); None without a decoder.
    """

    labels: np.ndarray
    scores: np.ndarray
    poses: np.ndarray | None
    reconstruction: np.ndarray | None


class Predictor:
    """A network with its trained parameters.

    Attributes:
      config: of the run.
      step: of the checkpoint.
      model: the Flax module.
      variables: its parameters and statistics, for `model.apply(variables, images)`.
      objective: the loss it was trained with.
    """

    def __init__(
        self, config: ConfigDict, step: int, model: nn.Module, variables: dict, objective: Objective
    ):
        self.config, self.step, self.model, self.variables = config, step, model, variables
        self.objective = objective
        apply = Compute(**config.model.compute).in_precision(model.apply)
        self._apply = jax.jit(apply)
        # Of its own, so that a prediction computes no votes for nobody to look at.
        self._classify = jax.jit(
            lambda variables, images: apply(variables, images)._replace(intermediates={})
        )
        self._decode = jax.jit(
            lambda variables, *inputs: apply(variables, *inputs, method="decode")
        )

    def forward(self, images: np.ndarray):
        """The whole output of the network, intermediates included.

        Args:
          images: (n, h, w, c), uint8 in 0..255 or floating point in [0, 1].

        Raises:
          ValueError: for images of another shape or type.
        """
        return self._apply(self.variables, self._checked(images))

    def _checked(self, images: np.ndarray) -> np.ndarray:
        """The images as float32 in [0, 1]."""
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
        return images.astype(np.float32)

    def predict(self, images: np.ndarray, batch_size: int = 0) -> Prediction:
        """Classify and reconstruct any number of images.

        Args:
          images: as in `forward`.
          batch_size: images at once; bounds the memory. 0 for as many as suit the device.
        """
        batch_size = batch_size or images_at_once()
        parts = []
        firsts = range(0, len(images), batch_size)
        for first in tqdm(firsts, "predicting", unit="batch", disable=None, leave=False, delay=1):
            batch = np.asarray(images[first : first + batch_size])
            # A last batch that is smaller is filled up: another shape would compile again.
            missing = min(batch_size, len(images)) - len(batch)
            filled = np.pad(batch, [(0, missing)] + [(0, 0)] * (batch.ndim - 1))
            output = self._classify(self.variables, self._checked(filled))
            kept = len(batch)
            parts.append(jax.tree.map(lambda x, kept=kept: np.asarray(x)[:kept], output))
        if not parts:
            raise ValueError("no images to predict")
        output = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
        return Prediction(
            output.scores.argmax(axis=-1),
            output.scores,
            getattr(output, "poses", None),
            output.reconstruction,
        )

    def decode(self, poses: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Images from class poses (n, k, d), of the classes that are given (n,).

        Raises:
          ValueError: if the network has no decoder.
        """
        if not hasattr(self.model, "decode"):
            raise ValueError(f"{self.config.name} is a network without capsules and a decoder")
        mask = jax.nn.one_hot(jnp.asarray(labels), self.model.num_classes)
        return np.asarray(self._decode(self.variables, jnp.asarray(poses), mask))


def load_predictor(workdir: str | Path, checkpoint: str = "selected") -> Predictor:
    """The network of a run.

    Args:
      workdir: folder of the run.
      checkpoint: "best" (by validation loss), "last", a step, or "selected": the one of the two
        that the config selects, and summary.json reports.

    Raises:
      ValueError: if there is no run or no such checkpoint; the message says what to do.
    """
    workdir = Path(workdir).expanduser()
    config = read_config(workdir)
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    which = config.selection if checkpoint == "selected" else checkpoint
    notes = checkpoints.notes(which)
    # The number of examples matters to the learning rate alone.
    built = build(
        config, tuple(notes["image_shape"]), notes["num_classes"], config.train.batch_size
    )
    like = jax.eval_shape(lambda: built.init_state(config.seed))
    restored = checkpoints.restore(like, which)
    return Predictor(config, restored.step, built.model, restored.state.variables, built.objective)
