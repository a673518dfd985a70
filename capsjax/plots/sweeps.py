"""Figures of a sweep: the error of every point of its grid, with its seeds and its interval."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from capsjax.analysis.statistics import Point, Summary
from capsjax.plots.figures import INK

# Distinguishable without colour too: each line has its own marker.
COLORS = ("#2166ac", "#d6604d", "#1b7837", "#762a83", "#b8860b", "#444444")
MARKERS = ("o", "s", "^", "D", "v", "P")
PUBLISHED = "#777777"


def lines(
    factors: Mapping[str, Sequence[str]],
    errors: Mapping[Point, Summary],
    published: Mapping[Point, float],
    title: str,
    label: str,
    caption: str,
) -> Figure:
    """Draw two factors: the longer one along the axis, a line for each level of the other.

    Args:
      factors: levels by name of the factor, in the order of the points' levels.
      errors: errors by point.
      published: published errors by point.
      title: title of the figure.
      label: label of the errors, with their unit.
      caption: meaning of marker and bar.
    """
    names = list(factors)
    along, other = (1, 0) if len(factors[names[1]]) > len(factors[names[0]]) else (0, 1)
    positions, series = factors[names[along]], factors[names[other]]
    room = max(1.3, 0.09 * max(map(len, positions)) + 0.3)  # inches
    figure = Figure(figsize=(max(6.0, room * len(positions) + 2.5), 4.6), layout="constrained")
    axis = _axes(figure, title)
    # Lines are shifted sideways, so that their bars can be told apart.
    step = 0.5 / len(series)
    shifts = step * (np.arange(len(series)) - (len(series) - 1) / 2)
    styles = itertools.cycle(zip(COLORS, MARKERS, strict=True))
    for level, shift, (color, marker) in zip(series, shifts, styles, strict=False):
        points = [(each, level) if along == 0 else (level, each) for each in positions]
        x = np.arange(len(positions)) + shift
        samples = [errors[point] for point in points]
        means = [np.nan if sample.mean is None else sample.mean for sample in samples]
        axis.plot(x, means, color=color, lw=1, alpha=0.6, zorder=1)
        for place, sample, point in zip(x, samples, points, strict=True):
            _draw_sample(axis, place, min(0.06, 0.4 * step), sample, color, marker)
            if point in published:
                axis.plot(place, published[point], **_hollow(marker, color))
        axis.plot([], [], color=color, marker=marker, label=f"{names[other]} = {level}")
    axis.set_xticks(range(len(positions)), labels=positions)
    axis.set_xlim(-0.5, len(positions) - 0.5)
    axis.set(xlabel=names[along], ylabel=label)
    axis.grid(axis="y", alpha=0.3)
    _from_zero(axis.get_ylim, axis.set_ylim)
    _finish(axis, errors, published, caption)
    return figure


def dots(
    factors: Mapping[str, Sequence[str]],
    errors: Mapping[Point, Summary],
    published: Mapping[Point, float],
    title: str,
    label: str,
    caption: str,
) -> Figure:
    """Draw any number of factors: a row for each point, from top to bottom as in the grid.

    Args:
      factors: levels by name of the factor, in the order of the points' levels.
      errors: errors by point.
      published: published errors by point.
      title: title of the figure.
      label: label of the errors, with their unit.
      caption: meaning of marker and bar.
    """
    figure = Figure(figsize=(7.5, 0.32 * len(errors) + 1.9), layout="constrained")
    axis = _axes(figure, title)
    for row, (point, sample) in enumerate(errors.items()):
        _draw_sample(axis, float(row), 0.2, sample, COLORS[0], MARKERS[0], horizontal=True)
        if point in published:
            axis.plot(published[point], row, **_hollow(MARKERS[0], PUBLISHED))
    axis.set_yticks(range(len(errors)), labels=[", ".join(point) for point in errors])
    axis.set_ylim(len(errors) - 0.5, -0.5)
    axis.set(xlabel=label, ylabel=", ".join(factors))
    axis.grid(alpha=0.3)
    _from_zero(axis.get_xlim, axis.set_xlim)
    axis.plot([], [], color=COLORS[0], marker=MARKERS[0], label=caption)
    _finish(axis, errors, published, "")
    return figure


def _axes(figure: Figure, title: str) -> Axes:
    figure.suptitle(title, color=INK, fontsize=11)
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    return axis


def _draw_sample(
    axis: Axes,
    place: float,
    beside: float,
    sample: Summary,
    color: str,
    marker: str,
    horizontal: bool = False,
) -> None:
    """Draw the mean with its interval as a bar, and the values as small dots at one side of it.

    Args:
      axis: axes to draw into.
      place: position of the mean on the axis of the levels.
      beside: distance of the values from there, so that the bar hides none.
      sample: the values and their mean.
      color, marker: color and marker of the mean.
      horizontal: whether the errors are on the x axis.
    """
    if sample.mean is None:
        return
    n = len(sample.values)
    # The same jitter every time, in the order of the seeds: equal values stay apart.
    places = place + beside * (1.0 + 0.6 * (np.arange(n) - (n - 1) / 2) / n)
    style = {"fmt": marker, "ms": 6, "color": color, "capsize": 3, "elinewidth": 1.4}
    if horizontal:
        axis.errorbar(sample.mean, place, xerr=sample.half_width, **style)
        axis.plot(sample.values, places, ".", ms=7, mew=0, color=color, alpha=0.6)
    else:
        axis.errorbar(place, sample.mean, yerr=sample.half_width, **style)
        axis.plot(places, sample.values, ".", ms=7, mew=0, color=color, alpha=0.6)


def _hollow(marker: str, color: str) -> dict:
    return {
        "marker": marker,
        "ms": 8,
        "ls": "none",
        "markerfacecolor": "white",
        "markeredgecolor": color,
        "zorder": 4,
    }


def _from_zero(get_limits, set_limits) -> None:
    """Cut the axis off at zero: no error lies below, whatever an interval suggests."""
    low, high = get_limits()
    set_limits(max(low, 0.0), max(high, 1e-3))


def _finish(
    axis: Axes, errors: Mapping[Point, Summary], published: Mapping[Point, float], caption: str
) -> None:
    if published:
        axis.plot([], [], label="paper", **_hollow("o", PUBLISHED))
    if all(sample.mean is None for sample in errors.values()):
        axis.text(0.5, 0.5, "no result yet", transform=axis.transAxes, ha="center", color=INK)
    labels = axis.get_legend_handles_labels()[1]
    column = 0.065 * max(map(len, labels)) + 0.6  # inches
    # Above the axes, where it covers no point.
    axis.legend(
        frameon=False,
        fontsize=8,
        ncols=max(1, int((axis.figure.get_figwidth() - 1.0) / column)),
        columnspacing=1.2,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        title=caption,
        title_fontsize=8,
        alignment="left",
    )
