"""Figures of numbers by class: couplings of capsules, and confusions."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from capsjax.plots.drawing import show
from capsjax.plots.text import BAD, GOOD, INK, fitted, height_of, name_of, width_of, with_room

# Rows of a figure of couplings: more would be no figure any more.
MOST_ROWS = 12
# Classes whose confusions are written as numbers, and the inches of a matrix of more.
MOST_NUMBERED, MATRIX = 20, 10.0
EMPTY, NO_IMAGES = "#d9d9d9", "no images"


def couplings(
    images: np.ndarray,
    c: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    title: str,
    class_names: Sequence[str] = (),
) -> Figure:
    """Draw where each upper capsule gets its votes from: its coupling coefficients.

    Args:
      images: (n, h, w, c) in [0, 1].
      c: coupling coefficients (n, i, j).
      labels, predictions: (n,).
      title: title of the figure.
      class_names: name of each class; empty for numbers.
    """
    count, lower, upper = c.shape
    if count > MOST_ROWS:
        title += f" (the first {MOST_ROWS} of {count} images)"
        count = MOST_ROWS
    names = [name_of(label, class_names) for label in range(upper)]
    lines = 3 if class_names else 1
    row = max(0.7 + height_of("\n" * (lines - 1), 8), min(0.11 * upper + 0.2, 2.2))
    figure = Figure(figsize=(9, row * count + 1.3))
    figure.set_layout_engine("constrained", h_pad=0.06, w_pad=0.06)
    figure.suptitle(fitted(title, 8.5, 12), color=INK)
    columns = figure.subplots(count, 2, width_ratios=(1, 9), squeeze=False)
    even = 1 / upper
    for place in range(count):
        label, predicted = (name_of(each[place], class_names) for each in (labels, predictions))
        between = "\n" if class_names else " "  # a line each for names
        show(columns[place, 0], images[place], f"{label},{between}predicted{between}{predicted}")
        columns[place, 0].title.set_color(GOOD if labels[place] == predictions[place] else BAD)
        axis = columns[place, 1]
        # Lower capsules in the order of their coupling to the predicted class: a profile that is
        # readable whatever their number.
        order = np.argsort(-c[place, :, predictions[place]], kind="stable")
        # Even coupling is white, more is red and less is blue. Each image has its own scale: one
        # that is coupled hard would leave the others white.
        largest = max(float(c[place].max()), 1.01 * even)
        picture = axis.imshow(
            c[place, order].T,
            aspect="auto",
            cmap="RdBu_r",
            norm=TwoSlopeNorm(even, vmin=0, vmax=largest),
            interpolation="nearest",
        )
        some = with_room(upper, row - 0.15, 0.1)
        axis.set_yticks(range(upper)[some], labels=names[some], fontsize=6)
        axis.set_ylabel("class", fontsize=8)
        axis.set_xticks([])
        bar = figure.colorbar(picture, ax=axis, pad=0.01, aspect=8)
        bar.set_ticks([0, even, largest], labels=["0", f"{even:.2g}", f"{largest:.2g}"])
        bar.ax.tick_params(labelsize=6)
    columns[count - 1, 1].set_xlabel(
        f"{lower} lower capsules, sorted by their coupling to the predicted class\n"
        f"colour: coupling, white where it is even ({even:.2g}); each image has its own scale"
    )
    return figure


def confusion_matrix(matrix: np.ndarray, title: str, class_names: Sequence[str] = ()) -> Figure:
    """Draw how often each class (row) was taken for each other (column).

    Args:
      matrix: counts, (k, k).
      title: title of the figure.
      class_names: name of each class; empty for numbers.
    """
    classes = len(matrix)
    names = [name_of(label, class_names) for label in range(classes)]
    room = max(width_of(name, 10) for name in names)
    size = max(3.5, min(0.5 * classes, MATRIX))
    figure = Figure(figsize=(size + room + 1, size + room + 1), layout="constrained")
    axis = figure.subplots()
    errors = matrix * (1 - np.eye(classes, dtype=matrix.dtype))
    # The diagonal would hide the errors, so it has no colour.
    axis.imshow(errors, cmap="Reds", vmin=0, vmax=max(1, errors.max()))
    if classes <= MOST_NUMBERED:
        _write_counts(axis, matrix, errors)
    empty = np.flatnonzero(matrix.sum(axis=1) == 0)
    for row in empty:
        axis.axhspan(row - 0.5, row + 0.5, color=EMPTY, lw=0)
        if classes <= MOST_NUMBERED:
            axis.text((classes - 1) / 2, row, NO_IMAGES, ha="center", va="center", fontsize=8)
    axis.set_ylabel(f"label (grey: {NO_IMAGES})" if empty.size else "label")
    axis.set_xlabel("predicted")
    axis.set_title(fitted(title, figure.get_figwidth() - 1.0, 11), fontsize=11, color=INK)
    upright = max(map(width_of, names, [10] * classes)) > size / classes - 0.05
    some = with_room(classes, size, 0.18)
    axis.set_xticks(range(classes)[some], labels=names[some], rotation=90 if upright else 0)
    axis.set_yticks(range(classes)[some], labels=names[some])
    return figure


def _write_counts(axis: Axes, matrix: np.ndarray, errors: np.ndarray) -> None:
    """Write the counts that are not zero into the cells."""
    for row, column in np.argwhere(matrix):
        dark = row != column and errors[row, column] > 0.6 * errors.max()
        axis.text(
            column,
            row,
            matrix[row, column],
            ha="center",
            va="center",
            fontsize=8,
            color="white" if dark else GOOD if row == column else INK,
        )
