"""Shifts: whole pixels, zeros behind them, one for each image, all of them equally often."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.data.augment import shift_images, to_float


def images_of(n, h, w, c, dtype=np.float32):
    """Random images without a zero, so that a zero can only have come from outside."""
    return np.random.default_rng(0).integers(1, 256, (n, h, w, c)).astype(dtype)


def moved(image, down, right):
    """The image moved by whole pixels over a background of zeros."""
    h, w, _ = image.shape
    out = np.zeros_like(image)
    for row in range(h):
        for column in range(w):
            if 0 <= row - down < h and 0 <= column - right < w:
                out[row, column] = image[row - down, column - right]
    return out


@pytest.mark.parametrize("max_shift", [1, 2])
def test_every_image_is_moved_by_whole_pixels_over_zeros(max_shift):
    images = images_of(20, 6, 5, 2)
    shifted = np.asarray(shift_images(jax.random.key(1), jnp.asarray(images), max_shift))
    steps = range(-max_shift, max_shift + 1)
    for image, got in zip(images, shifted, strict=True):
        matches = [np.array_equal(got, moved(image, y, x)) for y in steps for x in steps]
        assert sum(matches) == 1


@pytest.mark.ci
def test_all_25_shifts_occur_equally_often():
    # One white pixel in the middle shows where it went.
    n = 2500
    images = jnp.zeros((n, 7, 7, 1)).at[:, 3, 3, 0].set(1.0)
    shifted = np.asarray(shift_images(jax.random.key(0), images, 2))
    np.testing.assert_array_equal(shifted.sum(axis=(1, 2, 3)), 1.0)
    counts = shifted.sum(axis=0)[..., 0]
    assert counts.sum() == counts[1:6, 1:6].sum()
    # 100 expected of each, with a deviation of 9.8: five of them are allowed.
    np.testing.assert_allclose(counts[1:6, 1:6], 100, atol=49)


def test_images_of_one_batch_are_moved_differently():
    images = jnp.tile(jnp.asarray(images_of(1, 6, 6, 1)), (50, 1, 1, 1))
    shifted = np.asarray(shift_images(jax.random.key(0), images, 2))
    # 50 draws out of 25 leave 25 (1 - (24/25)^50) = 21.8 different ones on average.
    assert len(np.unique(shifted, axis=0)) > 15


def test_no_shift_is_the_identity():
    images = jnp.asarray(images_of(3, 4, 5, 2))
    np.testing.assert_array_equal(shift_images(jax.random.key(0), images, 0), images)


def test_pixels_are_moved_and_not_interpolated():
    # With a border as wide as the shift nothing is lost, so the same values come back.
    images = np.pad(images_of(10, 4, 4, 1), ((0, 0), (2, 2), (2, 2), (0, 0)))
    shifted = np.asarray(shift_images(jax.random.key(3), jnp.asarray(images), 2))
    before, after = (np.sort(x.reshape(10, -1), axis=-1) for x in (images, shifted))
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(4, 6, 6, 1), (1, 5, 7, 3)])
def test_shape_and_type_are_kept(shape, dtype):
    shifted = shift_images(jax.random.key(0), jnp.asarray(images_of(*shape, dtype)), 2)
    chex.assert_shape(shifted, shape)
    assert shifted.dtype == dtype


def test_jit_is_eager_and_the_key_decides():
    images = jnp.asarray(images_of(20, 6, 6, 1))
    first, second = (shift_images(jax.random.key(seed), images, 2) for seed in (0, 1))
    jitted = jax.jit(shift_images, static_argnums=2)(jax.random.key(0), images, 2)
    np.testing.assert_array_equal(jitted, first)
    assert not np.array_equal(first, second)


def test_to_float():
    floats = to_float(jnp.array([0, 51, 255], jnp.uint8).reshape(1, 3, 1, 1))
    np.testing.assert_allclose(floats.ravel(), [0.0, 0.2, 1.0], rtol=1e-6)
    assert floats.dtype == jnp.float32
