"""Pooling: every window of an image becomes one pixel, by agreement, average or maximum.

All poolings use the same definition of window, stride and padding (see `windows`), and `POOLINGS`
lists them by name. Padding never contributes to a result.
"""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from capsjax.ops import safe_norm
from capsjax.windows import Grid, Pair, cut_windows, make_grid, pixels_inside, windows_from_corner

Upsampling = Literal["window", "corner"]


def capsule_pool(
    x: Float[Array, "n h w c"],
    window: Pair = (3, 3),
    stride: Pair | None = None,
    padding: str = "SAME",
    num_steps: int = 2,
    temperature: float | Float[Array, ""] = 2.0,
    num_capsules: int = 1,
    eps: float = 1e-7,
    *,
    upsample: Upsampling = "window",
) -> Float[Array, "n y x c"]:
    """Average every window, weighting each pixel by its agreement with the previous average.

        b = 0;  m_w = mean_p x_p;  repeat num_steps - 1 times:
          b_wp ← b_wp + x_p · m_w / (1 + |m_w| + eps)
          e_wp = exp((b_wp - max_p b_wp) / temperature)
          m_w = mean_p (x_p e_wp / (mean_q e_wq + eps))

    p and q are the pixels of window w that lie inside the image, and m is the result. Agreement
    belongs to a pair of window and pixel, so windows may overlap or leave gaps. The gradient
    treats the maximum as a constant. In float32, values up to 1e18 have finite gradients.

    Differs in `upsample` from the source, whose windows equal their strides and whose channels
    are one capsule. The source repeats the values of each window from the top left corner of the
    image, even where padding has moved the windows away from there. So if an axis is padded by
    two or more, as 7 pixels are for windows of 3, it compares and normalizes some pixels with a
    window that does not contain them. With less padding, as in the network of the source, both
    settings are the same.

    Each step after the first passes over the windows twice, with one multiplication and one
    addition for each of their numbers. Windows equal to their strides contain each pixel once;
    others are copied out of the image, at window / stride times its size along both axes.

    Args:
      x: features, (n, h, w, c).
      window: rows and columns of a window.
      stride: rows and columns from one window to the next; None for the size of a window.
      padding: "SAME" or "VALID".
      num_steps: number of averages, at least 1; the first has equal weights, like `average_pool`.
      temperature: above 0; the higher, the more equal the weights.
      num_capsules: capsules that the channels form, c / num_capsules neighbouring channels each
        and with their own weights.
      eps: the small number in both divisions.
      upsample: "window" weights a pixel by the windows that contain it, "corner" as the source
        does; where they differ, the weights of "corner" have no upper limit and may overflow.

    Returns:
      (n, y, x, c): y rows and x columns of windows. Vectors are not squashed.

    Raises:
      ValueError: for images of whole numbers, an invalid window, stride, padding or setting, an
        image too small for a window, or channels that do not divide into `num_capsules`.

    Source: `CapsulePooling2D`, a notebook published without a paper.

    >>> x = jnp.array([0.0, 0.0, 3.0, 3.0, 3.0, 0.0]).reshape(1, 1, 6, 1)
    >>> average_pool(x, (1, 3)).ravel().tolist()
    [1.0, 2.0]
    >>> [round(value, 2) for value in capsule_pool(x, (1, 3)).ravel().tolist()]
    [1.54, 2.53]
    """
    grid = _lay_windows(x, window, stride, padding)
    _check_settings(x.shape[-1], num_steps, temperature, num_capsules, eps)
    spread = _make_spread(upsample, grid)
    # The pixels of every window, the channels as capsules: (n, y, x, i, p, d).
    pixels = cut_windows(x, grid)
    capsules = (num_capsules, x.shape[-1] // num_capsules)
    pixels = pixels.reshape(*pixels.shape[:-1], *capsules).swapaxes(3, 4)
    inside = pixels_inside(grid)[None, :, :, None]
    share = jnp.asarray(1.0 / inside.sum(axis=-1), x.dtype)

    b = jnp.zeros_like(pixels[..., 0])
    m = share[..., None] * pixels.sum(axis=4)
    for _ in range(num_steps - 1):
        b = b + _in_each("zpd,zpd->zp", pixels, spread(_shrink(m, eps)))
        e = _exponentials(b, inside, temperature, spread)
        weights = e / (spread(share * e.sum(axis=4)) + eps)
        m = share[..., None] * _in_each("zpd,zp->zd", pixels, weights)
    return m.reshape(*m.shape[:3], x.shape[-1])


def average_pool(
    x: Float[Array, "n h w c"],
    window: Pair = (3, 3),
    stride: Pair | None = None,
    padding: str = "SAME",
) -> Float[Array, "n y x c"]:
    """Average every window over its pixels inside the image.

        out_w = mean_p x_p

    Args:
      x: features, (n, h, w, c).
      window, stride, padding: as in `capsule_pool`.

    Returns:
      (n, y, x, c).

    Raises:
      ValueError: for images of whole numbers, an invalid window, stride or padding, or an image
        that is too small.

    >>> average_pool(jnp.arange(5.0).reshape(1, 1, 5, 1), (1, 2)).ravel().tolist()
    [0.5, 2.5, 4.0]
    """
    grid = _lay_windows(x, window, stride, padding)
    share = jnp.asarray(1.0 / pixels_inside(grid)[None].sum(axis=-1, keepdims=True), x.dtype)
    return share * cut_windows(x, grid).sum(axis=3)


def max_pool(
    x: Float[Array, "n h w c"],
    window: Pair = (3, 3),
    stride: Pair | None = None,
    padding: str = "SAME",
) -> Float[Array, "n y x c"]:
    """Take the maximum of every window; padding is -∞. Equal maxima share the gradient equally.

        out_w = max_p x_p

    Args:
      x: features, (n, h, w, c).
      window, stride, padding: as in `capsule_pool`.

    Returns:
      (n, y, x, c).

    Raises:
      ValueError: for images of whole numbers, an invalid window, stride or padding, or an image
        that is too small.

    >>> max_pool(-jnp.arange(5.0).reshape(1, 1, 5, 1), (1, 2)).ravel().tolist()
    [-0.0, -2.0, -4.0]
    """
    grid = _lay_windows(x, window, stride, padding)
    return cut_windows(x, grid, fill=-math.inf).max(axis=3)


POOLINGS = {"average": average_pool, "capsule": capsule_pool, "max": max_pool}


def _lay_windows(x: Array, window: Pair, stride: Pair | None, padding: str) -> Grid:
    # In whole numbers the share of a pixel is 0, and there is no -∞ to pad with.
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"pooling needs images of floating-point numbers, not {x.dtype}: use "
            "x.astype(jnp.float32)"
        )
    return make_grid(x.shape[1:3], window, stride, padding)


def _make_spread(upsample: str, grid: Grid) -> Callable[[Array], Array]:
    """Make a function from window values (n, y, x, i, ...) to pixel values (n, y, x, i, p, ...).

    p has size 1 where all pixels of a window get the same value.
    """
    if upsample == "window":
        return lambda values: jnp.expand_dims(values, 4)
    if upsample != "corner":
        raise ValueError(f"upsample is 'window' or 'corner', not {upsample!r}")
    if not grid.tiles:
        raise ValueError("upsample 'corner' needs a stride like the window; 'window' takes any")
    y, x = windows_from_corner(grid)
    return lambda values: values[:, y, x].swapaxes(3, 4)


def _in_each(equation: str, *operands: Array) -> Array:
    """Compute a product for each capsule of each window, with all of them on one axis z.

    With four axes instead of one, XLA's products take two to three times as long on a CPU.
    """
    flat = jnp.einsum(equation, *(array.reshape(-1, *array.shape[4:]) for array in operands))
    return flat.reshape(*operands[0].shape[:4], *flat.shape[1:])


def _shrink(m: Float[Array, "n y x i d"], eps: float) -> Float[Array, "n y x i d"]:
    """Compute m / (1 + |m| + eps), dividing numerator and denominator by a number near |m|.

    Otherwise the square of a length above 1e19 is infinite, as is a product in the gradient
    above 1e13.
    """
    scale = lax.stop_gradient(jnp.maximum(1.0, jnp.abs(m).max(axis=-1, keepdims=True)))
    scaled = m / scale
    return scaled / ((1.0 + eps) / scale + safe_norm(scaled, keepdims=True, eps=0.0))


def _exponentials(
    b: Float[Array, "n y x i p"],
    inside: Bool[np.ndarray, "1 y x 1 p"],
    temperature: float | Array,
    spread: Callable[[Array], Array],
) -> Float[Array, "n y x i p"]:
    """Compute exp of the scores minus their window's maximum, and 0 outside the image."""
    if inside.all():
        return jnp.exp((b - spread(lax.stop_gradient(b).max(axis=4))) / temperature)
    most = jnp.where(inside, lax.stop_gradient(b), -jnp.inf).max(axis=4)
    # Both branches of a `where` are differentiated, so values outside must not overflow.
    e = jnp.exp(jnp.where(inside, b - spread(most), 0.0) / temperature)
    return jnp.where(inside, e, 0.0)


def _check_settings(
    channels: int, num_steps: int, temperature: float | Array, num_capsules: int, eps: float
) -> None:
    if num_steps < 1:
        raise ValueError(f"num_steps is at least 1, not {num_steps}")
    if not isinstance(temperature, jax.core.Tracer) and not temperature > 0:
        raise ValueError(f"temperature is above 0, not {temperature}")
    if num_capsules < 1 or channels % num_capsules:
        raise ValueError(
            f"num_capsules divides the channels: {channels} are not {num_capsules} capsules"
        )
    if eps < 0:
        raise ValueError(f"eps is at least 0, not {eps}")
