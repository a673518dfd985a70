"""Pictures as text: PNG in data URIs, as the page holds them and sends them."""

import base64
import binascii
import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from capsjax.data.pictures import on_white, upright

# The largest picture that is taken, in bytes and in pixels.
MOST_BYTES = 20_000_000
MOST_PIXELS = 50_000_000
# A picture is made this small before anything else; no network takes larger ones.
LARGEST_SIDE = 1024
TOO_LARGE = f"this file has more than {MOST_BYTES // 1_000_000} MB: take a smaller one"
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def to_data_uri(image: np.ndarray) -> str:
    """Return an image as a PNG in a data URI.

    Args:
      image: uint8, (h, w, c).

    >>> to_data_uri(np.zeros((2, 2, 1), np.uint8))[:30]
    'data:image/png;base64,iVBORw0K'
    """
    stream = io.BytesIO()
    # The fastest level: a slider waits for it.
    to_picture(image).save(stream, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def to_picture(image: np.ndarray) -> Image.Image:
    """Return an image (h, w, c), uint8, as a picture: in colour, or the mean of its channels.

    >>> to_picture(np.array([[[10, 30]]], np.uint8)).getpixel((0, 0))
    20
    """
    if image.shape[-1] in (3, 4):
        return Image.fromarray(image)
    return Image.fromarray(image.mean(axis=-1).round().astype(np.uint8))


def to_bytes(image: np.ndarray) -> np.ndarray:
    """Return an image of numbers in [0, 1], or a little beyond, as uint8."""
    return np.round(255 * np.clip(image, 0.0, 1.0)).astype(np.uint8)


def from_data_uri(text: str) -> Image.Image:
    """Read the picture of a data URI, in grey ("L") or colour ("RGB"), at most 1024 pixels wide.

    What is transparent becomes white; a picture that a camera has marked as turned is upright.

    Raises:
      ValueError: for anything that is no picture, or one that is too large.
    """
    head, _, body = text.partition(",")
    if not head.startswith("data:") or not head.endswith(";base64"):
        raise ValueError("this is no picture")
    if len(body) > MOST_BYTES * 4 / 3:
        raise ValueError(TOO_LARGE)
    try:
        stream = io.BytesIO(base64.b64decode(body, validate=True))
        with Image.open(stream, formats=FORMATS) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                most = MOST_PIXELS // 1_000_000
                raise ValueError(f"this picture has more than {most} million pixels")
            return _plain(picture)
    except (UnidentifiedImageError, binascii.Error):
        raise ValueError(f"this is no picture: take one of {', '.join(FORMATS)}") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # damaged, or cut off
        raise ValueError(f"this picture cannot be read: {error}") from None


def _plain(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):
        # Pillow would cut off whatever is above 255.
        raise ValueError("this picture has more than 8 bits for a pixel's grey: save it with 8")
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    picture = upright(picture)
    if picture.mode in ("1", "L"):
        return picture.convert("L")
    return on_white(picture).convert("RGB")
