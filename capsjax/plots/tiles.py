"""Pictures made of pixels, in milliseconds and without matplotlib, for a run that goes on."""

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np

# Pixels of an image's longer side: smaller ones are enlarged, and of larger ones some are drawn.
LEAST_SIDE, MOST_SIDE = 84, 168
# Pixels between images, of a line of text, and of its letters.
GAP, CAPTION, LETTERS = 6, 16, 11
INK, PAPER = (0, 0, 0), (255, 255, 255)
# Classes whose confusions are written as numbers, pixels of a cell then, and of a matrix of more.
MOST_NUMBERED, CELL, MATRIX = 20, 30, 600
# Pixels that the name of a class takes beside a matrix.
MOST_NAME = 90
RIGHT, WRONG = (33, 102, 172), (214, 96, 77)


def stacked(rows: Sequence[np.ndarray], captions: Sequence[str] = ()) -> np.ndarray:
    """Draw rows of images below each other, such as images over their reconstructions.

    Args:
      rows: of each row its images, (n, h, w, c), uint8 or floating point in [0, 1].
      captions: a text above each column; empty for none.

    Returns:
      The picture, uint8, (height, width, 3).
    """
    bands = [_in_a_row([_scaled(image) for image in _in_colour(row)]) for row in rows]
    picture = np.concatenate(bands)
    if not captions:
        return picture
    above = np.full((CAPTION, *picture.shape[1:]), 255, np.uint8)
    sheet, draw = _sheet(np.concatenate([above, picture]))
    step = (picture.shape[1] - GAP) // len(captions)
    for column, caption in enumerate(captions):
        draw.text((GAP + column * step, 1), _cut(caption, step - GAP), fill=INK, font=_font())
    return np.asarray(sheet)


def confusion(matrix: np.ndarray, class_names: Sequence[str] = ()) -> np.ndarray:
    """Draw how often each class was taken for each: a row for each label, a column for each answer.

    Shades are shares of a row: blue where the answer is right, red where it is wrong.

    Args:
      matrix: counts, (k, k).
      class_names: name of each class; empty for numbers.

    Returns:
      The picture, uint8, (height, width, 3).
    """
    count = len(matrix)
    cell = CELL if count <= MOST_NUMBERED else max(1, MATRIX // count)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    ink = np.where(np.eye(count, dtype=bool)[:, :, None], RIGHT, WRONG)
    # The root shows one mistake among a hundred answers.
    shade = np.sqrt(shares)[:, :, None]
    cells = (255 + shade * (ink - 255)).astype(np.uint8)
    picture = cells.repeat(cell, axis=0).repeat(cell, axis=1)
    if count > MOST_NUMBERED:
        return picture
    names = [_cut(name, MOST_NAME) for name in class_names or map(str, range(count))]
    left = 2 * GAP + int(max(map(_font().getlength, names)))
    margins = ((left, CAPTION), (left, GAP), (0, 0))
    sheet, draw = _sheet(np.pad(picture, margins, constant_values=255))
    _name_classes(sheet, draw, names, left)
    legend = "rows: labels, columns: answers"
    draw.text((GAP, sheet.height - 1), legend, fill=INK, font=_font(), anchor="lb")
    for row, column in np.argwhere(matrix).tolist():
        place = (left + (column + 0.5) * CELL, left + (row + 0.5) * CELL)
        is_dark = row == column and shares[row, column] > 0.3
        fill = PAPER if is_dark else INK
        draw.text(place, str(matrix[row, column]), fill=fill, font=_font(), anchor="mm")
    return np.asarray(sheet)


def _name_classes(sheet, draw, names: Sequence[str], left: int) -> None:
    """Write the names of the classes beside the rows, and upwards above the columns."""
    from PIL import Image, ImageDraw

    for place, name in enumerate(names):
        middle = left + (place + 0.5) * CELL
        draw.text((left - GAP, middle), name, fill=INK, font=_font(), anchor="rm")
        upright = Image.new("RGB", (left, CELL), PAPER)
        place_in_it = (GAP, CELL / 2)
        ImageDraw.Draw(upright).text(place_in_it, name, fill=INK, font=_font(), anchor="lm")
        sheet.paste(upright.rotate(90, expand=True), (left + place * CELL, 0))


def _sheet(picture: np.ndarray):
    from PIL import Image, ImageDraw

    sheet = Image.fromarray(picture)
    return sheet, ImageDraw.Draw(sheet)


@functools.cache
def _font():
    """Return the font that comes with matplotlib: Pillow's own has few letters beyond ASCII."""
    from PIL import ImageFont

    (folder,) = importlib.util.find_spec("matplotlib").submodule_search_locations
    return ImageFont.truetype(
        Path(folder) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf", LETTERS
    )


def _cut(text: str, width: int) -> str:
    """Return a text as one line, without its end if it is too wide."""
    text = " ".join(text.split())
    if _font().getlength(text) <= width:
        return text
    shorter = (text[:kept] + "…" for kept in range(len(text), 0, -1))
    return next((each for each in shorter if _font().getlength(each) <= width), "")


def _in_colour(images: np.ndarray) -> np.ndarray:
    """Return images as uint8 with three channels; all but three are drawn as their mean."""
    if images.dtype != np.uint8:
        images = (255 * np.clip(np.nan_to_num(images), 0, 1)).round().astype(np.uint8)
    if images.shape[-1] == 3:
        return images
    return images.mean(axis=-1, keepdims=True).astype(np.uint8).repeat(3, axis=-1)


def _scaled(image: np.ndarray) -> np.ndarray:
    side = max(image.shape[:2])
    times, every = max(1, LEAST_SIDE // side), -(-side // MOST_SIDE)
    return image[::every, ::every].repeat(times, axis=0).repeat(times, axis=1)


def _in_a_row(images: Sequence[np.ndarray]) -> np.ndarray:
    padded = [np.pad(each, ((0, GAP), (GAP, 0), (0, 0)), constant_values=255) for each in images]
    row = np.concatenate(padded, axis=1)
    return np.pad(row, ((0, 0), (0, GAP), (0, 0)), constant_values=255)
