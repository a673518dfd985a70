"""Affine images: known maps, ink that stays in the frame, the same bytes for any number."""

import numpy as np
import pytest

from capsjax.data.affine import Ranges, warp, warp_randomly

STILL = Ranges(degrees=0.0, least_scale=1.0, most_scale=1.0, shear=0.0)


@pytest.fixture
def images():
    """A block of full ink away from the edges of 12x10 pixels, different in each image."""
    images = np.zeros((5, 12, 10, 1), np.uint8)
    for k, image in enumerate(images):
        image[3 : 6 + k % 3, 4:6] = 200
    return images


@pytest.mark.parametrize("size", [6, 7])
def test_a_quarter_turn_is_that_of_numpy(size):
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3)).astype(np.uint8)
    quarter = np.tile([[0.0, -1.0], [1.0, 0.0]], (2, 1, 1))
    turned = warp(images, quarter, np.zeros((2, 2)))
    np.testing.assert_array_equal(turned, np.rot90(images, axes=(1, 2)))


def test_a_scale_of_two_and_a_half_pixel_by_hand():
    image = np.array([[0, 100, 0, 0]], np.uint8)[None, :, :, None]
    moved = warp(image, np.eye(2)[None], np.array([[0.0, 0.5]]))
    assert moved[0, 0, :, 0].tolist() == [0, 50, 50, 0]
    # Columns -1.5 ... 1.5 come from half of that: -0.75, -0.25, 0.25, 0.75.
    wider = warp(image, np.diag([1.0, 2.0])[None], np.zeros((1, 2)))
    assert wider[0, 0, :, 0].tolist() == [75, 75, 25, 0]


def test_all_ink_stays_in_the_frame_and_moves(images):
    moved = warp_randomly(images, 0, STILL)
    # Interpolated, its sum stays but for rounding.
    sums = moved.sum(axis=(1, 2, 3), dtype=float)
    np.testing.assert_allclose(sums, images.sum(axis=(1, 2, 3), dtype=float), rtol=0.01)
    places = np.array([np.argwhere(image > 99)[:, :2].mean(axis=0) for image in moved])
    assert np.ptp(places, axis=0).min() > 1, "all went to one place"


def test_ink_that_does_not_fit_is_put_into_the_middle():
    full = np.full((1, 8, 8, 1), 255, np.uint8)
    larger = Ranges(degrees=0.0, least_scale=2.0, most_scale=2.0, shear=0.0)
    np.testing.assert_array_equal(warp_randomly(full, 3, larger), full)


def test_an_image_without_ink_stays_empty():
    assert not warp_randomly(np.zeros((1, 8, 8, 1), np.uint8), 0).any()


def test_an_image_depends_on_the_seed_and_its_position_alone(images, monkeypatch):
    whole = warp_randomly(images, 7)
    np.testing.assert_array_equal(warp_randomly(images[:2], 7), whole[:2])
    monkeypatch.setattr("capsjax.data.affine.AT_ONCE", 2)
    np.testing.assert_array_equal(warp_randomly(images, 7), whole)
    assert (warp_randomly(images, 8) != whole).any()


def test_ranges_are_those_that_are_asked_for(images):
    shrunk = warp_randomly(images, 0, STILL._replace(least_scale=0.5, most_scale=0.5))
    ratio = shrunk.sum(dtype=float) / images.sum(dtype=float)
    assert ratio == pytest.approx(0.25, abs=0.08), "an area of a quarter"
    sheared = warp_randomly(np.repeat(images, 4, axis=0), 0, STILL._replace(shear=0.9))
    assert (sheared > 0).any(axis=1).sum() > (np.repeat(images, 4, 0) > 0).any(axis=1).sum()
