"""How a convolution in the frequency domain is cut up, and what it then multiplies."""

import math
from typing import NamedTuple

from capsjax.conv.sizes import output_size

# Points of a transform along one axis. More would multiply less for each output, but the
# kernel's transform grows with their square: at 12, and 256 channels on either side, 151 MB.
MAX_POINTS = 12


class Plan(NamedTuple):
    """How a convolution is cut up. Pairs are for rows and columns.

    Attributes:
      stride: of the convolution.
      outputs: rows and columns of the result.
      taps: extent of one phase of the kernel.
      tile: outputs of a tile.
      tiles: how many tiles there are.
    """

    stride: int
    outputs: tuple[int, int]
    taps: tuple[int, int]
    tile: tuple[int, int]
    tiles: tuple[int, int]

    @property
    def points(self) -> tuple[int, int]:
        """Points of a tile's transform: no fewer, so that nothing wraps around."""
        return tuple(tile + taps - 1 for tile, taps in zip(self.tile, self.taps, strict=True))

    @property
    def padded(self) -> tuple[int, int]:
        """Rows and columns of an image that all tiles together see."""
        sizes = zip(self.tile, self.tiles, self.taps, strict=True)
        return tuple(self.stride * (tile * tiles + taps - 1) for tile, tiles, taps in sizes)


def make_plan(image: tuple[int, int], kernel: tuple[int, int], stride: int) -> Plan:
    """The plan with the fewest points in all, for images and a kernel of those rows and columns.

    >>> make_plan((20, 20), (9, 9), 2).points
    (10, 10)
    """
    outputs = tuple(
        output_size(pixels, size, stride) for pixels, size in zip(image, kernel, strict=True)
    )
    taps = tuple(-(-size // stride) for size in kernel)
    (rows, columns) = (_cut(*sizes) for sizes in zip(outputs, taps, strict=True))
    return Plan(stride, outputs, taps, (rows[0], columns[0]), (rows[1], columns[1]))


def _cut(outputs: int, taps: int) -> tuple[int, int]:
    """Size and number of tiles along one axis."""
    largest = max(1, min(outputs, MAX_POINTS + 1 - taps))
    counts = {tile: -(-outputs // tile) for tile in range(1, largest + 1)}
    tile = min(counts, key=lambda tile: counts[tile] * (tile + taps - 1))
    return tile, counts[tile]


def multiplications(plan: Plan, channels: int, features: int, batch: int) -> float:
    """Multiplications for each image, the constant matrices' included."""
    g, points = num_frequencies(plan.points), math.prod(plan.points)
    channels *= plan.stride**2
    products = 4 * g * channels * features
    transforms = 2 * g * points * channels + 4 * g * math.prod(plan.tile) * features
    of_kernel = 2 * g * math.prod(plan.taps) * channels * features / batch
    return math.prod(plan.tiles) * (products + transforms) + of_kernel


def num_frequencies(points: tuple[int, int]) -> int:
    """Complex frequencies of a tile; two real ones are counted as one.

    >>> num_frequencies((10, 10))
    50
    """
    real = math.prod(2 if size % 2 == 0 else 1 for size in points)
    return (math.prod(points) - real) // 2 + -(-real // 2)
