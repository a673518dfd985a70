"""Division of a convolution in the frequency domain into tiles, and its multiplications."""

import math
from typing import NamedTuple

from capsjax.kernels.conv.sizes import output_size

# Most points of a transform along one axis. More would take fewer multiplications for each output,
# but the kernel's transform grows with their square: 151 MB at 12, with 256 channels on each side.
MAX_POINTS = 12


class Plan(NamedTuple):
    """Division of a convolution into tiles. Pairs are for rows and columns.

    Attributes:
      stride: stride of the convolution.
      outputs: rows and columns of the result.
      taps: extent of one phase of the kernel.
      tile: outputs of a tile.
      tiles: number of tiles.
    """

    stride: int
    outputs: tuple[int, int]
    taps: tuple[int, int]
    tile: tuple[int, int]
    tiles: tuple[int, int]

    @property
    def points(self) -> tuple[int, int]:
        """Points of a tile's transform, just enough that nothing wraps around."""
        return tuple(tile + taps - 1 for tile, taps in zip(self.tile, self.taps, strict=True))

    @property
    def padded(self) -> tuple[int, int]:
        """Rows and columns of an image that all tiles together cover."""
        sizes = zip(self.tile, self.tiles, self.taps, strict=True)
        return tuple(self.stride * (tile * tiles + taps - 1) for tile, tiles, taps in sizes)


def make_plan(image: tuple[int, int], kernel: tuple[int, int], stride: int) -> Plan:
    """Make the plan with the fewest points in all for the rows and columns of image and kernel.

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
    """Return the size and number of tiles along one axis."""
    largest = max(1, min(outputs, MAX_POINTS + 1 - taps))
    counts = {tile: -(-outputs // tile) for tile in range(1, largest + 1)}
    tile = min(counts, key=lambda tile: counts[tile] * (tile + taps - 1))
    return tile, counts[tile]


def multiplications(plan: Plan, channels: int, features: int, batch: int) -> float:
    """Count the multiplications for each image, those by constant matrices included."""
    g, points = num_frequencies(plan.points), math.prod(plan.points)
    channels *= plan.stride**2
    products = 4 * g * channels * features
    transforms = 2 * g * points * channels + 4 * g * math.prod(plan.tile) * features
    of_kernel = 2 * g * math.prod(plan.taps) * channels * features / batch
    return math.prod(plan.tiles) * (products + transforms) + of_kernel


def num_frequencies(points: tuple[int, int]) -> int:
    """Count the complex frequencies of a tile; two real ones count as one.

    >>> num_frequencies((10, 10))
    50
    """
    real = math.prod(2 if size % 2 == 0 else 1 for size in points)
    return (math.prod(points) - real) // 2 + -(-real // 2)
