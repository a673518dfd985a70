"""What the figures show: panels, and numbers at their axes."""

import numpy as np
import pytest

from capsjax.plots import figures
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


NAMES = ("cat", "dog", "a very long-legged bird")
IMAGES, PAIR, ONES = np.zeros((2, 4, 4, 1)), np.arange(2), np.ones(2, int)


def texts(figure):
    drawn = [figure.get_suptitle()]
    for axis in figure.axes:
        ticks = [*axis.get_xticklabels(), *axis.get_yticklabels()] if axis.axison else []
        drawn += [axis.get_title(), axis.get_xlabel(), *(tick.get_text() for tick in ticks)]
    return "|".join(drawn)


@pytest.mark.parametrize(
    ("draw", "named", "numbered"),
    [
        (
            lambda names: figures.confusion_matrix(np.eye(3, dtype=int), "title", names),
            "|cat|dog|a very long…|cat|dog|a very long…",
            "|0|1|2|0|1|2",
        ),
        (
            lambda names: figures.mistakes(
                IMAGES, None, PAIR, PAIR + 1, np.full((2, 3), 0.5), "title", names
            ),
            "dog,\nis cat\n0.50 / 0.50",
            "1, is 0\n0.50 / 0.50",
        ),
        (
            lambda names: figures.reconstructions(IMAGES, IMAGES, PAIR, ONES, "title", names),
            "cat||dog||dog||dog",
            "0||1||1||1",
        ),
        (
            lambda names: figures.couplings(
                IMAGES, np.full((2, 5, 3), 0.3), PAIR, ONES, "title", names
            ),
            "cat,\npredicted\ndog|",
            "0, predicted 1|",
        ),
        (
            lambda names: figures.pose_overview(
                np.zeros((2, 2, 3, 4, 4, 1)), np.arange(3), PAIR, "title", names
            ),
            "cat, dim 0|dog, dim 0",
            "class 0, dim 0|class 1, dim 0",
        ),
        (
            lambda names: figures.pose_study(
                np.zeros((2, 3, 4, 4, 1)), np.arange(3), 1, "title", names
            ),
            "title: class dog",
            "title: class 1",
        ),
    ],
)
def test_classes_are_shown_by_name_where_they_have_names(draw, named, numbered):
    assert named in texts(draw(NAMES))
    assert numbered in texts(draw(()))
