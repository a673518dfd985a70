"""Figures of a sweep: the error of every point of its grid, with its seeds and its interval."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from capsjax.analysis.statistics import Point, Summary
from capsjax.plots.text import INK, fitted, height_of, plain, width_of, with_room

# Distinguishable without colour too: each line has its own marker.
COLORS = ("#2166ac", "#d6604d", "#1b7837", "#762a83", "#b8860b", "#444444")
MARKERS = ("o", "s", "^", "D", "v", "P")
PUBLISHED = "#777777"
# Levels that a figure of lines can have: as many lines as styles, and places along the axis.
MOST_LINES, MOST_PLACES = len(MARKERS), 20
# Inches that the rows of `dots` take at most, and labels beside them.
MOST_INCHES, SIZE = 24.0, 8
# Room for intervals on each side of the values, in multiples of the range of the values.
ROOM_OF_INTERVALS = 1.0


def suits_lines(factors: Mapping[str, Sequence[str]]) -> bool:
    """Return whether `lines` can draw a grid: two factors, and not too many levels.

    >>> suits_lines({"rounds": ("1", "3"), "decoder": ("no", "yes")})
    True
    """
    counts = sorted(map(len, factors.values()))
    return len(counts) == 2 and counts[0] <= MOST_LINES and counts[1] <= MOST_PLACES


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
    widest = max(width_of(each, 10) for each in positions) + 0.2  # inches
    figure = Figure(figsize=(_between(6.0, 1.3 * len(positions) + 2.5, 16.0), 4.6))
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
        name = fitted(f"{names[other]} = {level}", figure.get_figwidth() - 2.0, SIZE)
        axis.plot([], [], color=color, marker=marker, label=name)
    upright = widest > (figure.get_figwidth() - 1.0) / len(positions)
    labels = [fitted(each, 2.0, 10) if upright else plain(each) for each in positions]
    axis.set_xticks(range(len(positions)), labels=labels)
    axis.tick_params(axis="x", rotation=90 if upright else 0)
    axis.set_xlim(-0.5, len(positions) - 0.5)
    axis.set(xlabel=plain(names[along]), ylabel=label)
    axis.grid(axis="y", alpha=0.3)
    places = {
        (each, level) if along == 0 else (level, each): index + shift
        for index, each in enumerate(positions)
        for level, shift in zip(series, shifts, strict=True)
    }
    _limit(axis, places, errors, published)
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
    rows = min(0.32 * len(errors), MOST_INCHES)
    names = [", ".join(point) for point in errors]
    widest = min(max(width_of(name, SIZE) for name in names), 6.0)
    figure = Figure(figsize=(6.5 + widest, rows + 2.2))
    axis = _axes(figure, title)
    for row, (point, sample) in enumerate(errors.items()):
        _draw_sample(axis, float(row), 0.2, sample, COLORS[0], MARKERS[0], horizontal=True)
        if point in published:
            axis.plot(published[point], row, **_hollow(MARKERS[0], PUBLISHED))
    some = with_room(len(errors), rows, height_of("", SIZE))
    shown = [fitted(name, widest + 0.1, SIZE) for name in names[some]]
    axis.set_yticks(range(len(errors))[some], labels=shown, fontsize=SIZE)
    axis.set_ylim(len(errors) - 0.5, -0.5)
    axis.set_xlabel(label)
    axis.set_ylabel(fitted(", ".join(factors), rows + 0.5, 10), labelpad=8)
    axis.grid(alpha=0.3)
    places = {point: float(row) for row, point in enumerate(errors)}
    _limit(axis, places, errors, published, horizontal=True)
    axis.plot([], [], color=COLORS[0], marker=MARKERS[0], label=caption)
    _finish(axis, errors, published, "")
    return figure


def _between(low: float, value: float, high: float) -> float:
    return min(max(value, low), high)


def _axes(figure: Figure, title: str) -> Axes:
    figure.set_layout_engine("constrained", h_pad=0.08, w_pad=0.06)
    figure.suptitle(fitted(title, figure.get_figwidth() - 0.3, 11), color=INK, fontsize=11)
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


def _limit(
    axis: Axes,
    places: Mapping[Point, float],
    errors: Mapping[Point, Summary],
    published: Mapping[Point, float],
    horizontal: bool = False,
) -> None:
    """Limit the axis of errors to where the values are, with an arrow where an interval goes on.

    Two seeds have an interval of thirteen standard errors to either side, beside which nothing else
    would be visible. No error lies below zero, whatever an interval suggests.
    """
    values = [*published.values(), *(each for s in errors.values() for each in s.values)]
    limit = axis.set_xlim if horizontal else axis.set_ylim
    if not values:
        limit(0.0, 1.0)
        return
    intervals = {point: s.interval for point, s in errors.items() if s.interval is not None}
    ends = [end for interval in intervals.values() for end in interval]
    room = ROOM_OF_INTERVALS * (max(values) - min(values))
    low = max(min([*ends, *values]), min(values) - room, 0.0)
    high = min(max([*ends, *values]), max(values) + room)
    margin = 0.05 * (high - low) or 0.05 * high or 1e-3
    limits = max(low - margin, 0.0), high + margin
    limit(*limits)
    beyond = {
        point: interval
        for point, interval in intervals.items()
        if interval[1] > limits[1] or max(interval[0], 0.0) < limits[0]
    }
    below = [places[point] for point, interval in beyond.items() if interval[0] < limits[0]]
    above = [places[point] for point, interval in beyond.items() if interval[1] > limits[1]]
    if limits[0] == 0.0:
        below = []  # nothing is there
    markers = "<>" if horizontal else "v^"
    for found, end, marker in zip((below, above), limits, markers, strict=True):
        if not found:
            continue
        at = ([end] * len(found), found) if horizontal else (found, [end] * len(found))
        axis.plot(*at, marker, ms=5, color=INK, clip_on=False, zorder=5)
    if beyond:
        _note_intervals(axis.figure, errors, beyond)


def _note_intervals(
    figure: Figure,
    errors: Mapping[Point, Summary],
    beyond: Mapping[Point, tuple[float, float]],
) -> None:
    """Write below a figure what it cuts off, and why that is so wide."""
    widest = max(beyond, key=lambda point: beyond[point][1] - beyond[point][0])
    low, high = beyond[widest]
    count = sum(sample.half_width is not None for sample in errors.values())
    note = (
        f"Arrows: {len(beyond)} of {count} intervals go on beyond the frame. The widest is "
        f"{low:.3g} to {high:.3g}, with {len(errors[widest].values)} seeds; more seeds make it "
        "narrower."
    )
    width = figure.get_figwidth() - 0.4
    figure.supxlabel(fitted(note, width, SIZE), fontsize=SIZE, color=INK)


def _finish(
    axis: Axes, errors: Mapping[Point, Summary], published: Mapping[Point, float], caption: str
) -> None:
    if published:
        axis.plot([], [], label="paper", **_hollow("o", PUBLISHED))
    if all(sample.mean is None for sample in errors.values()):
        axis.text(0.5, 0.5, "no result yet", transform=axis.transAxes, ha="center", color=INK)
    labels = axis.get_legend_handles_labels()[1]
    column = max(width_of(each, SIZE) for each in labels) + 0.6  # inches
    # Above the axes, where it covers no point.
    axis.legend(
        frameon=False,
        fontsize=SIZE,
        ncols=max(1, int((axis.figure.get_figwidth() - 1.0) / column)),
        columnspacing=1.2,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        title=fitted(caption, axis.figure.get_figwidth() - 1.5, SIZE),
        title_fontsize=SIZE,
        alignment="left",
    )
