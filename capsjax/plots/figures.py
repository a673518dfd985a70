"""Figures: arrays in, a matplotlib figure out. No files, no models."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from capsjax.plots.drawing import grid, mosaic, show
from capsjax.plots.matrices import confusion_matrix, couplings
from capsjax.plots.text import BAD, GOOD, INK, fitted, name_of

__all__ = [
    "INK",
    "confusion_matrix",
    "couplings",
    "maps",
    "mistakes",
    "pose_overview",
    "pose_study",
    "reconstructions",
    "training_curves",
]


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
    rows = ("image\nand label", "decoded,\npredicted")
    figure, axes = grid(rows, (1, 1), count, title, cell=0.95)
    for column in range(count):
        right = labels[column] == predictions[column]
        show(axes[0, column], images[column], name_of(labels[column], class_names))
        show(axes[1, column], reconstructed[column], name_of(predictions[column], class_names))
        axes[1, column].title.set_color(GOOD if right else BAD)
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
    figure.suptitle(fitted(title, 9.5, 12), color=INK)
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
        if len({epoch for line in axis.get_lines() for epoch in line.get_xdata()}) == 1:
            axis.set_xticks(axis.get_lines()[0].get_xdata())
        drawn = [value for line in axis.get_lines() for value in line.get_ydata()]
        if drawn and min(drawn) > 0:
            axis.set_yscale("log")
            # Over many decades there is room only for powers of ten.
            wide = max(drawn) > 1e4 * min(drawn)
            axis.yaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
            low, high = axis.get_ylim()
            if sum(low <= tick <= high for tick in axis.get_yticks()) < 2:
                axis.yaxis.set_major_locator(MaxNLocator(5))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3, which="both")
        axis.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False)
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
        figure.suptitle(fitted(title, 4.7, 10), color=INK, fontsize=10)
        figure.text(0.5, 0.1, "no mistakes", ha="center", color=GOOD)
        return figure
    decoded = reconstructed is not None
    rows, lines = ("image", "decoded")[: 1 + decoded], (3 if class_names else 2, 0)[: 1 + decoded]
    figure, axes = grid(rows, lines, count, title, cell=1.05)
    for column in range(count):
        label, predicted = labels[column], predictions[column]
        both = f"{scores[column, predicted]:.2f} / {scores[column, label]:.2f}"
        taken_for, true = name_of(predicted, class_names), name_of(label, class_names)
        between = "\n" if class_names else " "  # a line each for names
        show(axes[0, column], images[column], f"{taken_for},{between}is {true}\n{both}")
        if decoded:
            show(axes[1, column], reconstructed[column])
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
    rows = ("image", "labels", "predicted", "decoded")[: 3 + decoded]
    figure, axes = grid(rows, (0, 0, 1, 0)[: 3 + decoded], count, title, cell=1.2)
    for column in range(count):
        show(axes[0, column], images[column])
        show(axes[1, column], _coloured(labels[column]))
        show(axes[2, column], _coloured(predictions[column]), f"Dice {dice[column]:.2f}")
        if decoded:
            show(axes[3, column], reconstructed[column])
    return figure


def _coloured(classes: np.ndarray) -> np.ndarray:
    """Return the pixels of a map (h, w) in colours (h, w, 3), the background in light grey."""
    colours = matplotlib.colormaps["tab10"].colors
    others = np.array(colours)[(classes - 1) % len(colours)]
    return np.where(classes[..., None] == 0, 0.93, others)
