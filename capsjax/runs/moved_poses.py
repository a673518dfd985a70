"""The pose study: the dimensions of class capsules moved, and decoded."""

import numpy as np

from capsjax.runs.predictor import Predictor


def move_poses(
    predictor: Predictor, images: np.ndarray, labels: np.ndarray, offsets: np.ndarray
) -> np.ndarray:
    """Add each offset to each dimension of the labels' poses, and decode.

    Args:
      predictor: a network with a decoder.
      images: (n, h, w, c).
      labels: the capsule of each image that is moved and decoded, (n,).
      offsets: what is added, (steps,).

    Returns:
      (n, dimensions, steps, h, w, c) in [0, 1].

    Source: Sabour et al. 2017, section 5.1 and figure 4.
    """
    poses = np.asarray(predictor.forward(images).poses)
    n, classes, d = poses.shape
    moves = offsets[None, :, None] * np.eye(d)[:, None, :]  # (d, steps, d)
    moved = poses[:, None, None] + moves[None, :, :, None, :]  # (n, d, steps, classes, d)
    labels = np.repeat(labels, d * len(offsets))
    decoded = predictor.decode(moved.reshape(-1, classes, d).astype(np.float32), labels)
    return decoded.reshape(n, d, len(offsets), *decoded.shape[1:])
