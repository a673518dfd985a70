"""Where in the image the capsules below the class capsules look, and for whom they vote."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from capsjax.layers import ConvCaps
from capsjax.windows import make_grid

CLASS_LAYER = "class_layer"
# Intermediate values by the name of their layer, as of `capsjax.models.look_inside`.
Layers = Mapping[str, Mapping[str, Any]]


class Grid(NamedTuple):
    """The grid of the capsules that vote for the class capsules.

    Attributes:
      rows, columns: middle of what each row and column of the grid sees, in pixels.
    """

    rows: np.ndarray
    columns: np.ndarray


def size_of_grid(layers: Layers, convolutions: Sequence[ConvCaps] = ()) -> tuple[int, int] | None:
    """Find the grid (y, x) of the capsules that vote for the class capsules.

    Args:
      layers: intermediate values, or their shapes.
      convolutions: those of capsules, between primary and class capsules, in order. Their own
        intermediate values have one axis for all positions, which does not tell rows from columns.

    Returns:
      Rows and columns; None if those capsules have no grid, or more than one.
    """
    couplings = layers.get(CLASS_LAYER, {}).get("couplings")
    if couplings is None or couplings.ndim != 3:
        return None
    for values in layers.values():
        if "couplings" in values or values.get("poses", couplings).ndim != 5:
            continue
        _, y, x, types, _ = values["poses"].shape
        for layer in convolutions:
            kernel, stride = (layer.kernel_size,) * 2, (layer.stride,) * 2
            y, x = (axis.count for axis in make_grid((y, x), kernel, stride, layer.padding))
            types = layer.types
        if y * x * types == couplings.shape[1]:
            return y, x
    return None


def find_grid(
    inside: Callable[[np.ndarray], Layers],
    image_shape: tuple[int, int, int],
    size: tuple[int, int],
) -> Grid:
    """Find the grid of the capsules that vote for the class capsules, in pixels of the image.

    What a position sees are the rows and columns of pixels whose change changes its votes. Two
    neighbours in the middle, which see nothing beyond the edge, place all others.

    Args:
      inside: makes the intermediate values of a network of images (1, h, w, c), float32 in [0, 1].
      image_shape: (h, w, c).
      size: rows and columns of the grid, see `size_of_grid`.
    """
    image, other = np.random.default_rng(0).random((2, 1, *image_shape)).astype(np.float32)

    def votes_of(image: np.ndarray) -> np.ndarray:
        values = inside(image)[CLASS_LAYER]
        return np.asarray(values.get("votes", values["couplings"])).reshape(*size, -1)

    before = votes_of(image)

    def depends_on(pixels: tuple) -> np.ndarray:
        changed = image.copy()
        changed[pixels] = other[pixels]
        return (votes_of(changed) != before).any(axis=-1)

    everything = slice(None)
    of_rows = np.array([depends_on((0, row)) for row in range(image_shape[0])])
    of_columns = np.array([depends_on((0, everything, k)) for k in range(image_shape[1])])
    return Grid(_line(of_rows.any(axis=2)), _line(of_columns.any(axis=1)))


def _line(sees: np.ndarray) -> np.ndarray:
    """Return the middle of what each place on an axis sees, from those of two neighbours.

    Where neighbours see the same, as after a norm of the whole image, or nothing, as where all
    couplings are equal, each has its share: of what any place sees, which a crop limits.

    Args:
      sees: whether a pixel on the axis matters to a place, (pixels, places).
    """
    pixels, count = sees.shape
    first = max((count - 1) // 2, 0)
    neighbours = [np.flatnonzero(sees[:, place]) for place in range(first, count)[:2]]
    middles = [seen[[0, -1]].mean() if seen.size else np.nan for seen in neighbours]
    if count == 1 or not middles[1] > middles[0]:
        seen = np.flatnonzero(sees.any(axis=1))
        first_pixel, last_pixel = (seen[0], seen[-1]) if seen.size else (0, pixels - 1)
        shares = (np.arange(count) + 0.5) / count
        return first_pixel + shares * (last_pixel - first_pixel + 1) - 0.5
    return middles[0] + (middles[1] - middles[0]) * (np.arange(count) - first)


def support(
    votes: Float[np.ndarray, "i j d"] | None,
    couplings: Float[np.ndarray, "i j"],
    poses: Float[np.ndarray, "j d"] | None,
    grid: tuple[int, int],
) -> Float[np.ndarray, "y x j"]:
    """Compute for which classes the capsules at each position vote, and how much.

        Σ_i c_ij û_ij · v_j / |v_j|

    over the capsules i at the position: the part of its coupled votes that points as the class's
    capsule does. In dynamic routing the sum over all positions is |s_j|, the length before the
    squash. A network whose class capsules have no poses has Σ_i c_ij instead.

    Args:
      votes: û, (i, j, d).
      couplings: c, (i, j).
      poses: v, (j, d).
      grid: rows and columns of the positions; capsules are in the order (row, column, type).
    """
    if votes is None or poses is None or not poses.shape[-1]:
        shares = couplings
    else:
        lengths = np.linalg.norm(poses, axis=-1, keepdims=True)
        directions = poses / np.maximum(lengths, 1e-9)
        shares = couplings * np.einsum("ijd,jd->ij", votes, directions)
    return shares.reshape(*grid, -1, shares.shape[-1]).sum(axis=2)
