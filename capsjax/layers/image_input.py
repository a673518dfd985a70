"""What a network does to its images before its first layer: crops, jitter, standardisation."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Key

from capsjax.registry import look_up

# What an image is standardised over, by name: axes of images (n, h, w, c).
STANDARDIZE: dict[str, tuple[int, ...] | None] = {
    "none": None,
    "image": (1, 2, 3),
    "channel": (1, 2),
}
# Rows and columns from the central crop to each of 13, the central one first.
MOVES = ((0, 0), *((y * m, x * m) for m in (1, 2, 3) for y in (-1, 1) for x in (-1, 1)))
# What the keys of images are folded with, which no dropout does.
STREAM = 2**16


class ImageInput(nn.Module):
    """The first stage of a network, without parameters, (n, h, w, c) -> (n, crop, crop, c).

    A square is cropped: in training one at random, in testing the central one, or 13, of which 12
    are 1, 2 and 3 pixels away from it along both diagonals: (13 n, crop, crop, c), the central ones
    of all images first. In training, each image is then made brighter and of another contrast, by
    its own numbers:

        x ← x + b,  b ~ U(-brightness, brightness)
        x ← m + f (x - m),  f ~ U(1 - contrast, 1 + contrast),  m the mean of all pixels

    Standardising undoes both, so that they change an image where it is standardised first. Random
    numbers depend on an image's key alone: not on the rest of the batch, nor on the device.

    Attributes:
      crop: rows and columns of the square, in pixels; 0 for whole images.
      crops: number of squares in testing, 1 or 13.
      standardize: "image" shifts and scales each image to mean 0 and variance 1 over all channels,
        "channel" each channel of an image, "none" neither.
      standardize_first: whether whole images are standardised, before all else; otherwise what has
        become of them is, after all else.
      brightness: largest number that is added to all pixels or taken from them, in standard
        deviations of an image that was standardised first.
      contrast: largest change of the contrast, from 0 to below 1.

    Raises:
      ValueError: at a call, for an image smaller than the crop or too small for 13 of them, another
        number of crops, or an unknown way to standardise (the nearest one is named).

    Source: Hinton et al. 2018, section 5, which standardises first; De Sousa Ribeiro et al. 2020
    standardise crops. The places of the 13 crops are those of the released code of the former.
    """

    crop: int = 0
    crops: int = 1
    standardize: str = "none"
    standardize_first: bool = False
    brightness: float = 0.0
    contrast: float = 0.0

    @nn.compact
    def __call__(
        self, images: Float[Array, "n h w c"], keys: Key[Array, "n"] | None
    ) -> Float[Array, "k y x c"]:
        """Make what the first layer sees.

        Args:
          images: in [0, 1].
          keys: one for each image in training; None for the crops of testing.
        """
        axes = look_up(
            STANDARDIZE, self.standardize, "way to standardise images (model.input.standardize)"
        )
        if axes is not None and self.standardize_first:
            images = standardize_images(images, axes)
        images = self._cropped(images, keys)
        if keys is not None:
            images = self._jittered(images, keys)
        if axes is not None and not self.standardize_first:
            images = standardize_images(images, axes)
        return images

    def _cropped(
        self, images: Float[Array, "n h w c"], keys: Key[Array, "n"] | None
    ) -> Float[Array, "k y x c"]:
        h, w, _ = cropped_shape(images.shape[1:], self.crop, self.crops)
        spare = np.array(images.shape[1:3]) - (h, w)
        if keys is None:
            corners = [spare // 2 + move for move in MOVES[: self.crops]]
            return jnp.concatenate(
                [images[:, top : top + h, left : left + w] for top, left in corners]
            )
        if not spare.any():
            return images

        def corner_of(key: Key[Array, ""]) -> Int[Array, "2"]:
            return jax.random.randint(_key_of(key, "crop"), (2,), 0, spare + 1)

        return crop_images(images, jax.vmap(corner_of)(keys), (h, w))

    def _jittered(
        self, images: Float[Array, "n h w c"], keys: Key[Array, "n"]
    ) -> Float[Array, "n h w c"]:
        def draw(purpose: str, largest: float) -> Float[Array, "n 1 1 1"]:
            def number_of(key: Key[Array, ""]) -> Float[Array, ""]:
                return jax.random.uniform(_key_of(key, purpose), minval=-largest, maxval=largest)

            return jax.vmap(number_of)(keys)[:, None, None, None]

        if self.brightness != 0:
            images = images + draw("brightness", self.brightness)
        if self.contrast != 0:
            mean = jnp.mean(images, axis=(1, 2, 3), keepdims=True)
            images = mean + (1.0 + draw("contrast", self.contrast)) * (images - mean)
        return images


def cropped_shape(image_shape: tuple[int, ...], crop: int, crops: int = 1) -> tuple[int, int, int]:
    """Return the shape (h, w, c) of what is left of an image (h, w, c).

    Args:
      image_shape: (h, w, c).
      crop: rows and columns that are left; 0 for all.
      crops: number of crops in testing.

    Raises:
      ValueError: if the image is smaller, or too small for 13 crops, or for another number of them.

    >>> cropped_shape((48, 40, 2), 32), cropped_shape((48, 40, 2), 0)
    ((32, 32, 2), (48, 40, 2))
    """
    h, w, c = image_shape
    if crop > min(h, w):
        raise ValueError(
            f"model.input.crop is at most {min(h, w)} for images of {h}x{w} pixels, not {crop}; 0 "
            "takes whole images"
        )
    if crops not in (1, len(MOVES)):
        raise ValueError(f"model.input.crops is 1, the central crop, or {len(MOVES)}, not {crops}")
    farthest = max(map(max, MOVES[:crops]))
    if crops > 1 and (not crop or (min(h, w) - crop) // 2 < farthest):
        raise ValueError(
            f"model.input.crops={crops} moves crops by up to {farthest} pixels, so that "
            f"model.input.crop is from 1 to {min(h, w) - 2 * farthest} for images of {h}x{w} "
            f"pixels, not {crop}"
        )
    return (crop, crop, c) if crop else (h, w, c)


def crop_images(
    images: Float[Array, "n h w c"], corners: Int[Array, "n 2"], size: tuple[int, int]
) -> Float[Array, "n y x c"]:
    """Cut a rectangle out of each image.

    Args:
      images: (n, h, w, c).
      corners: row and column of each rectangle's first pixel.
      size: rows and columns (y, x) of all of them.

    >>> images = jnp.arange(6.0).reshape(1, 2, 3, 1)
    >>> crop_images(images, jnp.array([[1, 1]]), (1, 2)).ravel().tolist()
    [4.0, 5.0]
    """

    def crop(image: Float[Array, "h w c"], corner: Int[Array, "2"]) -> Float[Array, "y x c"]:
        return lax.dynamic_slice(image, (*corner, 0), (*size, image.shape[-1]))

    return jax.vmap(crop)(images, corners)


def standardize_images(
    images: Float[Array, "n h w c"], axes: tuple[int, ...] = (1, 2, 3)
) -> Float[Array, "n h w c"]:
    """Shift and scale images to mean 0 and variance 1, each by itself.

    Constant images become 0, and have finite gradients. The variance is not taken for less than
    that of N numbers in 0..255, all equal but one that is larger by 1: images of 8 bits have none
    between it and 0.

    Args:
      images: (n, h, w, c), in [0, 1].
      axes: what means and variances are taken over.

    Source: Hinton et al. 2018, section 5.

    >>> standardize_images(jnp.array([0.25, 0.75]).reshape(1, 1, 2, 1)).ravel().tolist()
    [-1.0, 1.0]
    """
    # Differences from a pixel of each: those of a constant image are 0, whatever is rounded.
    first = tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(images.ndim))
    moved = images - images[first]
    centred = moved - jnp.mean(moved, axis=axes, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=axes, keepdims=True)
    count = int(np.prod([images.shape[axis] for axis in axes]))
    return centred * lax.rsqrt(jnp.maximum(variance, max(count - 1, 1) / (255 * count) ** 2))


def does_nothing(settings: Mapping[str, Any]) -> bool:
    """Return whether a stage of these settings leaves all images as they are.

    >>> does_nothing({"crop": 0, "standardize": "none"}), does_nothing({"crop": 8})
    (True, False)
    """
    defaults = {field.name: field.default for field in dataclasses.fields(ImageInput)}
    ordered = {**settings, "standardize_first": False}
    return all(name in defaults and defaults[name] == value for name, value in ordered.items())


def _key_of(key: Key[Array, ""], purpose: str) -> Key[Array, ""]:
    purposes = ("crop", "brightness", "contrast")
    return jax.random.fold_in(key, STREAM + purposes.index(purpose))
