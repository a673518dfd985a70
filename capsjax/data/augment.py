"""Augmentation, inside the compiled training step."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key, Num, UInt8


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


def to_float(images: UInt8[Array, "*n h w c"]) -> Float[Array, "*n h w c"]:
    """Convert uint8 in 0..255 to float32 in 0..1."""
    return images.astype(jnp.float32) / 255.0
