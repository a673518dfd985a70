"""What the figures show: panels, and numbers at their axes."""

import numpy as np
import pytest

from capsjax.plots.figures import training_curves


def records(losses, **more):
    return [
        {"split": "train", "epoch": epoch, "loss": loss, **more}
        for epoch, loss in enumerate(losses)
    ]


def labels_in_view(axis):
    low, high = axis.get_ylim()
    ticks = [tick for tick in axis.get_yticks() if low <= tick <= high]
    return axis.yaxis.get_major_formatter().format_ticks(ticks)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ((0.8, 0.015), ["0.02", "0.05", "0.1", "0.2", "0.5"]),
        ((0.39, 0.31), ["0.31", "0.32", "0.33", "0.34", "0.35", "0.36", "0.37", "0.38", "0.39"]),
        ((0.5, 3e-6), ["1e\N{MINUS SIGN}05", "0.0001", "0.001", "0.01", "0.1"]),
    ],
)
def test_a_loss_has_plain_numbers_on_its_logarithmic_axis(losses, expected):
    axis = training_curves(records(losses), "title").axes[0]
    assert axis.get_yscale() == "log"
    assert labels_in_view(axis) == expected


def test_an_error_of_zero_makes_the_axis_linear():
    figure = training_curves(records([0.5, 0.1], error=0.0), "title")
    assert [axis.get_yscale() for axis in figure.axes] == ["log", "linear"]


def test_there_are_as_many_panels_as_kinds_of_numbers():
    figure = training_curves(records([0.5, 0.1], margin=0.2, error=0.1), "title")
    assert [axis.get_ylabel() for axis in figure.axes] == ["loss", "margin loss", "error (%)"]
    assert np.allclose(figure.axes[2].get_lines()[0].get_ydata(), 10.0)


def test_a_record_without_a_number_is_left_out_of_its_panel():
    figure = training_curves([*records([0.5, 0.1]), *records([0.3], error=0.2)], "title")
    assert [len(axis.get_lines()[0].get_ydata()) for axis in figure.axes] == [3, 1]
