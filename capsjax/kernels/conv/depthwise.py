"""Depthwise convolution: each channel has a kernel of its own.

XLA's CPU backend takes 0.38 s for one gradient of 16 images of 9x9x128 with a kernel of 9x9, and
2 ms for the same as a product of windows and kernel.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from capsjax.kernels.conv.sizes import check_channels, check_fits
from capsjax.windows import cut_windows, make_grid


def depthwise_conv2d(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw c"],
    stride: int = 1,
) -> Float[Array, "n y x c"]:
    """Convolve (cross-correlate) each channel with its own kernel, without padding ("VALID").

        out[n, y, x, c] = Σ_{k, l} input[n, stride·y + k, stride·x + l, c] · kernel[k, l, c]

    Args:
      x: images, (n, h, w, c).
      kernel: (kh, kw, c).
      stride: stride of both rows and columns.

    Returns:
      (n, (h - kh) // stride + 1, (w - kw) // stride + 1, c).

    Raises:
      ValueError: if the image is smaller than the kernel or has other channels.

    >>> depthwise_conv2d(jnp.ones((1, 9, 9, 4)), jnp.ones((9, 9, 4)))[0, 0, 0].tolist()
    [81.0, 81.0, 81.0, 81.0]
    """
    size = kernel.shape[:2]
    check_fits(x.shape[1:3], size, "the depthwise convolution")
    check_channels(x.shape, kernel.shape, "the depthwise convolution")
    grid = make_grid(x.shape[1:3], size, (stride, stride), "VALID")
    if grid.rows.count == grid.columns.count == 1:
        # One window: cut out as a tile, it is not copied.
        x = x[:, : size[0], : size[1]]
        grid = make_grid(size, size, None, "VALID")
    windows = cut_windows(x, grid)
    return jnp.einsum("nyxpc,pc->nyxc", windows, kernel.reshape(-1, kernel.shape[-1]))
