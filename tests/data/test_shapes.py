"""Generated shapes: their pixels, their maps, and what recognises them."""

import hashlib

import numpy as np
import pytest

from capsjax.data import DataError, load_part, load_training
from capsjax.data.shapes import CONTRAST, Shapes

SMALL = {"height": 16, "width": 20, "count": 30, "test_count": 4, "classes": 4}


def small(part="train", **changes):
    return load_part("shapes", part, shapes={**SMALL, **changes})


def test_sizes_and_pixels():
    train, test = small(), small("test")
    assert (len(train), len(test), train.num_classes) == (30, 4, 4)
    assert train.image_shape == (16, 20, 1)
    assert train.labels.shape == (30, 16, 20)
    assert set(np.unique(train.labels)) == {0, 1, 2, 3}
    assert not np.array_equal(train.images[:4], test.images)
    pixels = train.images.tobytes() + train.labels.tobytes()
    assert hashlib.sha256(pixels).hexdigest()[:16] == "854972c8ca7c9b94"


def test_the_first_images_are_those_of_fewer():
    np.testing.assert_array_equal(small(count=3).images, small().images[:3])


def test_the_last_kinds_share_a_class():
    kinds, disks = small(), small(classes=3)
    np.testing.assert_array_equal(kinds.images, disks.images)
    np.testing.assert_array_equal(disks.labels, np.minimum(kinds.labels, 2))
    assert disks.labels.any(axis=(1, 2)).all(), "an image without a shape"


def test_shapes_stand_out_from_their_ground():
    data = small(noise=0, most=1)
    for image, labels in zip(data.images[..., 0].astype(int), data.labels, strict=True):
        if labels.any() and not labels.all():
            (ground,), (shape,) = np.unique(image[labels == 0]), np.unique(image[labels > 0])
            assert abs(ground - shape) >= CONTRAST


@pytest.mark.slow
def test_the_fingerprint_is_that_of_the_recipe():
    found = small().fingerprint()
    assert found == small().fingerprint()
    assert set(found) == {"number", "classes", "recipe"}
    others = [small("test"), small(seed=1), small(noise=1), small(count=31)]
    training, validation = load_training("shapes", validation_size=10, shapes=SMALL)
    assert (len(training), len(validation)) == (20, 10)
    others += [training, validation]
    others += load_training("shapes", validation_size=10, split_seed=1, shapes=SMALL)
    recipes = {each.fingerprint()["recipe"] for each in others} | {found["recipe"]}
    assert len(recipes) == 1 + len(others)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 7}, "data.shapes.height is from 8 to 16383, not 7"),
        ({"classes": 5}, "data.shapes.classes is from 2 to 4, not 5"),
        ({"noise": 41}, "data.shapes.noise is from 0 to 40, not 41"),
    ],
)
def test_settings_that_make_no_images(changes, message):
    with pytest.raises(DataError, match=message):
        Shapes(**changes).load("train")


def test_settings_that_it_does_not_have():
    with pytest.raises(ValueError, match="no setting 'heigth'; did you mean 'height'"):
        load_part("shapes", "train", shapes={"heigth": 16})
    with pytest.raises(ValueError, match="no field 'shape' here; did you mean 'shapes'"):
        load_part("digits", "train", shape={})


MAPS = {"images": np.zeros((12, 8, 9)), "masks": np.tile([[False, True, True]], (12, 8, 3))}


def test_maps_of_ones_own(tmp_path):
    file = tmp_path / "maps.npz"
    np.savez(file, **MAPS)
    train, test = (load_part("npz", part, file=str(file)) for part in ("train", "test"))
    assert train.labels.shape == (10, 8, 9)
    assert test.labels.shape == (2, 8, 9)
    assert train.num_classes == 2
    np.testing.assert_array_equal(train.labels[0], MAPS["masks"][0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.zeros(12, int)}, "both masks and labels"),
        ({"masks": MAPS["masks"][:, :4]}, r"masks are .* of images: \(12, 8, 9\) here, not \(12,"),
        ({"masks": 255 * MAPS["masks"]}, "no image has the label 1 to 254"),
        ({"test_images": MAPS["images"]}, "one of test_images and test_labels"),
    ],
)
def test_maps_that_do_not_fit(changes, message, tmp_path):
    np.savez(tmp_path / "maps.npz", **{**MAPS, **changes})
    with pytest.raises(DataError, match=message):
        load_part("npz", "train", file=str(tmp_path / "maps.npz"))
