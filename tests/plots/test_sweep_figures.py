"""Figures of sweeps: what is in the frame, what is told of the rest, and how many levels fit."""

import numpy as np
import pytest

from capsjax.analysis.statistics import grid, summarize
from capsjax.plots import sweeps
from tests.plots.test_figures import cut_off

CAPTION = "mean with its 95 % interval; small dots: single seeds"


def draw(factors, samples, published=()):
    errors = dict(zip(grid(factors), map(summarize, samples), strict=True))
    plot = sweeps.lines if sweeps.suits_lines(factors) else sweeps.dots
    return plot(factors, errors, dict(published), "a_sweep", "test error, %", CAPTION)


def arrows(axis):
    """Positions along the axis of errors of the arrows."""
    marked = {"^": 1, "v": 1, "<": 0, ">": 0}
    return [
        float(line.get_data()[marked[line.get_marker()]][k])
        for line in axis.lines
        if line.get_marker() in marked and not line.get_clip_on()
        for k in range(len(line.get_xdata()))
    ]


@pytest.mark.parametrize("factors", [{"rounds": ("1", "3")}, {"a": ("1", "3"), "b": ("x",)}])
def test_intervals_of_two_seeds_leave_the_values_visible_and_are_told(factors):
    # Half widths of 12.7 * 0.1 / 2 and 12.7 * 0.01 / 2 around values in 1.0 to 1.3.
    figure = draw(factors, [(1.0, 1.1), (1.29, 1.3)])
    axis = figure.axes[0]
    low, high = axis.get_ylim() if len(factors) == 2 else axis.get_xlim()
    assert 0.6 < low < 1.0
    assert 1.3 < high < 1.7
    assert sorted(arrows(axis)) == pytest.approx([low, high])
    note = figure.get_supxlabel().replace("\n", " ")
    assert note.startswith(
        "Arrows: 1 of 2 intervals go on beyond the frame. The widest is 0.415 to"
    )
    assert "with 2 seeds" in note


def test_intervals_that_fit_are_whole_and_need_no_note():
    figure = draw({"rounds": ("1", "3")}, [(1.0, 1.1, 1.2, 1.1), (1.5, 1.6, 1.5, 1.6)])
    low, high = figure.axes[0].get_xlim()
    assert low < summarize((1.0, 1.1, 1.2, 1.1)).interval[0]
    assert high > summarize((1.5, 1.6, 1.5, 1.6)).interval[1]
    assert arrows(figure.axes[0]) == []
    assert figure.get_supxlabel() == ""


def test_an_interval_below_zero_has_no_arrow_there():
    figure = draw({"rounds": ("1", "3")}, [(0.1, 0.2), (0.1, 0.11)])
    low, high = figure.axes[0].get_xlim()
    assert low == 0.0
    assert arrows(figure.axes[0]) == pytest.approx([high])


@pytest.mark.parametrize("samples", [[(), ()], [(1.0,), ()], [(0.0, 0.0), (0.0, 0.0)]])
def test_few_or_equal_values_are_drawn(samples):
    figure = draw({"rounds": ("1", "3")}, samples)
    low, high = figure.axes[0].get_xlim()
    assert 0.0 <= low < high
    assert cut_off(figure) == {}


def test_lines_have_a_style_each_and_many_levels_become_rows():
    assert sweeps.suits_lines({"a": "123456", "b": [str(k) for k in range(20)]})
    assert not sweeps.suits_lines({"a": "1234567", "b": "1234567"})
    assert not sweeps.suits_lines({"a": "12", "b": [str(k) for k in range(21)]})
    assert not sweeps.suits_lines({"a": "12"})


@pytest.mark.parametrize(
    "shape",
    [(3,), *(pytest.param(s, marks=pytest.mark.ci) for s in ((1,), (1, 2), (6, 10), (10, 10)))],
)
def test_nothing_is_cut_off_whatever_the_number_of_points(shape):
    factors = {
        f"a long name of factor {number}": tuple(f"a long level {k}" for k in range(size))
        for number, size in enumerate(shape)
    }
    random = np.random.default_rng(0)
    samples = [random.uniform(1, 2, 2) for _ in grid(factors)]
    figure = draw(factors, samples, {next(iter(grid(factors))): 1.5})
    assert cut_off(figure) == {}
    assert max(figure.get_size_inches()) < 60
