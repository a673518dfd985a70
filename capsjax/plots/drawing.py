"""What figures are made of: images in grids, the names of rows and of classes."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

INK = "#222222"
# Longer names of classes are cut off, where a figure has many.
MOST_CHARACTERS = 12


def name_of(label: int | np.integer, class_names: Sequence[str]) -> str:
    """Return the name of a class for a figure; its number where classes have no names.

    >>> name_of(1, ("cat", "a very long-legged bird")), name_of(1, ())
    ('a very long…', '1')
    """
    name = class_names[label] if class_names else str(label)
    return name if len(name) <= MOST_CHARACTERS else f"{name[: MOST_CHARACTERS - 1]}…"


def mosaic(
    cells: np.ndarray, row_names: Sequence[str], offsets: np.ndarray, title: str, cell: float
) -> Figure:
    """Draw images (rows, columns, h, w, c) as one picture: hundreds of axes are slow."""
    rows, columns, h, w, channels = cells.shape
    gap = max(1, h // 14)
    padded = np.zeros((rows, columns, h + gap, w + gap, channels))
    padded[:, :, gap:, gap:] = cells
    sheet = padded.transpose(0, 2, 1, 3, 4).reshape(rows * (h + gap), columns * (w + gap), channels)
    left, top = 1.3, 0.7  # inches for the names of rows, and for the title and the offsets
    width, height = columns * cell + left + 0.1, rows * cell + top + 0.1
    figure = Figure(figsize=(width, height))
    figure.suptitle(title, color=INK, fontsize=10, y=1 - 0.1 / height, va="top")
    axis = figure.add_axes(
        (left / width, 0.1 / height, columns * cell / width, rows * cell / height)
    )
    show(axis, sheet)
    axis.set_axis_on()
    axis.set_frame_on(False)
    axis.tick_params(length=0, labelsize=8, labelcolor=INK)
    axis.xaxis.tick_top()
    axis.set_yticks((np.arange(rows) + 0.5) * (h + gap) + gap / 2, labels=row_names)
    axis.set_xticks(
        (np.arange(columns) + 0.5) * (w + gap) + gap / 2, labels=[f"{x:+.2f}" for x in offsets]
    )
    return figure


def grid(rows: int, columns: int, title: str, cell: float, left: float):
    """Make axes in a tight grid, with room on the left for the names of rows (inches)."""
    top = 0.7 + 0.3 * title.count("\n")
    width, height = columns * cell + left + 0.2, rows * cell + top + 0.2
    figure = Figure(figsize=(max(width, 4.0), height))
    figure.suptitle(title, color=INK, fontsize=11, y=1 - 0.12 / height, va="top")
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(
        left=left / width,
        right=1 - 0.1 / width,
        bottom=0.1 / height,
        top=1 - top / height,
        wspace=0.12,
        hspace=0.32 if cell > 0.9 else 0.08,
    )
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, axes


def show(axis, image: np.ndarray, title: str = "") -> None:
    """Show an image (h, w, c) in [0, 1] without axes."""
    image = np.clip(image, 0.0, 1.0)
    # One channel is drawn as ink on paper; three are colours.
    if image.shape[-1] == 3:
        axis.imshow(image)
    else:
        axis.imshow(image.mean(axis=-1), cmap=matplotlib.colormaps["gray_r"], vmin=0, vmax=1)
    axis.set_axis_off()
    if title:
        axis.set_title(title, fontsize=8, color=INK, pad=2)


def row_name(axis, name: str) -> None:
    """Write the name of a row to the left of its first axes."""
    axis.text(
        -0.15, 0.5, name, transform=axis.transAxes, ha="right", va="center", fontsize=8, color=INK
    )
