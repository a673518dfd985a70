"""Images of shapes and their maps, generated on the device: data for maps without a download."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int

from capsjax.data.arrays import Arrays, DataError

# The number of the recipe below: another one makes other images of the same settings.
RECIPE = 1
KINDS = ("disk", "rectangle", "triangle")
# Examples that are generated at once, which bounds the memory.
AT_ONCE = 64
# Greys of backgrounds; those of shapes differ by at least CONTRAST.
DARKEST, BRIGHTEST, CONTRAST = 40, 216, 48
# Random numbers of a shape.
NUMBERS = 6


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Images of disks, rectangles and triangles on a noisy ground, and the class of each pixel.

    Kinds, places, sizes and greys of the shapes are random, darker or brighter than the ground;
    later ones cover earlier ones. All of it is whole numbers, so that every device makes the same
    pixels.

    Attributes:
      height, width: rows and columns of an image.
      count, test_count: numbers of training and of test images.
      seed: seed of all of them.
      classes: number of classes with the background: 2 for shapes of any kind, 3 for disks and
        others, 4 for the three kinds.
      most: largest number of shapes in an image; the smallest is 1.
      noise: largest change of a pixel's grey, of 255.
    """

    height: int = 64
    width: int = 64
    count: int = 1000
    test_count: int = 200
    seed: int = 0
    classes: int = 2
    most: int = 4
    noise: int = 30

    def load(self, part: str) -> Arrays:
        """Generate the part "train" or "test".

        Raises:
          DataError: for settings that make no images; the message names them.
        """
        self._check()
        count = {"train": self.count, "test": self.test_count}[part]
        parts = [
            self._generate(part, first, min(AT_ONCE, count - first))
            for first in range(0, count, AT_ONCE)
        ]
        images, maps = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        recipe = f"shapes {RECIPE}, {self}, {part}"
        return Arrays(images, maps, self.classes, recipe)

    def _generate(self, part: str, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        key = jax.random.fold_in(jax.random.key(self.seed), ("train", "test").index(part))
        # Each image from a number of its own: more images leave the first ones as they are.
        numbers = jnp.arange(first, first + AT_ONCE)
        images, maps = _draw_all(self, key, numbers)
        return np.asarray(images)[:count], np.asarray(maps)[:count]

    def _check(self) -> None:
        limits = {
            "height": (8, 2**14),
            "width": (8, 2**14),
            "count": (1, 2**31),
            "test_count": (1, 2**31),
            "seed": (0, 2**31),
            "classes": (2, len(KINDS) + 2),
            "most": (1, 2**10),
            "noise": (0, DARKEST + 1),
        }
        for name, (least, above) in limits.items():
            if not least <= getattr(self, name) < above:
                raise DataError(
                    f"data.shapes.{name} is from {least} to {above - 1}, not {getattr(self, name)}"
                )


@functools.partial(jax.jit, static_argnums=0)
def _draw_all(settings: Shapes, key: Array, numbers: Int[Array, "n"]) -> tuple[Array, Array]:
    return jax.vmap(lambda number: _draw(settings, jax.random.fold_in(key, number)))(numbers)


def _draw(settings: Shapes, key: Array) -> tuple[Array, Array]:
    """Draw an image (h, w, 1), uint8, and its map (h, w), int32."""
    h, w = settings.height, settings.width
    # All random bits at once: each call of a generator takes seconds to compile.
    bits = jax.random.bits(key, (2 + NUMBERS * settings.most + h * w,))
    ground = _among(bits[0], DARKEST, BRIGHTEST)
    number = _among(bits[1], 1, settings.most + 1)
    of_shapes = bits[2 : 2 + NUMBERS * settings.most].reshape(settings.most, NUMBERS)

    def paint(index: Array, canvas: tuple[Array, Array]) -> tuple[Array, Array]:
        grey, classes = canvas
        inside, kind, of_shape = _draw_shape(of_shapes[index], h, w, ground)
        inside &= index < number
        label = jnp.minimum(kind, settings.classes - 1)
        return jnp.where(inside, of_shape, grey), jnp.where(inside, label, classes)

    canvas = jnp.full((h, w), ground), jnp.zeros((h, w), jnp.int32)
    grey, classes = lax.fori_loop(0, settings.most, paint, canvas)
    noise = _among(bits[-h * w :].reshape(h, w), -settings.noise, settings.noise + 1)
    return (grey + noise).astype(jnp.uint8)[..., None], classes


def _draw_shape(bits: Array, h: int, w: int, ground: Array) -> tuple[Array, Array, Array]:
    """Return the pixels of a shape (h, w), its kind from 1 and its grey."""
    kind = _among(bits[0], 1, len(KINDS) + 1)
    y = jnp.arange(h)[:, None] - _among(bits[1], 0, h)
    x = jnp.arange(w)[None] - _among(bits[2], 0, w)
    least, most = max(2, min(h, w) // 12), max(3, min(h, w) // 4)
    half, half_width = _among(bits[3], least, most + 1), _among(bits[4], least, most + 1)
    disk = y * y + x * x <= half * half
    rectangle = (jnp.abs(y) <= half) & (jnp.abs(x) <= half_width)
    triangle = (jnp.abs(y) <= half) & (2 * jnp.abs(x) <= y + half)
    inside = jnp.stack([disk, rectangle, triangle])[kind - 1]
    # Any grey but those too near to the ground's: the range around it is jumped over.
    below = jnp.maximum(ground - CONTRAST + 1 - DARKEST, 0)
    above = jnp.maximum(BRIGHTEST - ground - CONTRAST, 0)
    place = _among(bits[5], 0, below + above)
    grey = jnp.where(place < below, DARKEST + place, ground + CONTRAST + place - below)
    return inside, kind, grey


def _among(bits: Array, least: int, above: int | Array) -> Array:
    """Turn random bits into whole numbers from least to above - 1."""
    span = jnp.asarray(above - least, jnp.uint32)
    return least + (bits % span).astype(jnp.int32)
