"""Augmentation, inside the compiled training step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Int, Key, Num, UInt8

from capsjax.data.arrays import DataError

# Brightness of red, green and blue in grey (ITU-R BT.601).
GREY = (0.299, 0.587, 0.114)
# Red, green and blue as grey and two colours, the axes of whose plane turn with the hue (YIQ).
YIQ = np.array([GREY, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)], np.float32)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random changes of images, each image its own; those that are 0 are left out.

    Colours are changed first, so that what is filled in at the borders stays 0; noise is added
    last, to them too. Numbers may be traced values, but for `max_shift`, `saturation`, `hue` and
    `elastic_sigma`.

    Attributes:
      max_shift: largest shift of rows and columns, in whole pixels.
      flip_horizontal, flip_vertical: probabilities of mirroring, left to right and top to bottom.
      rotation: largest angle about the middle, in degrees, in both directions.
      scale: the size changes by a factor between 1 - scale and 1 + scale.
      brightness: largest number that is added to all pixels, in [0, 1], or taken from them.
      contrast: deviations from an image's mean change by a factor between 1 - and 1 + contrast.
      saturation: likewise deviations of a pixel's colours from its grey.
      hue: largest turn of the colours, in degrees, in both directions.
      noise: standard deviation of the normal numbers that are added to all pixels, in [0, 1].
      elastic: standard deviation of the displacement of each pixel, in pixels, see
        `draw_displacements`.
      elastic_sigma: how far neighbours are displaced alike, in pixels.
    """

    max_shift: int = 0
    flip_horizontal: float | Array = 0.0
    flip_vertical: float | Array = 0.0
    rotation: float | Array = 0.0
    scale: float | Array = 0.0
    brightness: float | Array = 0.0
    contrast: float | Array = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    noise: float | Array = 0.0
    elastic: float | Array = 0.0
    elastic_sigma: float = 4.0

    def check_channels(self, channels: int) -> None:
        """Raise DataError for changes of colours that images of so many channels do not have."""
        for name in ("saturation", "hue"):
            if _is_on(getattr(self, name)) and channels != 3:
                raise DataError(
                    f"augment.{name} is for images of 3 channels, and these have {channels}: "
                    f"augment.{name}=0"
                )

    def __call__(
        self,
        key: Key[Array, ""],
        images: UInt8[Array, "n h w c"],
        labels: Int[Array, "n *label"],
    ) -> tuple[Float[Array, "n h w c"], Int[Array, "n *label"]]:
        """Change images at random, and maps of labels as their images move.

        Args:
          key: random key.
          images: uint8 in 0..255.
          labels: any; those of shape (n, h, w) are maps.

        Returns:
          Images in [0, 1], and labels.
        """
        # Not a key that the shift divides its own into, which are those of 0 and 1.
        others = jax.random.split(jax.random.fold_in(key, 2), len(_OPERATIONS))
        keys = dict(zip(_OPERATIONS, others, strict=True))
        changed: Num[Array, "n h w c"] = images
        if any(_is_on(getattr(self, name)) for name in _COLOURS):
            changed = self._change_colours(keys, to_float(images))
        is_map = labels.ndim == 3
        pairs: list[Any] = [changed, labels[..., None]] if is_map else [changed]
        for name, axis in (("flip_horizontal", 2), ("flip_vertical", 1)):
            probability = getattr(self, name)
            if _is_on(probability):
                pairs = [flip_images(keys[name], x, probability, axis) for x in pairs]
        if any(_is_on(number) for number in (self.rotation, self.scale, self.elastic)):
            n, h, w, _ = images.shape
            angles = jnp.deg2rad(self.rotation) * _symmetric(keys["rotation"], n)
            scales = 1.0 + self.scale * _symmetric(keys["scale"], n)
            pairs[0] = pairs[0] if _is_float(pairs[0]) else to_float(pairs[0])
            field = None
            if _is_on(self.elastic):
                # Keys beside those of the others, which would move if they were one more.
                field = draw_displacements(
                    jax.random.fold_in(key, 3), (n, h, w), self.elastic, self.elastic_sigma
                )
            # All at once, because each interpolation blurs an image.
            pairs = [warp_images(x, angles, scales, field) for x in pairs]
        # The key of runs from before there was anything but shifts.
        pairs = [shift_images(key, x, self.max_shift) for x in pairs]
        changed = pairs[0] if _is_float(pairs[0]) else to_float(pairs[0])
        if _is_on(self.noise):
            noise = jax.random.normal(jax.random.fold_in(key, 4), changed.shape)
            changed = jnp.clip(changed + self.noise * noise, 0.0, 1.0)
        return changed, pairs[1][..., 0] if is_map else labels

    def _change_colours(
        self, keys: dict[str, Key[Array, ""]], x: Float[Array, "n h w c"]
    ) -> Float[Array, "n h w c"]:
        def draw(name: str) -> Float[Array, "n 1 1 1"]:
            return getattr(self, name) * _symmetric(keys[name], len(x))[:, None, None, None]

        if _is_on(self.brightness):
            x = x + draw("brightness")
        if _is_on(self.contrast):
            x = _move_from(jnp.mean(x, axis=(1, 2, 3), keepdims=True), x, 1.0 + draw("contrast"))
        if _is_on(self.saturation):
            grey = jnp.sum(x * jnp.array(GREY, x.dtype)[None, None, None], axis=-1, keepdims=True)
            x = _move_from(grey, x, 1.0 + draw("saturation"))
        if _is_on(self.hue):
            x = turn_hues(x, jnp.deg2rad(draw("hue")[:, 0, 0, 0]))
        return jnp.clip(x, 0.0, 1.0)


# Each has a key of its own, so that no change moves the others.
_COLOURS = ("brightness", "contrast", "saturation", "hue")
_OPERATIONS = ("flip_horizontal", "flip_vertical", "rotation", "scale", *_COLOURS)


def shift_images(
    key: Key[Array, ""], images: Num[Array, "n h w c"], max_shift: int
) -> Num[Array, "n h w c"]:
    """Shift each image by its own whole number of pixels, filling with zeros.

    Rows and columns move independently, each by one of -max_shift, ..., max_shift with equal
    probability. (Padding by max_shift and cropping at random is equivalent.)

    Args:
      key: random key.
      images: (n, h, w, c).
      max_shift: largest shift in pixels; 0 leaves the images as they are.

    Returns:
      Images of the same shape and type.

    Source: Sabour et al. 2017, section 4.

    >>> shift_images(jax.random.key(0), jnp.ones((2, 4, 4, 1)), 0).shape
    (2, 4, 4, 1)
    """
    if max_shift == 0:
        return images
    n, h, w, c = images.shape
    border = (max_shift, max_shift)
    padded = jnp.pad(images, ((0, 0), border, border, (0, 0)))
    corners = jax.random.randint(key, (n, 2), 0, 2 * max_shift + 1)

    def crop(image, corner):
        return lax.dynamic_slice(image, (*corner, 0), (h, w, c))

    return jax.vmap(crop)(padded, corners)


def flip_images(
    key: Key[Array, ""], images: Num[Array, "n h w c"], probability: float | Array, axis: int
) -> Num[Array, "n h w c"]:
    """Mirror each image with a probability.

    Args:
      key: random key.
      images: (n, h, w, c).
      probability: from 0 to 1.
      axis: 1 to exchange top and bottom, 2 to exchange left and right.

    Returns:
      Images of the same shape and type.

    >>> images = jnp.array([1, 2]).reshape(1, 1, 2, 1)
    >>> flip_images(jax.random.key(0), images, 1.0, axis=2).ravel().tolist()
    [2, 1]
    """
    flipped = jax.random.bernoulli(key, probability, (len(images), 1, 1, 1))
    return jnp.where(flipped, jnp.flip(images, axis), images)


def warp_images(
    images: Num[Array, "n h w c"],
    angles: Float[Array, "n"],
    scales: Float[Array, "n"],
    field: Float[Array, "n 2 h w"] | None = None,
) -> Num[Array, "n h w c"]:
    """Rotate and scale each image about its middle, and deform it, with 0 outside.

        x' = s R x, R = ((cos, -sin), (sin, cos)), of (row, column) about the middle

    Floating-point images are interpolated between pixels; whole numbers, such as maps of labels,
    are those of the nearest pixel.

    Args:
      images: (n, h, w, c).
      angles: in radians.
      scales: factors above 0.
      field: added to the row and column that each pixel comes from, in pixels.

    Returns:
      Images of the same shape and type.

    >>> image = jnp.array([[0.0, 0.0], [9.0, 0.0]])[None, :, :, None]
    >>> turned = warp_images(image, jnp.array([jnp.pi / 2]), jnp.ones(1))
    >>> jnp.round(turned[0, :, :, 0], 3).tolist()
    [[0.0, 0.0], [0.0, 9.0]]
    """
    _, h, w, _ = images.shape
    middle = jnp.array([h - 1, w - 1]).reshape(2, 1, 1) / 2
    rows, columns = jnp.stack(jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing="ij")) - middle
    order = 1 if _is_float(images) else 0

    def warp(image: Num[Array, "h w c"], angle: Float[Array, ""], scale: Float[Array, ""], *field):
        cos, sin = jnp.cos(angle) / scale, jnp.sin(angle) / scale
        # The place that a pixel comes from, by the inverse of the map.
        places = jnp.stack([cos * rows + sin * columns, cos * columns - sin * rows]) + middle
        places = sum(field, places)
        # Rounded, so that a place which is a pixel but for rounding is that pixel.
        places = list(jnp.round(places * 4096) / 4096)
        return jax.vmap(lambda x: map_coordinates(x, places, order), -1, -1)(image)

    fields = () if field is None else (field,)
    return jax.vmap(warp)(images, angles, scales, *fields)


def draw_displacements(
    key: Key[Array, ""],
    shape: tuple[int, int, int],
    amplitude: float | Array,
    sigma: float,
) -> Float[Array, "n 2 h w"]:
    """Draw smooth random displacements of the rows and columns of images.

        amplitude K_h N K_wᵀ,  (K_h)_yz ∝ exp(-(y - z)² / 2 sigma²), each row of norm 1

    N are standard normal numbers, and so each displacement is a normal number with the standard
    deviation `amplitude`, at the borders too. Those of pixels at a distance d, away from the
    borders, have the correlation exp(-d² / 4 sigma²).

    In the paper N are uniform in [-1, 1] and K has the sum 1: its factor alpha makes, away from the
    borders, displacements of about alpha / (2 √(3π) sigma) pixels.

    Args:
      key: random key.
      shape: (n, h, w).
      amplitude: standard deviation, in pixels.
      sigma: width of the Gaussian that smooths, in pixels, above 0.

    Returns:
      For each image those of rows and those of columns.

    Source: Simard et al. 2003, section 2.

    >>> draw_displacements(jax.random.key(0), (3, 8, 9), 1.0, 2.0).shape
    (3, 2, 8, 9)
    """
    n, h, w = shape

    def smoother(size: int) -> Float[Array, "m m"]:
        places = jnp.arange(size)
        kernel = jnp.exp(-(((places[:, None] - places[None]) / sigma) ** 2) / 2)
        return kernel / jnp.linalg.norm(kernel, axis=1, keepdims=True)

    numbers = jax.random.normal(key, (n, 2, h, w))
    smooth = jnp.einsum("yz,nazx,wx->nayw", smoother(h), numbers, smoother(w), precision="highest")
    return amplitude * smooth


def turn_hues(
    images: Float[Array, "n h w 3"], angles: Float[Array, "n"]
) -> Float[Array, "n h w 3"]:
    """Turn the colours of each image about grey, which stays.

    Args:
      images: red, green and blue.
      angles: in radians.

    Returns:
      Images of the same shape, whose numbers may lie outside of [0, 1].

    >>> grey = jnp.full((1, 1, 1, 3), 0.5)
    >>> jnp.round(turn_hues(grey, jnp.ones(1)), 3).ravel().tolist()
    [0.5, 0.5, 0.5]
    """
    cos, sin, zero = jnp.cos(angles), jnp.sin(angles), jnp.zeros_like(angles)
    rows = [(zero + 1, zero, zero), (zero, cos, -sin), (zero, sin, cos)]
    turns = jnp.stack([jnp.stack(row, -1) for row in rows], -2)
    matrices = jnp.einsum("ab,nbc,cd->nad", np.linalg.inv(YIQ), turns, YIQ, precision="highest")
    return jnp.einsum("nab,nhwb->nhwa", matrices, images, precision="highest")


def to_float(images: UInt8[Array, "*n h w c"]) -> Float[Array, "*n h w c"]:
    """Convert uint8 in 0..255 to float32 in 0..1."""
    return images.astype(jnp.float32) / 255.0


def _is_on(number: Any) -> bool:
    """Return whether a change is made: one of 0 is not, and a traced one is always."""
    return isinstance(number, jax.core.Tracer) or number != 0


def _is_float(x: Array) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


def _symmetric(key: Key[Array, ""], n: int) -> Float[Array, "n"]:
    """Draw numbers between -1 and 1."""
    return jax.random.uniform(key, (n,), minval=-1.0, maxval=1.0)


def _move_from(
    origin: Float[Array, "n y x z"], x: Float[Array, "n h w c"], factor: Float[Array, "n 1 1 1"]
) -> Float[Array, "n h w c"]:
    return origin + factor * (x - origin)
