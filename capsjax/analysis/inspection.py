"""A look at a trained network on a part of the data: scores, and the entropy of its couplings."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from capsjax.analysis.calibration import SCORES, find_confidences
from capsjax.analysis.couplings import relative_entropy
from capsjax.data.augment import to_float
from capsjax.kernels.chunks import join, split
from capsjax.kernels.compute import Compute
from capsjax.layers.readout import name_of_readout
from capsjax.models import look_inside
from capsjax.registry import look_up
from capsjax.training.evaluation import images_at_once


class Inspection(NamedTuple):
    """What a network makes of images.

    Attributes:
      scores: class scores, (n, k).
      entropies: `relative_entropy` of the couplings, (n,), by the name of the layer; of layers with
        two types or more.
    """

    scores: Float[Array, "n k"]
    entropies: dict[str, Float[Array, "n"]]


def make_inspect(
    model: Any, compute: Compute, batch_size: int = 0
) -> Callable[[dict, Array], Inspection]:
    """Make a function that inspects a network, a compiled program for all its parameters.

    Args:
      model: a network.
      compute: how it is computed.
      batch_size: images at once; 0 for what suits the device.

    Returns:
      A function (variables, images) -> Inspection; images are uint8, (n, h, w, c).
    """

    def inspect(variables: dict, images: Array) -> Inspection:
        def one_batch(batch: Array) -> Inspection:
            output, layers = look_inside(model, variables, to_float(batch))
            couplings = {
                name: values["couplings"]
                for name, values in layers.items()
                # One type leaves nothing to divide.
                if "couplings" in values and values["couplings"].shape[-1] > 1
            }
            return Inspection(output.scores, jax.tree.map(relative_entropy, couplings))

        size = min(batch_size or images_at_once(), len(images))
        parts = lax.map(one_batch, split(images, size))
        return jax.tree.map(lambda x: join(x, len(images)), parts)

    return jax.jit(compute.in_precision(inspect))


def kind_of_scores(model: Any) -> str:
    """Return what the scores of a network are: "probability" or "logit", see `calibration`.

    Raises:
      ValueError: for a readout of which that is not known.
    """
    return look_up(SCORES, _readout_of(model), "readout (capsjax.analysis.calibration.SCORES)")


def name_scores(model: Any, scores: np.ndarray, poses: np.ndarray | None) -> str:
    """Return what the scores of a network are called; "scores" where that is not known.

    The activations of many algorithms are the lengths of the poses, and are called so.

    Args:
      model: the network.
      scores: (n, k).
      poses: of the class capsules, (n, k, d); None if it has none.
    """
    kind = SCORES.get(_readout_of(model))
    if kind != "probability":
        return "scores" if kind is None else "logits"
    lengths = None if poses is None else np.linalg.norm(poses, axis=-1)
    are_lengths = lengths is not None and np.allclose(scores, lengths, atol=1e-3)
    return "lengths" if are_lengths else "activations"


def most_confident_first(model: Any, scores: np.ndarray) -> np.ndarray:
    """Return the order of examples by the confidence in their predicted class, indices (n,).

    The highest score counts where the kind of the scores is not known.

    Args:
      model: the network.
      scores: (n, k).
    """
    kind = SCORES.get(_readout_of(model))
    confidences = scores.max(axis=1) if kind is None else find_confidences(scores, kind)
    return np.argsort(-confidences, kind="stable")


def _readout_of(model: Any) -> str:
    if not hasattr(model, "readout"):  # a network without capsules
        return "linear"
    return name_of_readout(model.readout, model.routing)
