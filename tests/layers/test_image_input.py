"""The first stage of networks: crops, jitter and standardisation, by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.layers.image_input import ImageInput, does_nothing, standardize_images


def keys_of(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


@functools.cache
def applied(**settings):
    return jax.jit(functools.partial(ImageInput(**settings).apply, {}))


def numbered(h, w, channels=1):
    """An image whose pixels tell their row and column: 100 times the one plus the other."""
    numbers = 100 * np.arange(h)[:, None] + np.arange(w)
    return np.repeat(numbers[None, :, :, None], channels, axis=-1).astype(np.float32)


def random_images(n, h, w, c, seed=0):
    return np.random.default_rng(seed).random((n, h, w, c)).astype(np.float32)


def test_the_central_square_is_cropped_in_testing():
    cropped = applied(crop=3)(numbered(6, 8, channels=2), None)
    assert cropped.shape == (1, 3, 3, 2)
    # Rows 1 to 3 of 6, columns 2 to 4 of 8: the middle is above and left of the half.
    assert cropped[0, :, :, 1].tolist() == [[102, 103, 104], [202, 203, 204], [302, 303, 304]]


def test_thirteen_squares_are_cropped_along_the_diagonals():
    crops = applied(crop=3, crops=13)(numbered(9, 10), None)
    assert crops.shape == (13, 3, 3, 1)
    # The central one begins at row 3 and column 3.
    moves = [0, *(100 * y * m + x * m for m in (1, 2, 3) for y in (-1, 1) for x in (-1, 1))]
    assert (crops[:, 0, 0, 0] - 303).tolist() == moves
    # Of several images, all central squares come first, and so on.
    images = np.concatenate([numbered(9, 10), 1000 + numbered(9, 10)])
    both = applied(crop=3, crops=13)(images, None)
    np.testing.assert_array_equal(both[::2], crops)
    np.testing.assert_array_equal(both[1::2], crops + 1000)
    assert applied(crop=3, crops=13)(images, keys_of(2)).shape == (2, 3, 3, 1)


@pytest.mark.slow
def test_training_crops_every_square_equally_often():
    n = 1200
    images = np.repeat(numbered(4, 5), n, axis=0)
    cropped = np.asarray(applied(crop=3)(images, keys_of(n)))[..., 0]
    corners, counts = np.unique(cropped[:, 0, 0], return_counts=True)
    assert corners.tolist() == [0, 1, 2, 100, 101, 102]
    assert np.abs(counts - n / 6).max() < 5 * np.sqrt(n * 5 / 36)
    # What is below and to the right of a corner is there, in all of them.
    offsets = 100 * np.arange(3)[:, None] + np.arange(3)
    np.testing.assert_array_equal(cropped, cropped[:, :1, :1] + offsets)


@pytest.mark.slow
def test_an_image_is_changed_by_its_own_key_alone():
    images, keys = random_images(5, 6, 7, 2), keys_of(5)
    stage = applied(crop=4, standardize="channel", brightness=0.5, contrast=0.5)
    together = stage(images, keys)
    for k in (0, 3):
        np.testing.assert_array_equal(stage(images[k:][:1], keys[k:][:1])[0], together[k])
    same = stage(np.repeat(images[:1], 5, axis=0), keys)
    assert len(np.unique(np.round(np.asarray(same)[:, 0, 0, 0], 4))) == 5


def test_by_default_images_stay_as_they_are_in_training_and_testing():
    images = random_images(2, 4, 5, 3)
    for keys in (None, keys_of(2)):
        np.testing.assert_array_equal(applied()(images, keys), images)
    assert does_nothing({"crop": 0, "standardize_first": True})
    for name, value in (("crop", 2), ("standardize", "image"), ("brightness", 0.1)):
        assert not does_nothing({name: value})
    assert not does_nothing({"contrast": 0.1})


# Channel 0 is 0, 1, 0, 1; channel 1 is 0.5 throughout.
STEREO = np.stack([np.array([[0, 1], [0, 1]]), np.full((2, 2), 0.5)], axis=-1)[None]


def test_an_image_is_standardised_over_all_channels():
    standard = applied(standardize="image")(STEREO.astype(np.float32), None)
    # Mean 1/2, variance (4/4 + 0)/8 = 1/8.
    np.testing.assert_allclose(standard[0, 0, :, 0], [-(8**0.5) / 2, 8**0.5 / 2], rtol=1e-6)
    assert np.all(standard[..., 1] == 0)


def test_a_channel_is_standardised_by_itself():
    standard = applied(standardize="channel")(STEREO.astype(np.float32), None)
    np.testing.assert_allclose(standard[0, :, :, 0], [[-1, 1], [-1, 1]], rtol=1e-6)
    assert np.all(standard[..., 1] == 0)


def test_each_image_of_a_batch_is_standardised_by_itself():
    images = random_images(3, 5, 6, 2) * np.array([1, 0.1, 0.02]).reshape(3, 1, 1, 1)
    standard = applied(standardize="image")(images.astype(np.float32), None)
    np.testing.assert_allclose(np.mean(standard, axis=(1, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(np.var(standard, axis=(1, 2, 3)), 1, rtol=1e-5)


def test_whether_images_or_their_crops_are_standardised():
    image = np.zeros((1, 3, 3, 1), np.float32)
    image[0, 1, 1, 0] = 1
    first = applied(crop=1, standardize="image", standardize_first=True)(image, None)
    # Mean 1/9, variance 8/81: (1 - 1/9) / (√8/9) = √8.
    np.testing.assert_allclose(first.ravel(), [8**0.5], rtol=1e-6)
    # One pixel is constant.
    assert applied(crop=1, standardize="image")(image, None).ravel().tolist() == [0]


def test_constant_images_become_zero_with_finite_gradients():
    grey = np.array([0, 0.1, 1], np.float32).reshape(3, 1, 1, 1)
    weights = np.random.default_rng(0).random((3, 48, 48, 2))

    @jax.jit
    def standardized(images):
        standard, pull = jax.vjp(standardize_images, images)
        return standard, pull(weights.astype(np.float32))[0]

    standard, gradient = standardized(np.broadcast_to(grey, (3, 48, 48, 2)))
    assert np.all(np.asarray(standard) == 0)
    assert np.isfinite(gradient).all()


def test_the_faintest_images_of_8_bits_have_variance_1():
    images = np.full((1, 32, 32, 2), 200, np.float32)
    images[0, 5, 5, 1] = 201
    standard = standardize_images(jnp.asarray(images / np.float32(255)))
    assert float(np.var(standard)) == pytest.approx(1, rel=1e-3)


@pytest.mark.slow
def test_jitter_changes_images_that_were_standardised_before_it():
    images, keys = random_images(64, 12, 12, 2), keys_of(64)
    jitter = {"brightness": 0.25, "contrast": 0.8, "standardize": "image"}
    plain = applied(standardize="image")(images, None)
    moved = applied(**jitter, standardize_first=True)(images, keys)
    # x ← f x + b for all pixels of an image, of mean 0.
    numbers = np.array(
        [np.polyfit(x.ravel(), y.ravel(), 1) for x, y in zip(plain, moved, strict=True)]
    )
    factors, shifts = numbers.T
    assert 0.2 < factors.min() < 0.4
    assert 1.6 < factors.max() < 1.8
    assert -0.25 < shifts.min() < -0.15
    assert 0.15 < shifts.max() < 0.25
    expected = factors[:, None, None, None] * plain + shifts[:, None, None, None]
    np.testing.assert_allclose(moved, expected, atol=1e-4)
    # Factor and shift are independent.
    assert abs(np.corrcoef(factors, shifts)[0, 1]) < 0.4
    assert np.mean(np.abs(moved - plain).max(axis=(1, 2, 3)) > 0.1) > 0.9


@pytest.mark.slow
def test_standardising_afterwards_undoes_jitter_and_testing_has_none():
    images, keys = random_images(8, 12, 12, 2), keys_of(8)
    jitter = {"brightness": 0.25, "contrast": 0.8, "standardize": "image"}
    plain = applied(standardize="image")(images, None)
    np.testing.assert_allclose(applied(**jitter)(images, keys), plain, atol=1e-4)
    np.testing.assert_array_equal(applied(**jitter, standardize_first=True)(images, None), plain)


def test_a_crop_that_does_not_fit_and_an_unknown_name():
    with pytest.raises(ValueError, match=r"model.input.crop is at most 28 for images of 28x32 p"):
        applied(crop=32)(np.zeros((1, 28, 32, 1), np.float32), None)
    for crop, h, w in ((3, 8, 20), (3, 20, 8), (0, 20, 20)):
        with pytest.raises(ValueError, match=rf"=13 moves .* 3 p.* 1 to {min(h, w) - 6} for"):
            applied(crop=crop, crops=13)(np.zeros((1, h, w, 1), np.float32), None)
    with pytest.raises(ValueError, match=r"model.input.crops is 1, the central crop, or 13, not 2"):
        applied(crop=3, crops=2)(np.zeros((1, 9, 9, 1), np.float32), None)
    with pytest.raises(ValueError, match=r"model.input.standardize\) 'imag'; did you mean 'image'"):
        applied(standardize="imag")(np.zeros((1, 4, 4, 1), np.float32), None)
