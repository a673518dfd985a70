"""Affine images: rotated, sheared, scaled and shifted versions of the images of a data set.

Ranges as in affNIST, but synthetic, in the frame of the original images, and by another recipe:
errors on them do not compare with those published for affNIST.
"""

from typing import NamedTuple

import numpy as np

# Part of the images that are warped at once, which bounds the memory.
AT_ONCE = 500


class Ranges(NamedTuple):
    """The ranges of random transformations, all uniform.

    Attributes:
      degrees: largest rotation, in both directions.
      least_scale, most_scale: of rows and columns, independent of each other.
      shear: largest shear, in both directions.
    """

    degrees: float = 20.0
    least_scale: float = 0.8
    most_scale: float = 1.2
    shear: float = 0.2


# The ranges of affNIST.
AFFNIST = Ranges()


def warp_randomly(images: np.ndarray, seed: int, ranges: Ranges = AFFNIST) -> np.ndarray:
    """Warp each image by its own random affine map.

        x' = R H D x + t: scaled, then sheared, then rotated about the middle, then shifted

    The shift is uniform among those that keep all ink, which is what is not 0, in the frame; a
    digit that is too large for that is put into the middle. The map of an image depends on the seed
    and its position in the data alone, not on the number of images.

    Args:
      images: uint8, (n, h, w, c).
      seed: seed of the maps.
      ranges: their ranges.

    Returns:
      Images of the same shape and type, interpolated between pixels.
    """
    # RandomState, because numpy has frozen its streams.
    draws = np.random.RandomState(seed).uniform(size=(len(images), 6))
    matrices = _matrices(draws[:, :4], ranges)
    parts = [slice(k, k + AT_ONCE) for k in range(0, len(images), AT_ONCE)]
    return np.concatenate(
        [_warp_within(images[part], matrices[part], draws[part, 4:]) for part in parts]
    )


def warp(images: np.ndarray, matrices: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Warp images by x' = A x + t, by bilinear interpolation, with 0 outside.

    Args:
      images: uint8, (n, h, w, c).
      matrices: A, (n, 2, 2), of (row, column) about the middle of an image.
      shifts: t, (n, 2), in pixels; positive is down and to the right.

    >>> image = np.array([[0, 0], [9, 0]], np.uint8)[None, :, :, None]
    >>> warp(image, np.eye(2)[None], np.array([[-1, 1]]))[0, :, :, 0].tolist()
    [[0, 9], [0, 0]]
    """
    n, h, w, _ = images.shape
    places = _places(h, w)
    sources = np.einsum("nxy,npy->npx", np.linalg.inv(matrices), places - shifts[:, None])
    sources += (np.array([h, w]) - 1) / 2
    # One pixel of nothing on all sides, which all that lies outside reads.
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0))).astype(np.float64)
    # Rounded, so that a place which is a pixel but for rounding is that pixel.
    rows, columns = np.moveaxis(np.round(sources, 9), -1, 0) + 1
    result = 0.0
    for row in (np.floor(rows), np.floor(rows) + 1):
        for column in (np.floor(columns), np.floor(columns) + 1):
            weights = (1 - np.abs(rows - row)) * (1 - np.abs(columns - column))
            y = np.clip(row, 0, h + 1).astype(int)
            x = np.clip(column, 0, w + 1).astype(int)
            result = result + weights[..., None] * padded[np.arange(n)[:, None], y, x]
    return np.round(result).astype(np.uint8).reshape(images.shape)


def _matrices(draws: np.ndarray, ranges: Ranges) -> np.ndarray:
    """Make R H D of (row, column), (n, 2, 2), from draws in [0, 1], (n, 4)."""
    angles = np.deg2rad(ranges.degrees) * (2 * draws[:, 0] - 1)
    shears = ranges.shear * (2 * draws[:, 1] - 1)
    scales = ranges.least_scale + (ranges.most_scale - ranges.least_scale) * draws[:, 2:4]
    cos, sin = np.cos(angles), np.sin(angles)
    rotations = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    sheared = np.tile(np.eye(2), (len(draws), 1, 1))
    sheared[:, 1, 0] = shears
    return rotations @ sheared * scales[:, None, :]


def _warp_within(images: np.ndarray, matrices: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Warp images by shifts that keep their ink in the frame, from draws in [0, 1], (n, 2)."""
    n, h, w, _ = images.shape
    ink = images.any(axis=-1).reshape(n, -1, 1)
    ink |= ~ink.any(axis=1, keepdims=True)  # an image without ink has no bounds of its own
    places = np.einsum("nxy,py->npx", matrices, _places(h, w))
    edge = (np.array([h, w]) - 1) / 2
    lowest = -edge - np.min(places, axis=1, where=ink, initial=np.inf)
    highest = edge - np.max(places, axis=1, where=ink, initial=-np.inf)
    # A range of negative length is that of a digit which is too large.
    share = np.where(lowest <= highest, draws, 0.5)
    return warp(images, matrices, lowest + (highest - lowest) * share)


def _places(h: int, w: int) -> np.ndarray:
    """Return (row, column) of all pixels about the middle, (h w, 2)."""
    rows, columns = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
    return np.stack([rows.ravel() - (h - 1) / 2, columns.ravel() - (w - 1) / 2], axis=-1)
