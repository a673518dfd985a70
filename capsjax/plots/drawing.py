"""What figures are made of: images in grids, and their names."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from capsjax.plots.text import INK, fitted, height_of, width_of, with_room

# Images beside each other at most; the others are drawn below.
MOST_COLUMNS = 12
# Inches that the images of a mosaic may take in each direction.
MOST_INCHES = 18.0
# Width of a figure that its title may ask for, where the images need less.
TITLE_WIDTH = 6.0
TITLE_SIZE, SIZE = 11, 8
MARGIN = 0.12


def mosaic(
    cells: np.ndarray, row_names: Sequence[str], offsets: np.ndarray, title: str, cell: float
) -> Figure:
    """Draw images (rows, columns, h, w, c) as one picture: hundreds of axes are slow."""
    rows, columns, h, w, channels = cells.shape
    gap = max(1, h // 14)
    padded = np.zeros((rows, columns, h + gap, w + gap, channels))
    padded[:, :, gap:, gap:] = cells
    sheet = padded.transpose(0, 2, 1, 3, 4).reshape(rows * (h + gap), columns * (w + gap), channels)
    cell = min(cell, MOST_INCHES / columns, MOST_INCHES * (w + gap) / (rows * (h + gap)))
    size = (columns * cell, rows * cell * (h + gap) / (w + gap))
    left = max(width_of(name, SIZE) for name in row_names) + 2 * MARGIN
    ticks = 0.3  # inches for the offsets, below the title
    figure, place = _page(size, left, ticks, title)
    axis = figure.add_axes(place(0.0, 0.0, *size))
    show(axis, sheet)
    axis.set_axis_on()
    axis.set_frame_on(False)
    axis.tick_params(length=0, labelsize=SIZE, labelcolor=INK)
    axis.xaxis.tick_top()
    labels = [f"{x:+.2f}" for x in offsets]
    some = with_room(columns, size[0], width_of("+0.00", SIZE) + 0.08)
    axis.set_xticks(_middles(columns, w, gap)[some], labels=labels[some])
    some = with_room(rows, size[1], height_of("", SIZE))
    axis.set_yticks(_middles(rows, h, gap)[some], labels=row_names[some])
    return figure


def grid(
    row_names: Sequence[str], lines: Sequence[int], count: int, title: str, cell: float
) -> tuple[Figure, np.ndarray]:
    """Make axes for a number of images, with several rows for each: what it is, what it became.

    Where there are more than `MOST_COLUMNS`, the others follow below, with the same rows.

    Args:
      row_names: a name of each row, drawn to its left.
      lines: lines of text above the images of each row.
      count: number of columns.
      title: title of the figure.
      cell: inches of an image.

    Returns:
      The figure, and its axes (rows, count).
    """
    columns = min(count, MOST_COLUMNS)
    bands = -(-count // MOST_COLUMNS)
    step, beside = 1.12 * cell, max(width_of(name, SIZE) for name in row_names) + 2 * MARGIN
    above = [height_of("\n" * (each - 1), SIZE) + 0.05 if each else 0.08 * cell for each in lines]
    band = sum(above) + len(lines) * cell + (0.15 if bands > 1 else 0.0)
    figure, place = _page((columns * step, bands * band), beside, 0.0, title)
    axes = np.empty((len(lines), count), object)
    for column in range(count):
        y = column // MOST_COLUMNS * band
        for row, room in enumerate(above):
            y += room
            axis = figure.add_axes(place(column % MOST_COLUMNS * step, y, cell, cell))
            axis.set_axis_off()
            if column % MOST_COLUMNS == 0:
                _name_row(axis, row_names[row])
            axes[row, column] = axis
            y += cell
    return figure, axes


def show(axis: Axes, image: np.ndarray, title: str = "") -> None:
    """Show an image (h, w, c) in [0, 1] without axes."""
    image = np.clip(image, 0.0, 1.0)
    # One channel is drawn as ink on paper; three are colours.
    if image.shape[-1] == 3:
        axis.imshow(image)
    else:
        axis.imshow(image.mean(axis=-1), cmap=matplotlib.colormaps["gray_r"], vmin=0, vmax=1)
    axis.set_axis_off()
    if title:
        axis.set_title(title, fontsize=SIZE, color=INK, pad=2)


def _page(size: tuple[float, float], left: float, ticks: float, title: str):
    """Make a figure for a content of a given size, with a title of as many lines as it takes.

    Args:
      size: width and height of the content in inches.
      left, ticks: inches to its left, and between it and the title.
      title: title of the figure.

    Returns:
      The figure, and a function (x, y, width, height) -> rectangle for `Figure.add_axes`: all in
      inches, from the upper left corner of the content.
    """
    needed = left + size[0] + MARGIN
    width = max(needed, min(TITLE_WIDTH, width_of(title, TITLE_SIZE) + 4 * MARGIN))
    title = fitted(title, width - 2 * MARGIN, TITLE_SIZE)
    top = height_of(title, TITLE_SIZE) + 2 * MARGIN + ticks
    height = top + size[1] + MARGIN
    figure = Figure(figsize=(width, height))
    figure.suptitle(title, color=INK, fontsize=TITLE_SIZE, y=1 - MARGIN / height, va="top")
    x0 = left + (width - needed) / 2

    def place(x: float, y: float, w: float, h: float) -> tuple[float, float, float, float]:
        return (x0 + x) / width, 1 - (top + y + h) / height, w / width, h / height

    return figure, place


def _middles(count: int, size: int, gap: int) -> np.ndarray:
    return (np.arange(count) + 0.5) * (size + gap) + gap / 2


def _name_row(axis: Axes, name: str) -> None:
    """Write the name of a row to the left of its first axes."""
    axis.annotate(
        name,
        (0, 0.5),
        (-4, 0),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=SIZE,
        color=INK,
    )
