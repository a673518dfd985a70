"""From a picture to an image of a network, by hand."""

import numpy as np
import pytest
from PIL import Image

from capsjax.explore.inputs import Move, centred, fit_sample, is_dark_on_light, moved, prepare


def drawn(*, size=(280, 280), rows=slice(40, 120), columns=slice(60, 80), paper=0, ink=255):
    picture = np.full(size, paper, np.uint8)
    picture[rows, columns] = ink
    return picture


def test_ink_is_scaled_to_the_box_and_its_mass_put_into_the_middle():
    image = centred(drawn(), (28, 28))
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    assert (rows[0], rows[-1]) == (4, 23)  # 20 of 28 pixels, four on either side
    assert len(columns) == 5  # a quarter of the rows
    assert columns.mean() == pytest.approx(13.5, abs=0.5)
    assert image.max() == 255


def test_the_centre_of_mass_counts_and_not_the_box():
    picture = drawn(rows=slice(0, 200), columns=slice(100, 110))
    picture[180:200, 100:140] = 255  # heavy at the bottom right
    image = centred(picture, (28, 28)).astype(float)
    mass = [image.sum(axis=1 - axis) @ np.arange(28) / image.sum() for axis in (0, 1)]
    assert mass == pytest.approx([13.5, 13.5], abs=0.6)  # as far as whole pixels allow


@pytest.mark.parametrize("width", [1, 3, 40])
def test_ink_of_any_width_is_as_strong_after_it_is_resized(width):
    picture = drawn(size=(600, 600), rows=slice(50, 550), columns=slice(100, 400))
    picture[50 + width : 550 - width, 100 + width : 400 - width] = 0  # an outline
    image = centred(picture, (28, 28))
    assert image.max() == 255
    assert np.median(image[image > 0]) > 100


def test_specks_far_apart_are_ink():
    picture = np.zeros((1000, 1000), np.uint8)
    picture[[100, 900], [100, 900]] = 255
    assert np.count_nonzero(centred(picture, (28, 28)) == 255) == 2


def test_grey_paper_and_noise_are_no_ink():
    shifted = centred(drawn(paper=60, ink=200), (28, 28))
    np.testing.assert_array_equal(shifted, centred(drawn(), (28, 28)))
    noise = np.random.default_rng(0).integers(0, 20, (50, 50)).astype(np.uint8)
    assert not centred(noise, (28, 28)).any()
    assert not centred(np.zeros((8, 8), np.uint8), (28, 28)).any()


def test_a_picture_of_the_right_size_is_the_image():
    image = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    np.testing.assert_array_equal(prepare(Image.fromarray(image), (28, 28, 1))[..., 0], image)
    inverted = prepare(Image.fromarray(image), (28, 28, 1), invert=True)
    np.testing.assert_array_equal(inverted[..., 0], 255 - image)


def test_colour_and_size_are_those_of_the_network():
    picture = Image.fromarray(np.full((20, 40, 3), (200, 100, 0), np.uint8))
    assert prepare(picture, (8, 8, 3))[0, 0].tolist() == [200, 100, 0]
    assert prepare(picture, (8, 8, 4))[0, 0].tolist() == [200, 100, 0, 255]
    assert prepare(picture, (8, 4, 1)).shape == (8, 4, 1)
    # Only ink in grey is centred.
    assert prepare(picture, (8, 8, 3), box=0.5)[0, 0].tolist() == [200, 100, 0]
    assert prepare(picture, (8, 8, 2))[0, 0].tolist() == [118, 118]  # grey, in each channel


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_a_sample_keeps_all_of_its_channels(channels):
    image = np.random.default_rng(0).integers(0, 256, (6, 4, channels), np.uint8)
    assert fit_sample(image, (6, 4, channels)) is image
    smaller = fit_sample(image, (3, 2, channels))
    means = image.reshape(3, 2, 2, 2, channels).mean(axis=(1, 3))
    np.testing.assert_allclose(smaller, means, atol=1)  # rounded twice
    assert fit_sample(image, (6, 4, channels + 1)).shape == (6, 4, channels + 1)


def test_an_image_turns_clockwise_and_moves_right_and_down():
    image = np.zeros((5, 5, 1), np.uint8)
    image[2, 4] = 255  # at the right
    turned = moved(image, Move(degrees=90.0))
    assert np.argwhere(turned[..., 0]).tolist() == [[4, 2]]  # at the bottom
    image = np.zeros((4, 10, 1), np.uint8)
    image[0, 0] = 255
    assert np.argwhere(moved(image, Move(right=0.5, down=0.25))[..., 0]).tolist() == [[1, 5]]
    assert moved(image, Move()) is image


def test_dark_ink_on_light_paper_is_noticed():
    assert is_dark_on_light(Image.fromarray(drawn(paper=230, ink=10)))
    assert not is_dark_on_light(Image.fromarray(drawn()))
