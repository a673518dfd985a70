"""Figures: arrays in, a matplotlib figure out. No files, no models."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from capsjax.plots.drawing import INK, grid, mosaic, name_of, row_name, show

GOOD, BAD = "#1b7837", "#b2182b"


def reconstructions(
    images: np.ndarray,
    reconstructed: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    title: str,
    class_names: Sequence[str] = (),
) -> Figure:
    """Draw images with their labels above their reconstructions with the predictions.

    Args:
      images, reconstructed: (n, h, w, c) in [0, 1].
      labels, predictions: (n,).
      title: title of the figure.
      class_names: name of each class; empty for numbers.
    """
    count = len(images)
    figure, axes = grid(2, count, title, cell=0.95, left=0.8)
    for column in range(count):
        right = labels[column] == predictions[column]
        show(axes[0, column], images[column], name_of(labels[column], class_names))
        show(axes[1, column], reconstructed[column], name_of(predictions[column], class_names))
        axes[1, column].title.set_color(GOOD if right else BAD)
    row_name(axes[0, 0], "image\nand label")
    row_name(axes[1, 0], "decoded,\npredicted")
    return figure


def pose_study(
    decoded: np.ndarray,
    offsets: np.ndarray,
    label: int,
    title: str,
    class_names: Sequence[str] = (),
) -> Figure:
    """Draw the images decoded as each dimension of one pose moves in steps.

    Args:
      decoded: (dimensions, steps, h, w, c) in [0, 1].
      offsets: offset added to the dimension in each step, (steps,).
      label: class of the capsule.
      title: title of the figure.
      class_names: name of each class; empty for numbers.
    """
    names = [f"dim {dimension}" for dimension in range(len(decoded))]
    shown = name_of(label, class_names)
    return mosaic(decoded, names, offsets, f"{title}: class {shown}", cell=0.5)


def pose_overview(
    decoded: np.ndarray,
    offsets: np.ndarray,
    labels: np.ndarray,
    title: str,
    class_names: Sequence[str] = (),
) -> Figure:
    """Draw the pose study of every class at a glance: the dimension that changes its image most.

    Args:
      decoded: (classes, dimensions, steps, h, w, c) in [0, 1].
      offsets: (steps,).
      labels: (classes,).
      title: title of the figure.
      class_names: name of each class; empty for numbers.
    """
    change = np.square(np.diff(decoded, axis=2)).sum(axis=(2, 3, 4, 5))
    strongest = change.argmax(axis=1)
    shown = [name_of(label, class_names) for label in labels]
    kind = "" if class_names else "class "
    names = [f"{kind}{name}, dim {dim}" for name, dim in zip(shown, strongest, strict=True)]
    return mosaic(decoded[np.arange(len(labels)), strongest], names, offsets, title, cell=0.6)


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
        "dice": "Dice coefficient",
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
    cell = 1.1 if class_names else 0.85
    figure = Figure(figsize=(9, cell * count + 1.2), layout="constrained")
    figure.suptitle(title, color=INK)
    columns = figure.subplots(count, 2, width_ratios=(1, 9), squeeze=False)
    # Even coupling is white, more is red and less is blue.
    even = 1 / upper
    norm = TwoSlopeNorm(even, vmin=0, vmax=max(float(c.max()), 1.01 * even))
    for row in range(count):
        label, predicted = (name_of(each[row], class_names) for each in (labels, predictions))
        between = "\n" if class_names else " "  # a line each for names
        show(columns[row, 0], images[row], f"{label},{between}predicted{between}{predicted}")
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
        shown = [name_of(label, class_names) for label in range(upper)]
        axis.set_yticks(range(upper), labels=shown, fontsize=6)
        axis.set_ylabel("class", fontsize=8)
        axis.set_xticks([])
    columns[-1, 1].set_xlabel(
        f"{lower} lower capsules, sorted by their coupling to the predicted class"
    )
    figure.colorbar(picture, ax=columns[:, 1], label=f"coupling (even: {even:.2f})", pad=0.01)
    return figure


def confusion_matrix(matrix: np.ndarray, title: str, class_names: Sequence[str] = ()) -> Figure:
    """Draw how often each class (row) was taken for each other (column).

    Args:
      matrix: counts, (k, k).
      title: title of the figure.
      class_names: name of each class; empty for numbers.
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
    names = [name_of(label, class_names) for label in range(classes)]
    axis.set_xticks(range(classes), labels=names, rotation=90 if class_names else 0)
    axis.set_yticks(range(classes), labels=names)
    return figure


def mistakes(
    images: np.ndarray,
    reconstructed: np.ndarray | None,
    labels: np.ndarray,
    predictions: np.ndarray,
    scores: np.ndarray,
    title: str,
    class_names: Sequence[str] = (),
) -> Figure:
    """Draw images that were taken for another class, and their reconstructions.

    Args:
      images: (n, h, w, c) in [0, 1].
      reconstructed: likewise, from the predicted class; None without a decoder.
      labels, predictions: (n,).
      scores: scores of the classes, (n, k).
      title: title of the figure.
      class_names: name of each class; empty for numbers.
    """
    count = len(images)
    if count == 0:
        figure = Figure(figsize=(5, 1.5))
        figure.suptitle(title, color=INK)
        figure.text(0.5, 0.35, "no mistakes", ha="center", color=GOOD)
        return figure
    figure, axes = grid(1 if reconstructed is None else 2, count, title, cell=1.05, left=0.8)
    for column in range(count):
        label, predicted = labels[column], predictions[column]
        both = f"{scores[column, predicted]:.2f} / {scores[column, label]:.2f}"
        taken_for, true = name_of(predicted, class_names), name_of(label, class_names)
        between = "\n" if class_names else " "  # a line each for names
        show(axes[0, column], images[column], f"{taken_for},{between}is {true}\n{both}")
        if reconstructed is not None:
            show(axes[1, column], reconstructed[column])
    row_name(axes[0, 0], "image")
    if reconstructed is not None:
        row_name(axes[1, 0], "decoded")
    return figure


def maps(
    images: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    reconstructed: np.ndarray | None,
    dice: np.ndarray,
    title: str,
) -> Figure:
    """Draw images above their maps of labels, the predicted maps, and what was decoded.

    Args:
      images: (n, h, w, c) in [0, 1].
      labels, predictions: classes from 0, the background, (n, h, w).
      reconstructed: like the images; None without a decoder.
      dice: Dice coefficient of each prediction, (n,).
      title: title of the figure.
    """
    count, decoded = len(images), reconstructed is not None
    figure, axes = grid(3 + decoded, count, title, cell=1.2, left=0.8)
    for column in range(count):
        show(axes[0, column], images[column])
        show(axes[1, column], _coloured(labels[column]))
        show(axes[2, column], _coloured(predictions[column]), f"Dice {dice[column]:.2f}")
        if decoded:
            show(axes[3, column], reconstructed[column])
    for row, name in enumerate(["image", "labels", "predicted", "decoded"][: 3 + decoded]):
        row_name(axes[row, 0], name)
    return figure


def _coloured(classes: np.ndarray) -> np.ndarray:
    """Return the pixels of a map (h, w) in colours (h, w, 3), the background in light grey."""
    colours = matplotlib.colormaps["tab10"].colors
    others = np.array(colours)[(classes - 1) % len(colours)]
    return np.where(classes[..., None] == 0, 0.93, others)
