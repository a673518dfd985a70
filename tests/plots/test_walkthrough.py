"""Figures of the notebooks: what they claim, and that they show what they are given."""

import numpy as np

from capsjax.plots import walkthrough


def test_pooling_cannot_tell_the_two_arrangements_apart():
    face, other = walkthrough.arrangements()
    assert (face != other).sum() == 10, "all five features have moved"
    np.testing.assert_array_equal(walkthrough.max_pool(face), walkthrough.max_pool(other))
    assert walkthrough.max_pool(face).sum() == 5


def test_max_pooling_takes_the_largest_of_each_window():
    image = np.arange(54.0).reshape(6, 9)
    assert walkthrough.max_pool(image).tolist() == [[20, 23, 26], [47, 50, 53]]


def test_the_first_picture_has_its_three_parts():
    titles = [axis.get_title() for axis in walkthrough.why_capsules().axes]
    assert [title.split(":")[0] for title in titles if ":" in title] == [
        "Viewpoint",
        "Overlap",
        "Pooling",
    ]


def test_a_house_is_turned_with_its_parts():
    upright, turned = walkthrough.why_capsules().axes[:2]
    angles = []
    for axis in (upright, turned):
        (walls, roof), (of_walls, of_roof) = axis.patches, axis.texts
        for patch, arrow in ((walls, of_walls), (roof, of_roof)):
            base = patch.get_xy()[1] - patch.get_xy()[0]
            along = np.subtract(arrow.xy, arrow.xyann)
            assert abs(base @ along) < 1e-6, "the arrow does not stand on its part"
        angles.append(np.rad2deg(np.arctan2(*base[::-1])))
    assert np.isclose(angles[0] - angles[1], 35)


def test_a_table_is_markdown():
    table = walkthrough.table(("what", "number"), ("a", 1), ("b", 2.5))
    assert table.data == "| what | number |\n| --- | ---: |\n| a | 1 |\n| b | 2.5 |"


def test_routing_is_drawn_with_its_couplings():
    votes = np.ones((6, 2, 2))
    c = np.linspace(0, 1, 12).reshape(6, 2)
    figure = walkthrough.votes_and_poses(votes, {1: (votes[0], np.array([0.5, 0.25]), c)})
    widths = [line.get_linewidth() for line in figure.axes[1].lines[::2]]
    np.testing.assert_allclose(widths, 4 * c[:, 1])
    assert [axis.get_title().split("= ")[1] for axis in figure.axes] == ["0.50", "0.25"]
    figure = walkthrough.routing_curves([1, 2], np.array([c[:, 0], c[:, 1]]), np.eye(2))
    assert [line.get_ydata().tolist() for line in figure.axes[1].lines] == [[1, 0], [0, 1]]
    np.testing.assert_array_equal(figure.axes[0].lines[3].get_ydata(), c[3])


def test_other_seeds_are_dotted_and_have_one_name():
    figure = walkthrough.accuracy_race({"a": [50.0], "b": [60.0], "a, seed 1": [40.0]}, ("a", "b"))
    (axis,) = figure.axes
    named = [line.get_label() for line in axis.lines if not line.get_label().startswith("_")]
    assert named == ["a", "b", "paper, other seeds"]


def test_bars_of_a_class_add_up():
    counts = {"training": {"cat": 7, "dog": 2}, "test": {"cat": 3, "dog": 1}}
    (axis,) = walkthrough.class_sizes(counts).axes
    assert [text.get_text() for text in axis.texts] == ["10", "3"]
    assert [bar.get_x() for bar in axis.containers[1]] == [7, 2]


def test_curves_are_what_is_given():
    x = np.linspace(0.01, 1, 5)
    figures = {
        "squash": walkthrough.squash_curve(x, x**2),
        "margin": walkthrough.margin_curves(x, 1 - x, x),
        "turned": walkthrough.turned_digits(x, 1 - x, x),
        "eps": walkthrough.eps_curves(x, 1 - x, x),
    }
    first = {name: figure.axes[0].lines[0].get_ydata() for name, figure in figures.items()}
    np.testing.assert_array_equal(first["squash"], x**2)
    for name in ("margin", "turned", "eps"):
        np.testing.assert_array_equal(first[name], 1 - x)
        assert len(figures[name].axes[0].get_legend().texts) >= 2


def test_images_stand_in_a_row_with_their_titles():
    figure = walkthrough.images_in_a_row(np.zeros((3, 8, 8)), "abc")
    assert [axis.get_title() for axis in figure.axes] == ["a", "b", "c"]
    assert len({round(axis.get_position().y0, 6) for axis in figure.axes}) == 1
