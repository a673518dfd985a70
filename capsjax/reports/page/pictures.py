"""Images and figures as texts that a page holds."""

import base64
import io

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

COLOURS = 3
# Rows and columns of an image on a page: larger ones are made smaller.
MOST_PIXELS = 128


def is_ink(channels: int) -> bool:
    """Return whether images are drawn as ink on paper, as in the figures: all that have no colours.

    >>> is_ink(1), is_ink(3)
    (True, False)
    """
    return channels != COLOURS


def picture(image: np.ndarray) -> str:
    """Return the address of an image (h, w, c) in [0, 1], with the image in it."""
    pixels = np.clip(image, 0.0, 1.0)
    if is_ink(image.shape[-1]):
        pixels = 1.0 - pixels.mean(axis=-1)
    shown = Image.fromarray(np.round(255 * pixels).astype(np.uint8))
    shown.thumbnail((MOST_PIXELS, MOST_PIXELS))  # changes nothing that is smaller
    content = io.BytesIO()
    shown.save(content, "PNG", optimize=True)
    return address_of(content.getvalue())


def drawn(figure: Figure) -> str:
    """Return the address of a figure, with the figure in it."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return address_of(content.getvalue())


def numbers(array: np.ndarray, dtype: type = np.float32) -> str:
    """Return the numbers of an array as text: base64 of little-endian bytes.

    >>> numbers(np.ones(1))
    'AACAPw=='
    """
    little = np.ascontiguousarray(array, np.dtype(dtype).newbyteorder("<"))
    return base64.b64encode(little.tobytes()).decode()


def address_of(png: bytes) -> str:
    """Return the address of a PNG, with the PNG in it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
