"""From a picture to an image that a network takes: size, grey or colour, place and angle."""

import dataclasses

import numpy as np
from PIL import Image, ImageOps

from capsjax.data.affine import warp
from capsjax.data.pictures import MODES
from capsjax.explore.encoding import to_picture

# The longer side of a digit of MNIST, as a share of the image: 20 of 28 pixels.
BOX = 20 / 28
# Ink is what differs from the paper by more than this share of the darkest ink.
LEAST_INK = 0.15


@dataclasses.dataclass(frozen=True)
class Move:
    """How an input is moved.

    Attributes:
      degrees: rotation, clockwise.
      right, down: shift as a share of the width and of the height.
    """

    degrees: float = 0.0
    right: float = 0.0
    down: float = 0.0


STILL = Move()


def prepare(
    picture: Image.Image,
    image_shape: tuple[int, int, int],
    *,
    box: float | None = None,
    invert: bool = False,
) -> np.ndarray:
    """Make an image for a network, uint8 (h, w, c).

    A picture of the network's own size is not changed; another one is resized by means. Each of 2,
    or of 5 and more channels has the grey of the picture.

    Args:
      picture: in grey or colour.
      image_shape: (h, w, c) that the network takes.
      box: put the ink of the picture, which is light on dark, into the middle, its longer side as
        this share of the image (`centred`), where the network takes grey images; None to leave it.
      invert: turn dark into light first.
    """
    height, width, channels = image_shape
    mode = MODES.get(channels, "L")
    picture = picture.convert("L" if mode == "L" else "RGB")
    if invert:
        picture = ImageOps.invert(picture)
    if box is not None and channels == 1:
        return centred(np.asarray(picture), (height, width), box)[..., None]
    resized = np.asarray(picture.resize((width, height), Image.Resampling.BOX).convert(mode))
    return np.broadcast_to(np.atleast_3d(resized), image_shape)


def fit_sample(image: np.ndarray, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Make a sample an image for a network, uint8 (h, w, c).

    One of the network's own shape is not changed. One of as many channels is resized, each channel
    by means; any other one is taken as a picture.

    Args:
      image: the sample, uint8, (h, w, c).
      image_shape: (h, w, c) that the network takes.
    """
    if image.shape == image_shape:
        return image
    height, width, channels = image_shape
    if image.shape[-1] != channels:
        return prepare(to_picture(image), image_shape)
    # Channel by channel, because Pillow would weigh the first three by the fourth.
    each = [Image.fromarray(image[..., channel]) for channel in range(channels)]
    return np.stack([x.resize((width, height), Image.Resampling.BOX) for x in each], axis=-1)


def centred(picture: np.ndarray, size: tuple[int, int], box: float = BOX) -> np.ndarray:
    """Put the ink of a picture into the middle of an image, as the digits of MNIST are.

    Its longer side becomes `box` of the image's, 20 of 28 pixels for MNIST, and its centre of mass
    comes into the middle. The paper, which is what the border shows, becomes 0, and the
    strongest ink 255.

    Args:
      picture: light ink on dark paper, (h, w), uint8.
      size: rows and columns of the image.
      box: the longer side of the ink, as a share of the image.

    Returns:
      The image, uint8; all 0 where there is no ink.

    Source: the description of MNIST by LeCun, Cortes and Burges.
    """
    ink = _ink(picture)
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    image = np.zeros(size, np.uint8)
    if not len(rows):
        return image
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = box * min(np.array(size) / ink.shape)
    small = _resized(ink, [max(1, round(scale * side)) for side in ink.shape])
    top, left = _places(small, size)
    image[top : top + small.shape[0], left : left + small.shape[1]] = small
    return image


def _ink(picture: np.ndarray) -> np.ndarray:
    """Return how much lighter than its paper each pixel is, from 0 to 1; 0 for noise."""
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    above = picture.astype(np.float64) - np.median(border)
    most = above.max()
    if most < LEAST_INK * 255:
        return np.zeros(picture.shape, np.float32)
    share = np.clip(above / most, 0.0, 1.0)
    return np.where(share > LEAST_INK, share, 0.0).astype(np.float32)


def _resized(ink: np.ndarray, size: list[int]) -> np.ndarray:
    """Resize ink, and scale it to 255 only then: the mean of a thin line and its paper is faint."""
    larger = size[0] > ink.shape[0]
    method = Image.Resampling.BICUBIC if larger else Image.Resampling.BOX
    # Bicubic interpolation leaves [0, 1] at edges.
    resized = np.clip(np.asarray(Image.fromarray(ink).resize(size[::-1], method)), 0.0, 1.0)
    return np.round(255 * resized / resized.max()).astype(np.uint8)


def _places(ink: np.ndarray, size: tuple[int, int]) -> list[int]:
    """Return the row and column at which the ink's centre of mass is in the middle of an image.

    The ink stays within the image.
    """
    places = []
    for axis in (0, 1):
        mass = ink.sum(axis=1 - axis, dtype=np.float64)
        centre = mass @ np.arange(len(mass)) / mass.sum()
        wanted = round((size[axis] - 1) / 2 - centre)
        places.append(min(max(wanted, 0), size[axis] - len(mass)))
    return places


def moved(image: np.ndarray, move: Move) -> np.ndarray:
    """Rotate an image about its middle, then shift it; outside of it is 0.

    Args:
      image: uint8, (h, w, c).
      move: how.
    """
    if move == STILL:
        return image
    angle = np.deg2rad(move.degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    # It turns (row, column), where rows point down.
    clockwise = np.array([[cos, sin], [-sin, cos]])
    shift = np.array([move.down * image.shape[0], move.right * image.shape[1]])
    return warp(image[None], clockwise[None], shift[None])[0]


def is_dark_on_light(picture: Image.Image) -> bool:
    """Whether a picture looks like dark ink on light paper: its border is light."""
    grey = np.asarray(picture.convert("L"))
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    return bool(np.median(border) > 127)
