"""Transposed convolution: as convolutions of the small image, one for each phase of the large."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from capsjax.kernels.conv.sizes import check_fits


def border_of_transposed(kernel_size: int, stride: int) -> tuple[int, int]:
    """Return how many rows of zeros a transposed convolution needs before and after its image.

    Raises:
      ValueError: for a kernel that is no multiple of the stride, or that has no middle.

    >>> border_of_transposed(4, 2), border_of_transposed(2, 2)
    ((1, 1), (0, 0))
    """
    if kernel_size % stride or (kernel_size - stride) % 2:
        raise ValueError(
            f"the kernel of a transposed convolution is a multiple of its stride {stride}, and "
            f"larger by an even number, not {kernel_size}: use a kernel of {2 * stride} or {stride}"
        )
    return kernel_size // stride - 1, (stride - 1 + (kernel_size - stride) // 2) // stride


def transposed_conv2d(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "k k o c"],
    stride: int,
    convolve: Callable[[Array, Array], Array],
) -> Float[Array, "n y x o"]:
    """Convolve with the transpose of a convolution of a given stride.

        out[n, Y, X, o] = Σ_{i, j, c} x[n, (Y + a - i) / s, (X + a - j) / s, c] kernel[i, j, o, c]

    over all i and j for which the quotients are whole numbers, with a = (k - s) / 2. The pixels of
    each phase (Y mod s, X mod s) see the same part of the kernel; all phases are the channels of
    one convolution.

    Args:
      x: images with the zeros of `border_of_transposed` around them, (n, h, w, c).
      kernel: (k, k, o, c), as that of the convolution from o to c channels.
      stride: s, the factor by which rows and columns grow.
      convolve: a function (x, kernel) of a convolution of stride 1 without padding.

    Returns:
      (n, s · (h - before - after), s · (w - before - after), o).

    Raises:
      ValueError: for a kernel that does not fit.

    >>> from capsjax.kernels.conv import conv2d
    >>> transposed_conv2d(jnp.ones((1, 3, 3, 1)), jnp.ones((4, 4, 1, 1)), 2, conv2d).shape
    (1, 2, 2, 1)
    """
    size, _, features, channels = kernel.shape
    before, after = border_of_transposed(size, stride)
    taps = before + 1
    check_fits(x.shape[1:3], (before + after + 1,) * 2, "the transposed convolution")
    shift = np.arange(stride) + (size - stride) // 2
    # rows[a, t]: the row of the kernel that phase a has at place t of its window.
    rows = (shift % stride)[:, None] + stride * np.arange(taps)[::-1]
    of_phases = kernel[rows[:, :, None, None], rows[None, None]]  # (a, t, b, u, o, c)
    of_phases = of_phases.transpose(1, 3, 5, 0, 2, 4)
    wide = convolve(x, of_phases.reshape(taps, taps, channels, stride**2 * features))
    n, h, w = x.shape[0], *(each - before - after for each in x.shape[1:3])
    wide = wide.reshape(*wide.shape[:3], stride, stride, features)
    first = shift // stride
    phases = [
        [wide[:, i : i + h, j : j + w, a, b] for b, j in enumerate(first)]
        for a, i in enumerate(first)
    ]
    grid = jnp.stack([jnp.stack(row, axis=3) for row in phases], axis=2)  # (n, h, a, w, b, o)
    return grid.reshape(n, stride * h, stride * w, features)
