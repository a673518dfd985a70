"""Pictures of pixels: where each image, each count and each name lies."""

import numpy as np
import pytest

from capsjax.plots import tiles

G = tiles.GAP


def test_images_stand_over_each_other_as_they_are():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 28, 14, 3), np.uint8)
    below = images / 255.0
    picture = tiles.stacked([images, 1 - below])
    assert picture.shape == (2 * (84 + G), 3 * (42 + G) + G, 3)
    first = picture[:84, G : G + 42][::3, ::3]
    np.testing.assert_array_equal(first, images[0])
    last = picture[84 + G : -G, -G - 42 : -G][::3, ::3]
    np.testing.assert_array_equal(last, 255 - images[2])
    assert (picture[84 : 84 + G] == 255).all()


def test_a_large_image_is_made_smaller():
    assert tiles.stacked([np.zeros((1, 512, 256, 3))]).shape == (128 + G, 64 + 2 * G, 3)


def test_channels_that_are_no_colours_are_drawn_as_their_mean():
    images = np.stack([np.zeros((1, 84, 84)), np.ones((1, 84, 84))], axis=-1)
    picture = tiles.stacked([images])
    assert (picture[:84, G:-G] == 127).all()
    assert (tiles.stacked([np.full((1, 84, 84, 1), np.nan)])[:84, G:-G] == 0).all()


def test_a_caption_stands_over_its_image_and_no_other():
    images = np.zeros((2, 84, 84, 1))
    plain, picture = tiles.stacked([images]), tiles.stacked([images], ["", "a long name " * 9])
    np.testing.assert_array_equal(picture[tiles.CAPTION :], plain)
    above = picture[: tiles.CAPTION]
    assert (above[:, : 90 + G] == 255).all()
    assert (above[:, 90 + G :] < 255).any()


def test_a_caption_without_room_is_left_out():
    picture = tiles.stacked([np.zeros((1, 168, 2, 1))], ["a long name"])
    assert (picture[: tiles.CAPTION] == 255).all()


def test_shades_of_a_confusion_matrix_are_shares_of_its_rows():
    matrix = np.zeros((30, 30), int)  # too many for numbers
    matrix[0, 0], matrix[1, 1], matrix[1, 2] = 4, 3, 1
    cells = tiles.confusion(matrix)[::20, ::20].astype(int)
    assert cells.shape == (30, 30, 3)
    assert tuple(cells[0, 0]) == tiles.RIGHT
    np.testing.assert_allclose(cells[1, 2], 255 + 0.5 * (np.array(tiles.WRONG) - 255), atol=1)
    assert (cells[2:] == 255).all(), "classes without images"
    assert (cells[0, 1:] == 255).all()


@pytest.mark.parametrize(("count", "side"), [(21, 588), (100, 600), (1000, 1000)])
def test_a_matrix_of_many_classes_is_no_larger_than_a_screen(count, side):
    assert tiles.confusion(np.eye(count, dtype=int)).shape == (side, side, 3)


@pytest.mark.parametrize("names", [(), ("cat", "a very\nlong-legged bird of the marshes", "Ärger")])
def test_counts_and_names_are_written(names):
    picture = tiles.confusion(np.diag([1, 2, 3]), names)
    left = picture.shape[1] - G - 3 * tiles.CELL
    assert (left > 60) == bool(names)
    for place in range(3):
        rows = slice(left + place * tiles.CELL, left + (place + 1) * tiles.CELL)
        assert (picture[rows, : left - G] < 200).any(), "no name beside the row"
        assert (picture[: left - G, rows] < 200).any(), "no name above the column"
        assert (picture[rows, rows] != picture[left + place * tiles.CELL + 1, rows][1]).any()
