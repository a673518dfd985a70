"""What the figures show: panels, and numbers at their axes."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

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


def drawn(figure):
    """The figure as it is saved, with its renderer."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def cut_off(figure):
    """Inches by which what is drawn reaches beyond each edge of the figure, where it does."""
    box = figure.get_tightbbox(drawn(figure))
    width, height = figure.get_size_inches()
    beyond = {"left": -box.x0, "right": box.x1 - width, "bottom": -box.y0, "top": box.y1 - height}
    return {edge: inches for edge, inches in beyond.items() if inches > 0.01}


def overlapping(labels, renderer):
    """Whether neighbouring tick labels cover each other."""
    boxes = [each.get_window_extent(renderer) for each in labels if each.get_text()]
    return any(a.overlaps(b) for a, b in itertools.pairwise(boxes))


def numbered(count):
    """Images, labels, predictions and scores of so many."""
    labels = np.arange(count) % 10
    return np.zeros((count, 8, 8, 1)), labels, (labels + 1) % 10, np.full((count, 10), 0.5)


LONG = (
    "A rather long title, as that of a run whose name is mnist-paper-small-with-more: digits (test)"
)


def draw_mistakes(count):
    images, labels, predictions, scores = numbered(count)
    return figures.mistakes(images, images, labels, predictions, scores, f"{LONG}\n(taken for, is)")


def draw_reconstructions(count):
    images, labels, predictions, _ = numbered(count)
    return figures.reconstructions(
        images, images, labels, predictions, LONG, ["a very long name"] * 10
    )


def draw_maps(count):
    classes = np.ones((count, 8, 8), int)
    return figures.maps(
        np.zeros((count, 8, 8, 1)), classes, classes, None, np.full(count, 0.5), LONG
    )


def draw_pose_study(count):
    offsets = np.linspace(-0.25, 0.25, max(count, 2))
    return figures.pose_study(np.zeros((count, len(offsets), 4, 4, 1)), offsets, 0, LONG)


def draw_pose_overview(count):
    decoded = np.zeros((count, 2, 11, 4, 4, 1))
    offsets = np.linspace(-0.25, 0.25, 11)
    return figures.pose_overview(
        decoded, offsets, np.arange(count), LONG, ["a very long name"] * count
    )


def draw_couplings(count):
    images, labels, predictions, _ = numbered(count)
    return figures.couplings(images, np.full((count, 5, 10), 0.1), labels, predictions, LONG)


def draw_couplings_of_classes(count):
    labels = np.zeros(2, int)
    return figures.couplings(IMAGES, np.full((2, 5, count), 1 / count), labels, labels, LONG)


def draw_confusion_matrix(count):
    return figures.confusion_matrix(np.eye(count, dtype=int), LONG, ["a very long name"] * count)


def draw_curves(count):
    return training_curves([*records([0.5] * count, error=0.1, margin=0.2)], LONG)


DRAWINGS = [
    draw_mistakes,
    draw_reconstructions,
    draw_maps,
    draw_pose_study,
    draw_pose_overview,
    draw_couplings,
    draw_couplings_of_classes,
    draw_confusion_matrix,
    draw_curves,
]
# At numbers of items from one to many; but for these in make test-ci, as drawing takes its time.
FEW = [(draw_mistakes, 1), (draw_mistakes, 3), (draw_couplings, 1), (draw_confusion_matrix, 3)]
CASES = [
    pytest.param(draw, count, marks=() if (draw, count) in FEW else pytest.mark.ci)
    for draw in DRAWINGS
    for count in (1, 3, 10, 100)
]


@pytest.mark.ci
@pytest.mark.parametrize(("draw", "count"), CASES)
def test_nothing_is_cut_off_whatever_the_number_of_items(draw, count):
    figure = draw(count)
    assert cut_off(figure) == {}
    assert max(figure.get_size_inches()) < 60, "which no viewer shows"


@pytest.mark.ci
@pytest.mark.parametrize(
    "draw", [draw_confusion_matrix, draw_pose_overview, draw_couplings_of_classes]
)
def test_ticks_of_many_classes_have_room(draw):
    figure = draw(100)
    renderer = drawn(figure)
    for axis in figure.axes:
        if axis.axison:
            assert not overlapping(axis.get_yticklabels(), renderer)
            assert not overlapping(axis.get_xticklabels(), renderer)


def test_more_images_than_fit_beside_each_other_are_drawn_below():
    figure = draw_maps(14)
    rows = {round(axis.get_position().y0, 4) for axis in figure.axes}
    assert len(figure.axes) == 42
    assert len(rows) == 6, "twice images, labels and predictions"
    names = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert names == ["image", "labels", "predicted"] * 2


def test_each_row_of_couplings_has_a_scale_of_its_own_which_is_stated():
    c = np.full((2, 6, 4), 0.25)
    c[0, 0] = (0.97, 0.01, 0.01, 0.01)
    c[1, 0] = (0.28, 0.24, 0.24, 0.24)
    figure = figures.couplings(IMAGES, c, PAIR, PAIR, "title")
    pictures = [axis.images[0] for axis in figure.axes if axis.get_ylabel() == "class"]
    assert [each.norm.vmax for each in pictures] == pytest.approx([0.97, 0.28])
    # The largest coupling of each is as red, and an even one white.
    for picture, largest in zip(pictures, (0.97, 0.28), strict=True):
        assert picture.norm(largest) == 1.0
        assert picture.norm(0.25) == 0.5
    bars = [axis for axis in figure.axes if "colorbar" in axis.get_label()]
    stated = [[label.get_text() for label in bar.get_yticklabels()] for bar in bars]
    assert stated == [["0", "0.25", "0.97"], ["0", "0.25", "0.28"]]
    assert "each image has its own scale" in texts(figure)


@pytest.mark.slow
def test_of_many_images_couplings_show_the_first_and_tell_so():
    figure = draw_couplings(13)
    assert sum(axis.get_ylabel() == "class" for axis in figure.axes) == 12
    assert "(the first 12 of 13 images)" in figure.get_suptitle().replace("\n", " ")


def test_a_class_without_images_is_marked():
    matrix = np.array([[3, 0, 1], [0, 0, 0], [0, 2, 5]])
    axis = figures.confusion_matrix(matrix, "title").axes[0]
    marks = {text.get_text(): text.get_position() for text in axis.texts}
    assert marks["no images"] == (1.0, 1)
    assert axis.get_ylabel() == "label (grey: no images)"
    full = figures.confusion_matrix(matrix + np.eye(3, dtype=int), "title").axes[0]
    assert full.get_ylabel() == "label"
    # Among many classes there is no room for text, and the row is grey all the same.
    many = np.eye(40, dtype=int)
    many[7] = 0
    axis = figures.confusion_matrix(many, "title").axes[0]
    assert [patch.get_y() for patch in axis.patches] == [6.5]


def test_dollar_signs_are_no_formula():
    figure = figures.confusion_matrix(np.eye(2, dtype=int), "a$b$", ("$x_1$", "$\\bad$"))
    assert cut_off(figure) == {}
    shown = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert shown == [r"\$x_1\$", "\\$\\bad\\$"]
