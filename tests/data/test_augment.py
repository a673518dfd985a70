"""Augmentation: each change by its values, maps that move along, and the stream of the shifts."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.data import DataError
from capsjax.data.affine import warp
from capsjax.data.augment import (
    Augmentation,
    draw_displacements,
    shift_images,
    to_float,
    turn_hues,
    warp_images,
)


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


@pytest.mark.slow
def test_images_of_one_batch_are_moved_differently():
    images = jnp.tile(jnp.asarray(images_of(1, 6, 6, 1)), (50, 1, 1, 1))
    shifted = np.asarray(shift_images(jax.random.key(0), images, 2))
    # 50 draws out of 25 leave 25 (1 - (24/25)^50) = 21.8 different ones on average.
    assert len(np.unique(shifted, axis=0)) > 15


def test_no_shift_is_the_identity():
    images = jnp.asarray(images_of(3, 4, 5, 2))
    np.testing.assert_array_equal(shift_images(jax.random.key(0), images, 0), images)


@pytest.mark.slow
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


KEY = jax.random.key(3)
NO_LABELS = jnp.zeros(20, jnp.int32)


def pictures(n=20, h=6, w=5, c=3):
    return jnp.asarray(images_of(n, h, w, c, np.uint8))


def augmented(images, labels=NO_LABELS, key=KEY, **settings):
    return Augmentation(**settings)(key, images, labels)[0]


def test_without_settings_images_are_what_they_were():
    images = pictures()
    np.testing.assert_array_equal(augmented(images), to_float(images))


def test_shifts_alone_are_bit_for_bit_those_of_earlier_versions():
    images = pictures()
    np.testing.assert_array_equal(
        augmented(images, max_shift=2), to_float(shift_images(KEY, images, 2))
    )


@pytest.mark.parametrize(("name", "axis"), [("flip_horizontal", 2), ("flip_vertical", 1)])
def test_about_a_share_of_the_images_is_mirrored(name, axis):
    images = pictures(400)
    got = np.asarray(augmented(images, jnp.zeros(400, jnp.int32), **{name: 0.25}))
    plain = np.asarray(to_float(images))
    flipped = (got == np.flip(plain, axis)).all(axis=(1, 2, 3))
    kept = (got == plain).all(axis=(1, 2, 3))
    assert (flipped ^ kept).all()
    assert 70 <= flipped.sum() <= 130  # 100 expected, with a deviation of 8.7
    always = augmented(images, jnp.zeros(400, jnp.int32), **{name: 1.0})
    np.testing.assert_array_equal(always, np.flip(plain, axis))


def test_flips_of_both_axes_are_independent():
    images = pictures(200)
    got = augmented(images, jnp.zeros(200, jnp.int32), flip_horizontal=0.5, flip_vertical=0.5)
    found = {
        tuple(axes): int((np.asarray(got) == np.flip(to_float(images), axes)).all((1, 2, 3)).sum())
        for axes in ((), (1,), (2,), (1, 2))
    }
    assert sum(found.values()) == 200
    assert min(found.values()) > 25  # 50 expected of each, with a deviation of 6.1


@pytest.mark.slow
@pytest.mark.parametrize(("h", "w"), [(9, 9), (8, 11)])
def test_rotation_and_scale_are_those_of_the_affine_images(h, w):
    images = images_of(6, h, w, 2, np.uint8)
    angles = np.deg2rad([0, 90, -30, 10, 180, 45])
    scales = np.array([1, 1, 0.8, 1.3, 1, 1.2])
    cos, sin = np.cos(angles), np.sin(angles)
    turns = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    expected = warp(images, scales[:, None, None] * turns, np.zeros((6, 2)))
    got = warp_images(
        jnp.asarray(images, jnp.float32),
        jnp.asarray(angles, jnp.float32),
        jnp.asarray(scales, jnp.float32),
    )
    np.testing.assert_allclose(got, expected, atol=0.6)  # those are rounded to whole numbers
    np.testing.assert_array_equal(got[0], images[0])


@pytest.mark.slow
def test_a_quarter_turn_moves_whole_pixels():
    images = images_of(1, 5, 5, 1)
    got = warp_images(jnp.asarray(images), jnp.array([jnp.pi / 2]), jnp.ones(1))
    # (row, column) about the middle goes to (-column, row).
    np.testing.assert_allclose(got[0, :, :, 0], np.rot90(images[0, :, :, 0], 1), atol=1e-3)


@pytest.mark.ci
def test_drawn_angles_and_sizes_stay_within_their_limits():
    # A white bar across the middle: its ends show the angle, its pixels the size.
    bar = jnp.zeros((60, 33, 33, 1), jnp.uint8).at[:, 16, 8:25].set(255)
    labels = jnp.zeros(60, jnp.int32)
    rows, columns = np.mgrid[:33, :33] - 16

    def angles_of(images):
        weights = np.asarray(images)[..., 0] * (columns > 2)
        y, x = ((weights * axis).sum((1, 2)) / weights.sum((1, 2)) for axis in (rows, columns))
        return np.rad2deg(np.arctan2(y, x))

    found = angles_of(augmented(bar, labels, rotation=30.0))
    assert 25 < np.abs(found).max() < 31
    assert np.abs(found.mean()) < 10
    block = jnp.zeros((60, 33, 33, 1), jnp.uint8).at[:, 12:21, 12:21].set(255)
    ink = np.asarray(augmented(block, labels, scale=0.5)).sum((1, 2, 3)) / 81
    # From half to one and a half times the size, a quarter to nine quarters of the ink.
    assert 0.24 < ink.min() < 0.4
    assert 1.9 < ink.max() < 2.26


@pytest.mark.slow
def test_brightness_is_added_and_contrast_keeps_the_mean():
    images = jnp.asarray(np.random.default_rng(0).integers(90, 166, (20, 4, 4, 3)), jnp.uint8)
    plain = np.asarray(to_float(images))
    added = np.asarray(augmented(images, brightness=0.2)) - plain
    np.testing.assert_allclose(
        added, added[:, :1, :1, :1].repeat(4, 1).repeat(4, 2).repeat(3, 3), atol=1e-6
    )
    assert 0.1 < np.abs(added).max() <= 0.2
    assert added.min() < 0 < added.max()

    changed = np.asarray(augmented(images, contrast=0.5))
    means = plain.mean((1, 2, 3), keepdims=True)
    factors = (changed - means) / (plain - means)
    np.testing.assert_allclose(
        factors, np.median(factors, (1, 2, 3), keepdims=True) + 0 * factors, atol=1e-3
    )
    assert 0.5 <= factors.min() < 0.8
    assert 1.2 < factors.max() <= 1.5


@pytest.mark.slow
def test_saturation_and_hue_leave_grey_as_it_is():
    grey = jnp.asarray(images_of(20, 4, 4, 1, np.uint8)).repeat(3, axis=-1)
    got = augmented(grey, saturation=0.9, hue=90.0)
    np.testing.assert_allclose(got, to_float(grey), atol=1e-5)
    red = jnp.zeros((20, 1, 1, 3), jnp.uint8).at[..., 0].set(200)
    paler = np.asarray(augmented(red, saturation=0.5))[:, 0, 0]
    brightness = paler @ np.array([0.299, 0.587, 0.114])
    # Those that would be less than 0 are cut.
    np.testing.assert_allclose(brightness[paler[:, 1] > 0], 0.299 * 200 / 255, atol=1e-5)
    assert paler[:, 1].max() > 0.05


def test_hue_turns_about_grey_and_back():
    images = jnp.asarray(images_of(4, 3, 3, 3)) / 255
    turned = turn_hues(images, jnp.full(4, 2 * jnp.pi / 3))
    assert float(jnp.abs(turned - images).max()) > 0.1
    back = turn_hues(turned, jnp.full(4, 4 * jnp.pi / 3))
    np.testing.assert_allclose(back, images, atol=1e-5)


@pytest.mark.slow
def test_values_stay_between_0_and_1():
    got = augmented(pictures(), brightness=0.9, contrast=0.9, saturation=3.0, hue=180.0)
    assert float(got.min()) >= 0
    assert float(got.max()) <= 1
    assert got.dtype == jnp.float32


def test_borders_stay_black_whatever_the_brightness():
    white = jnp.full((20, 8, 8, 1), 128, jnp.uint8)
    got = np.asarray(augmented(white, max_shift=3, brightness=0.3))
    assert (np.isclose(got, 0) | (got > 0.15)).all()
    assert np.isclose(got, 0).any()


@pytest.mark.parametrize("name", ["saturation", "hue"])
def test_colours_need_three_channels(name):
    Augmentation(**{name: 0.5}).check_channels(3)
    Augmentation().check_channels(1)
    with pytest.raises(DataError, match=f"augment.{name} is for images of 3 channels.* have 1"):
        Augmentation(**{name: 0.5}).check_channels(1)


@pytest.mark.ci
def test_a_map_moves_with_its_image_and_keeps_its_classes():
    # Images that are their own maps, in blocks that no rotation loses.
    maps = 3 * jnp.asarray(np.random.default_rng(1).integers(0, 2, (20, 3, 3)), jnp.int32)
    maps = maps.repeat(6, axis=1).repeat(6, axis=2)
    images = (60 * maps[..., None]).astype(jnp.uint8)
    settings = {"max_shift": 2, "flip_horizontal": 0.5, "flip_vertical": 0.5}
    got, labels = Augmentation(**settings)(KEY, images, maps)
    np.testing.assert_array_equal(np.round(255 * got[..., 0]), 60 * labels)
    got, labels = Augmentation(rotation=20.0, scale=0.2, **settings)(KEY, images, maps)
    assert labels.dtype == jnp.int32
    # No class between the two, as interpolated pixels have at borders of blocks.
    assert set(np.unique(labels).tolist()) == {0, 3}
    near = np.abs(255 * np.asarray(got[..., 0]) - 60 * np.asarray(labels)) < 91
    assert near.mean() > 0.9
    assert not np.array_equal(labels, maps)


@pytest.mark.slow
def test_each_change_has_random_numbers_of_its_own():
    images = pictures()
    alone = augmented(images, flip_horizontal=0.5)
    with_another = augmented(images, flip_horizontal=0.5, rotation=1e-6)
    np.testing.assert_allclose(with_another, alone, atol=1e-2)
    other = augmented(images, key=jax.random.key(4), flip_horizontal=0.5)
    assert not np.array_equal(alone, other)


def test_traced_numbers_make_what_constants_make():
    images, names = pictures(), ("flip_horizontal", "flip_vertical", "rotation", "scale")
    names += ("brightness", "contrast", "noise", "elastic")
    values = (0.5, 0.5, 20.0, 0.2, 0.1, 0.3, 0.1, 1.5)

    @jax.jit
    def traced(*numbers):
        return augmented(images, **dict(zip(names, numbers, strict=True)))

    expected = augmented(images, **dict(zip(names, values, strict=True)))
    np.testing.assert_allclose(traced(*values), expected, atol=1e-4)
    np.testing.assert_allclose(traced(*[0.0] * 8), to_float(images), atol=1e-6)


def test_a_field_is_added_to_the_places_that_pixels_come_from():
    image = jnp.asarray(images_of(1, 4, 5, 2), jnp.float32)
    field = jnp.zeros((1, 2, 4, 5)).at[0, 0].set(1.0).at[0, 1, 2, 3].set(-0.25)
    got = warp_images(image, jnp.zeros(1), jnp.ones(1), field)
    expected = np.zeros((4, 5, 2))
    expected[:3] = image[0, 1:]
    expected[2, 3] = 0.75 * image[0, 3, 3] + 0.25 * image[0, 3, 2]
    np.testing.assert_allclose(got[0], expected, atol=1e-4)
    labels = jnp.arange(20).reshape(1, 4, 5, 1)
    got = warp_images(labels, jnp.zeros(1), jnp.ones(1), field)
    np.testing.assert_array_equal(got[0, :3], labels[0, 1:])


def test_displacements_are_those_of_a_loop():
    h, w, sigma = 4, 5, 1.5
    numbers = np.asarray(jax.random.normal(KEY, (2, 2, h, w)))
    expected = np.zeros((2, 2, h, w))
    for y, x in np.ndindex(h, w):
        rows, columns = (
            np.exp(-((np.arange(size) - at) ** 2) / (2 * sigma**2)) for size, at in ((h, y), (w, x))
        )
        kernel = rows[:, None] * columns
        expected[..., y, x] = (kernel * numbers).sum((-2, -1)) / np.sqrt((kernel**2).sum())
    got = draw_displacements(KEY, (2, h, w), 3.0, sigma)
    np.testing.assert_allclose(got, 3.0 * expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_displacements_are_as_large_at_the_borders_and_alike_nearby():
    field = np.asarray(draw_displacements(KEY, (4000, 21, 21), 2.0, 2.0)).reshape(8000, 21, 21)
    deviations = field.std(axis=0)
    # A deviation of 8000 numbers is 2 ± 0.016.
    assert 1.92 < deviations.min() < deviations.max() < 2.08
    middle = field[:, 10, 10]
    for distance in (1, 2, 4):
        found = np.corrcoef(middle, field[:, 10, 10 + distance])[0, 1]
        assert found == pytest.approx(np.exp(-(distance**2) / 16), abs=0.03)
    pairs = np.asarray(field).reshape(4000, 2, 21, 21)
    assert abs(np.corrcoef(pairs[:, 0, 9, 9], pairs[:, 1, 9, 9])[0, 1]) < 0.06


@pytest.mark.ci
def test_a_map_is_deformed_like_its_image():
    maps = 3 * jnp.asarray(np.random.default_rng(1).integers(0, 2, (20, 3, 3)), jnp.int32)
    maps = maps.repeat(6, axis=1).repeat(6, axis=2)
    images = (60 * maps[..., None]).astype(jnp.uint8)
    settings = {"elastic": 1.5, "elastic_sigma": 4.0}
    got, labels = Augmentation(**settings)(KEY, images, maps)
    assert labels.dtype == jnp.int32
    assert set(np.unique(labels).tolist()) == {0, 3}
    near = np.abs(255 * np.asarray(got[..., 0]) - 60 * np.asarray(labels)) < 91
    assert near.mean() > 0.97
    moved = (np.asarray(labels) != np.asarray(maps)).mean()
    assert 0.05 < moved < 0.5
    noisy, same = Augmentation(noise=0.1, **settings)(KEY, images, maps)
    np.testing.assert_array_equal(same, labels)
    assert 0.03 < float(jnp.abs(noisy - got).mean()) < 0.1


def test_noise_has_its_deviation_and_stays_between_0_and_1():
    grey = jnp.full((20, 10, 10, 3), 128, jnp.uint8)
    noise = np.asarray(augmented(grey, noise=0.1)) - 128 / 255
    assert noise.std() == pytest.approx(0.1, rel=0.05)  # ± 0.001 of 6000 numbers
    assert abs(noise.mean()) < 0.005
    channels = noise.reshape(-1, 3)
    assert abs(np.corrcoef(channels[:, 0], channels[:, 1])[0, 1]) < 0.1
    wild = augmented(grey, noise=5.0)
    assert (float(wild.min()), float(wild.max())) == (0.0, 1.0)


@pytest.mark.slow
def test_noise_and_deformation_do_not_move_the_other_changes():
    images = pictures()
    others = {"max_shift": 2, "flip_horizontal": 0.5, "rotation": 20.0, "brightness": 0.2}
    alone = augmented(images, **others)
    with_both = augmented(images, noise=1e-4, elastic=1e-3, **others)
    np.testing.assert_allclose(with_both, alone, atol=0.01)
    assert not np.array_equal(with_both, alone)


def test_what_is_0_is_left_out_of_the_program():
    def program(**settings):
        return str(jax.make_jaxpr(lambda x: augmented(x, rotation=5.0, **settings))(pictures()))

    plain = program()
    # Normal numbers are made by it; those of the others are uniform.
    assert "erf_inv" not in plain
    assert program(noise=0.0, elastic=0.0, elastic_sigma=9.0) == plain
    assert program(noise=0.1).count("erf_inv") == program(elastic=0.1).count("erf_inv") == 1
