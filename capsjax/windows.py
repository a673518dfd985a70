"""Windows of an image: their positions, the pixels that they contain, and cutting them out.

With padding "SAME" an axis has ceil(size / stride) windows: missing rows or columns are added half
before and half after the image, an odd one after it. With "VALID" nothing is added, and pixels
beyond the last whole window are left out.
"""

from numbers import Integral
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from capsjax.registry import look_up

Pair = tuple[int, int]


class Axis(NamedTuple):
    """Windows along the rows or columns of an image.

    Attributes:
      size: rows or columns of the image.
      window: rows or columns of a window.
      stride: distance from one window to the next.
      count: number of windows.
      before: how far the first window begins before the image.
    """

    size: int
    window: int
    stride: int
    count: int
    before: int

    @property
    def after(self) -> int:
        """How far the last window extends beyond the image; negative if it ends inside."""
        return (self.count - 1) * self.stride + self.window - self.before - self.size

    @property
    def tiles(self) -> bool:
        """Whether windows neither overlap nor leave gaps."""
        return self.window == self.stride

    def positions(self) -> Int[np.ndarray, "count window"]:
        """Return the row or column of the image at every position of every window."""
        starts = self.stride * np.arange(self.count) - self.before
        return starts[:, None] + np.arange(self.window)[None]


class Grid(NamedTuple):
    """Windows of an image, rows.count times columns.count of them."""

    rows: Axis
    columns: Axis

    @property
    def tiles(self) -> bool:
        """Whether windows neither overlap nor leave gaps."""
        return self.rows.tiles and self.columns.tiles


def _same(size: int, window: int, stride: int) -> Axis:
    count = -(-size // stride)
    added = max((count - 1) * stride + window - size, 0)
    return Axis(size, window, stride, count, before=added // 2)


def _valid(size: int, window: int, stride: int) -> Axis:
    if size < window:
        raise ValueError(
            f"a window of {window} pixels does not fit into {size} without padding: use larger "
            "images, a smaller window, or padding 'SAME' where it can be set"
        )
    return Axis(size, window, stride, count=(size - window) // stride + 1, before=0)


PADDINGS = {"SAME": _same, "VALID": _valid}


def _is_size(value: object) -> bool:
    return isinstance(value, Integral) and value >= 1


def make_grid(image: Pair, window: Pair, stride: Pair | None, padding: str) -> Grid:
    """Lay windows over an image.

    Args:
      image: rows and columns of the image.
      window: rows and columns of a window.
      stride: rows and columns from one window to the next; None for the size of a window.
      padding: "SAME" or "VALID".

    Raises:
      ValueError: for an invalid window, stride or padding, or an image that is too small.

    >>> rows, columns = make_grid((7, 9), (3, 3), None, "SAME")
    >>> rows.positions().tolist()
    [[-1, 0, 1], [2, 3, 4], [5, 6, 7]]
    """
    stride = window if stride is None else stride
    for name, pair in (("window", window), ("stride", stride)):
        if not isinstance(pair, tuple) or len(pair) != 2 or not all(map(_is_size, pair)):
            raise ValueError(
                f"{name} is a pair of whole numbers of at least 1, such as (3, 3), not {pair!r}"
            )
    lay = look_up(PADDINGS, padding, "padding")
    return Grid(*(lay(*sizes) for sizes in zip(image, window, stride, strict=True)))


def fit_to_windows(
    x: Float[Array, "n h w c"], grid: Grid, fill: float = 0.0
) -> Float[Array, "n y x c"]:
    """Surround an image so that all of its windows lie inside, and cut off what is in none.

    A convolution without padding then has an output for every window.

    >>> fit_to_windows(jnp.ones((1, 2, 4, 1)), make_grid((2, 4), (3, 3), (2, 2), "SAME")).shape
    (1, 3, 5, 1)
    """
    # A negative width of padding crops.
    widths = [(0, 0, 0), *((axis.before, axis.after, 0) for axis in grid), (0, 0, 0)]
    return lax.pad(x, jnp.asarray(fill, x.dtype), widths)


def cut_windows(
    x: Float[Array, "n h w c"], grid: Grid, fill: float = 0.0
) -> Float[Array, "n y x p c"]:
    """Cut out the pixels p of every window, row by row, with `fill` outside the image.

    Windows that neither overlap nor leave gaps are the image, reshaped and transposed. Others
    contain window / stride times as many pixels as the image along each axis.

    >>> image = jnp.arange(6.0).reshape(1, 2, 3, 1)
    >>> cut_windows(image, make_grid((2, 3), (2, 2), None, "SAME")).tolist()
    [[[[[0.0], [1.0], [3.0], [4.0]], [[2.0], [0.0], [5.0], [0.0]]]]]
    """
    rows, columns = grid
    x = fit_to_windows(x, grid, fill)
    if grid.tiles:
        # Twice as fast as the slices below, forward and backward.
        n, c = x.shape[0], x.shape[-1]
        x = x.reshape(n, rows.count, rows.window, columns.count, columns.window, c)
        x = x.transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(n, rows.count, columns.count, rows.window * columns.window, c)
    height = (rows.count - 1) * rows.stride + 1
    width = (columns.count - 1) * columns.stride + 1
    slices = [
        x[:, row : row + height : rows.stride, column : column + width : columns.stride]
        for row in range(rows.window)
        for column in range(columns.window)
    ]
    return jnp.stack(slices, axis=3)


def pixels_inside(grid: Grid) -> Bool[np.ndarray, "y x p"]:
    """Return which pixels of every window lie inside the image.

    >>> pixels_inside(make_grid((2, 3), (2, 2), None, "SAME")).tolist()
    [[[True, True, True, True], [True, False, True, False]]]
    """
    y, x = (
        (axis.positions() >= 0) & (axis.positions() < axis.size)
        for axis in (grid.rows, grid.columns)
    )
    inside = y[:, None, :, None] & x[None, :, None, :]
    return inside.reshape(grid.rows.count, grid.columns.count, -1)


def windows_from_corner(
    grid: Grid,
) -> tuple[Int[np.ndarray, "y x p"], Int[np.ndarray, "y x p"]]:
    """Return each pixel's window row and column as if the first window began at the top left.

    >>> windows_from_corner(make_grid((1, 4), (1, 3), None, "SAME"))[1].tolist()
    [[[0, 0, 0], [0, 1, 1]]]
    """
    # Pixels outside the image get the nearest window.
    y, x = (np.clip(axis.positions() // axis.window, 0, axis.count - 1) for axis in grid)
    y, x = np.broadcast_arrays(y[:, None, :, None], x[None, :, None, :])
    shape = (grid.rows.count, grid.columns.count, -1)
    return y.reshape(shape), x.reshape(shape)
