"""Pictures as text, and what is taken for one."""

import base64
import io

import numpy as np
import pytest
from PIL import ExifTags, Image

from capsjax.explore import encoding
from capsjax.explore.encoding import from_data_uri, to_bytes, to_data_uri


def uri_of(picture, kind="PNG", **options):
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return text_of(stream.getvalue())


def text_of(content):
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_an_image_comes_back_as_it_was(channels, mode):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    picture = from_data_uri(to_data_uri(image))
    assert picture.mode == mode
    np.testing.assert_array_equal(np.asarray(picture).reshape(image.shape), image)


def test_numbers_become_bytes():
    np.testing.assert_array_equal(
        to_bytes(np.array([-0.1, 0.0, 0.5, 1.0, 1.1])), [0, 0, 128, 255, 255]
    )


def test_what_is_transparent_becomes_white():
    picture = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    picture.putpixel((0, 0), (10, 20, 30, 255))
    assert np.asarray(from_data_uri(uri_of(picture))).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    palette = Image.new("P", (1, 1), 0)
    assert np.asarray(from_data_uri(uri_of(palette, transparency=0))).tolist() == [[[255] * 3]]


def test_a_picture_that_a_camera_marked_as_turned_is_upright():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    assert from_data_uri(uri_of(Image.new("L", (3000, 1500)), exif=exif)).size == (512, 1024)


def test_a_large_picture_is_made_smaller():
    picture = from_data_uri(uri_of(Image.new("L", (3000, 1500))))
    assert picture.size == (1024, 512)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/etc/passwd", "this is no picture"),
        ("file:///etc/passwd", "this is no picture"),
        ("data:text/plain,hello", "this is no picture"),
        (text_of(b"hello"), "this is no picture: take one of BMP, .*PNG"),
        ("data:image/png;base64,???", "this is no picture"),
        (text_of(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "this is no picture"),
    ],
)
def test_what_is_no_picture_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        from_data_uri(text)


def test_damaged_deep_and_large_pictures_are_refused(monkeypatch):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50), np.uint8))
    whole = uri_of(picture)
    with pytest.raises(ValueError, match="this picture cannot be read"):
        from_data_uri(whole[: len(whole) // 2 // 4 * 4 + 2])
    with pytest.raises(ValueError, match="more than 8 bits"):
        from_data_uri(uri_of(Image.fromarray(np.zeros((2, 2), np.uint16))))
    monkeypatch.setattr(encoding, "MOST_PIXELS", 2000)
    with pytest.raises(ValueError, match="more than 0 million pixels"):
        from_data_uri(whole)
    monkeypatch.setattr(encoding, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="this file has more than 20 MB"):
        from_data_uri(whole)
