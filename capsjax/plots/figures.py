"""Figures: arrays in, a matplotlib figure out. No files, no models."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

INK = "#222222"
GOOD, BAD = "#1b7837", "#b2182b"


def reconstructions(
    images: np.ndarray,
    reconstructed: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    title: str,
) -> Figure:
    """Draw images with their labels above their reconstructions with the predictions.

    Args:
      images, reconstructed: (n, h, w, c) in [0, 1].
      labels, predictions: (n,).
      title: title of the figure.
    """
    count = len(images)
    figure, axes = _grid(2, count, title, cell=0.95, left=0.8)
    for column in range(count):
        right = labels[column] == predictions[column]
        _show(axes[0, column], images[column], f"{labels[column]}")
        _show(axes[1, column], reconstructed[column], f"{predictions[column]}")
        axes[1, column].title.set_color(GOOD if right else BAD)
    _row_name(axes[0, 0], "image\nand label")
    _row_name(axes[1, 0], "decoded,\npredicted")
    return figure


def pose_study(decoded: np.ndarray, offsets: np.ndarray, label: int, title: str) -> Figure:
    """Draw the images decoded as each dimension of one pose moves in steps.

    Args:
      decoded: (dimensions, steps, h, w, c) in [0, 1].
      offsets: offset added to the dimension in each step, (steps,).
      label: class of the capsule.
      title: title of the figure.
    """
    names = [f"dim {dimension}" for dimension in range(len(decoded))]
    return _mosaic(decoded, names, offsets, f"{title}: class {label}", cell=0.5)


def pose_overview(
    decoded: np.ndarray, offsets: np.ndarray, labels: np.ndarray, title: str
) -> Figure:
    """Draw the pose study of every class at a glance: the dimension that changes its image most.

    Args:
      decoded: (classes, dimensions, steps, h, w, c) in [0, 1].
      offsets: (steps,).
      labels: (classes,).
      title: title of the figure.
    """
    change = np.square(np.diff(decoded, axis=2)).sum(axis=(2, 3, 4, 5))
    strongest = change.argmax(axis=1)
    names = [f"class {label}, dim {dim}" for label, dim in zip(labels, strongest, strict=True)]
    return _mosaic(decoded[np.arange(len(labels)), strongest], names, offsets, title, cell=0.6)


def training_curves(records: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Draw loss, its parts and the error over epochs, for training and validation.

    Args:
      records: lines of metrics.jsonl.
      title: title of the figure.
    """
    panels = {
        "loss": "loss",
        "margin": "margin loss",
        "reconstruction": "reconstruction loss (unweighted)",
        "error": "error (%)",
    }
    shown = {name: panels[name] for name in panels if any(name in each for each in records)}
    rows = -(-len(shown) // 2)
    figure = Figure(figsize=(10, 3.2 * rows), layout="constrained")
    figure.suptitle(title, color=INK)
    for place, (name, label) in enumerate(shown.items(), start=1):
        axis = figure.add_subplot(rows, 2, place)
        scale = 100.0 if name == "error" else 1.0
        for split, color in (("train", "#2166ac"), ("validation", "#d6604d")):
            points = [
                (each["epoch"], each[name])
                for each in records
                if each["split"] == split and name in each
            ]
            if points:
                epochs, values = np.array(points).T
                axis.plot(epochs, scale * values, color=color, label=split, marker=".", ms=4)
        axis.set_ylabel(label)
        axis.set_xlabel("epoch")
        drawn = [value for line in axis.get_lines() for value in line.get_ydata()]
        if drawn and min(drawn) > 0:
            axis.set_yscale("log")
            # Over many decades there is room only for powers of ten.
            wide = max(drawn) > 1e4 * min(drawn)
            axis.yaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3, which="both")
        axis.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False)
    return figure


def couplings(
    images: np.ndarray, c: np.ndarray, labels: np.ndarray, predictions: np.ndarray, title: str
) -> Figure:
    """Draw where each upper capsule gets its votes from: its coupling coefficients.

    Args:
      images: (n, h, w, c) in [0, 1].
      c: coupling coefficients (n, i, j).
      labels, predictions: (n,).
      title: title of the figure.
    """
    count, lower, upper = c.shape
    figure = Figure(figsize=(9, 0.85 * count + 1.2), layout="constrained")
    figure.suptitle(title, color=INK)
    columns = figure.subplots(count, 2, width_ratios=(1, 9), squeeze=False)
    # Even coupling is white, more is red and less is blue.
    even = 1 / upper
    norm = TwoSlopeNorm(even, vmin=0, vmax=max(float(c.max()), 1.01 * even))
    for row in range(count):
        _show(columns[row, 0], images[row], f"{labels[row]}, predicted {predictions[row]}")
        columns[row, 0].title.set_color(GOOD if labels[row] == predictions[row] else BAD)
        axis = columns[row, 1]
        # Lower capsules in the order of their coupling to the predicted class: a profile that is
        # readable whatever their number.
        order = np.argsort(-c[row, :, predictions[row]], kind="stable")
        picture = axis.imshow(
            c[row, order].T,
            aspect="auto",
            cmap="RdBu_r",
            norm=norm,
            interpolation="nearest",
        )
        axis.set_yticks(range(upper), labels=range(upper), fontsize=6)
        axis.set_ylabel("class", fontsize=8)
        axis.set_xticks([])
    columns[-1, 1].set_xlabel(
        f"{lower} lower capsules, sorted by their coupling to the predicted class"
    )
    figure.colorbar(picture, ax=columns[:, 1], label=f"coupling (even: {even:.2f})", pad=0.01)
    return figure


def confusion_matrix(matrix: np.ndarray, title: str) -> Figure:
    """Draw how often each class (row) was taken for each other (column).

    Args:
      matrix: counts, (k, k).
      title: title of the figure.
    """
    classes = len(matrix)
    size = max(4.5, 0.5 * classes)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axis = figure.subplots()
    errors = matrix * (1 - np.eye(classes, dtype=matrix.dtype))
    # The diagonal would hide the errors, so it has no colour.
    axis.imshow(errors, cmap="Reds", vmin=0, vmax=max(1, errors.max()))
    if classes <= 20:
        for row in range(classes):
            for column in range(classes):
                if matrix[row, column]:
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
    axis.set(xlabel="predicted", ylabel="label", title=title)
    axis.set_xticks(range(classes))
    axis.set_yticks(range(classes))
    return figure


def mistakes(
    images: np.ndarray,
    reconstructed: np.ndarray | None,
    labels: np.ndarray,
    predictions: np.ndarray,
    scores: np.ndarray,
    title: str,
) -> Figure:
    """Draw images that were taken for another class, and their reconstructions.

    Args:
      images: (n, h, w, c) in [0, 1].
      reconstructed: likewise, from the predicted class; None without a decoder.
      labels, predictions: (n,).
      scores: scores of the classes, (n, k).
      title: title of the figure.
    """
    count = len(images)
    if count == 0:
        figure = Figure(figsize=(5, 1.5))
        figure.suptitle(title, color=INK)
        figure.text(0.5, 0.35, "no mistakes", ha="center", color=GOOD)
        return figure
    figure, axes = _grid(1 if reconstructed is None else 2, count, title, cell=1.05, left=0.8)
    for column in range(count):
        label, predicted = labels[column], predictions[column]
        both = f"{scores[column, predicted]:.2f} / {scores[column, label]:.2f}"
        _show(axes[0, column], images[column], f"{predicted}, is {label}\n{both}")
        if reconstructed is not None:
            _show(axes[1, column], reconstructed[column])
    _row_name(axes[0, 0], "image")
    if reconstructed is not None:
        _row_name(axes[1, 0], "decoded")
    return figure


def _mosaic(
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
    _show(axis, sheet)
    axis.set_axis_on()
    axis.set_frame_on(False)
    axis.tick_params(length=0, labelsize=8, labelcolor=INK)
    axis.xaxis.tick_top()
    axis.set_yticks((np.arange(rows) + 0.5) * (h + gap) + gap / 2, labels=row_names)
    axis.set_xticks(
        (np.arange(columns) + 0.5) * (w + gap) + gap / 2, labels=[f"{x:+.2f}" for x in offsets]
    )
    return figure


def _grid(rows: int, columns: int, title: str, cell: float, left: float):
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


def _show(axis, image: np.ndarray, title: str = "") -> None:
    image = np.clip(image, 0.0, 1.0)
    # One channel is drawn as ink on paper; three are colours.
    if image.shape[-1] == 3:
        axis.imshow(image)
    else:
        axis.imshow(image.mean(axis=-1), cmap=matplotlib.colormaps["gray_r"], vmin=0, vmax=1)
    axis.set_axis_off()
    if title:
        axis.set_title(title, fontsize=8, color=INK, pad=2)


def _row_name(axis, name: str) -> None:
    axis.text(
        -0.15, 0.5, name, transform=axis.transAxes, ha="right", va="center", fontsize=8, color=INK
    )
