"""Coordinates that are added to votes, so that class capsules know where their parts are."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from capsjax.registry import look_up


@dataclasses.dataclass(frozen=True)
class Coordinates:
    """Numbers of the rows and columns of a grid, added to two entries of each vote from there.

    Attributes:
      rows, columns: number of each row and of each column.
      entries: entries of a vote that those of rows and of columns are added to.

    Source: Hinton et al. 2018, section 4.
    """

    rows: tuple[float, ...]
    columns: tuple[float, ...]
    entries: tuple[int, int] = (3, 7)

    def table(self, grid: tuple[int, ...], types: int, d: int) -> Float[np.ndarray, "i d"]:
        """Return what is added to the votes of each child, in the order (row, column, type).

        Args:
          grid: rows and columns of the children.
          types: types of children at each position.
          d: dimensions of a vote.

        Raises:
          ValueError: for another grid, or entries that a vote does not have.

        >>> Coordinates((0.5,), (1.0, 2.0), (0, 2)).table((1, 2), 1, 3).tolist()
        [[0.5, 0.0, 1.0], [0.5, 0.0, 2.0]]
        """
        sizes = (len(self.rows), len(self.columns))
        if grid != sizes:
            raise ValueError(f"coordinates of a grid {sizes} for children on a grid {grid}")
        if not all(0 <= entry < d for entry in self.entries):
            raise ValueError(
                f"entries of coordinates are from 0 to {d - 1} for votes of {d} dimensions, not "
                f"{self.entries}"
            )
        numbers = np.zeros((*grid, types, d))
        of_rows, of_columns = self.entries
        numbers[..., of_rows] += np.reshape(self.rows, (-1, 1, 1))
        numbers[..., of_columns] += np.reshape(self.columns, (1, -1, 1))
        return numbers.reshape(-1, d)


@dataclasses.dataclass(frozen=True)
class Centres:
    """Centres of receptive fields along the rows or columns of an image, in pixels.

    Attributes:
      size: rows or columns of the image.
      count: number of receptive fields.
      first: centre of the first one.
      step: distance from one centre to the next.
    """

    size: int
    count: int
    first: float = 0.0
    step: int = 1

    def through(self, kernel_size: int, stride: int) -> "Centres":
        """Return the centres after a convolution without padding.

        >>> Centres(32, 32).through(5, 2).through(3, 2)
        Centres(size=32, count=6, first=4.0, step=4)
        """
        return Centres(
            self.size,
            (self.count - kernel_size) // stride + 1,
            self.first + self.step * (kernel_size - 1) / 2,
            self.step * stride,
        )


def make_coordinates(
    scale: str, rows: Centres, columns: Centres, entries: tuple[int, int]
) -> Coordinates | None:
    """Make the coordinates of a grid.

    Args:
      scale: "share" of the image, from 0 to 1 and in its middle 0.5; "tenths", which are numbered
        from 1 on and end at 0.1; "pixels" from the middle of the image, in hundreds; or "none".
      rows, columns: receptive fields of the grid.
      entries: as in `Coordinates`.

    Raises:
      ValueError: for an unknown scale (the nearest one is named).

    Source: the released code of De Sousa Ribeiro et al. 2020 for "tenths", that of Hinton et al.
    2018 for "pixels".
    """
    numbers = look_up(SCALES, scale, "scale of coordinates (model.class_caps.coordinates)")
    if numbers is None:
        return None
    return Coordinates(*(tuple(map(float, numbers(axis))) for axis in (rows, columns)), entries)


def _shares(axis: Centres) -> np.ndarray:
    return (np.arange(axis.count) + 0.5) / axis.count


def _tenths(axis: Centres) -> np.ndarray:
    return (np.arange(axis.count) + 1) / (10 * axis.count)


def _pixels(axis: Centres) -> np.ndarray:
    return (axis.first + axis.step * np.arange(axis.count) - axis.size / 2) / 100


SCALES: dict[str, Callable[[Centres], np.ndarray] | None] = {
    "none": None,
    "pixels": _pixels,
    "share": _shares,
    "tenths": _tenths,
}
