"""Text in figures: names of classes, titles that fit, and ticks that have room."""

import functools
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.textpath import TextPath

INK = "#222222"
GOOD, BAD = "#1b7837", "#b2182b"
# Longer names of classes are cut off, where a figure has many.
MOST_CHARACTERS = 12
POINTS_PER_INCH = 72
# Height of a line of text, as a multiple of its size.
LINE = 1.3


def plain(text: str) -> str:
    r"""Return a text that is drawn as it stands: dollar signs begin no formula.

    >>> print(plain("$x$"))
    \$x\$
    """
    return text.replace("$", r"\$")


def name_of(label: int | np.integer, class_names: Sequence[str]) -> str:
    """Return the name of a class for a figure; its number where classes have no names.

    >>> name_of(1, ("cat", "a very long-legged bird")), name_of(1, ())
    ('a very long…', '1')
    """
    name = class_names[label] if class_names else str(label)
    return plain(name if len(name) <= MOST_CHARACTERS else f"{name[: MOST_CHARACTERS - 1]}…")


def width_of(text: str, size: float | int) -> float:
    """Return the width of a text's widest line in inches.

    Args:
      text: one or more lines.
      size: size of the font in points.
    """
    return max(map(_width_of_line, _drawn(text)), default=0.0) * size / POINTS_PER_INCH


@functools.lru_cache(maxsize=4096)
def _width_of_line(line: str) -> float:
    """Return the width of a line in points, for a font of one point.

    That of the control points, hardly larger than that of the outlines and found in a sixth of the
    time.
    """
    vertices = TextPath((0, 0), line, size=100.0).vertices
    return float(np.ptp(vertices[:, 0])) / 100.0 if len(vertices) else 0.0


def height_of(text: str, size: float | int) -> float:
    """Return the height of a text in inches."""
    return LINE * size * len(text.split("\n")) / POINTS_PER_INCH


def fitted(text: str, inches: float | int, size: float | int) -> str:
    """Break the lines of a text so that none is wider than a figure has room for.

    Args:
      text: one or more lines.
      inches: the room.
      size: size of the font in points.

    >>> fitted("one two", 0.5, 10.0)
    'one\\ntwo'
    """
    lines: list[str] = []
    for line in plain(text).split("\n"):
        current = ""
        for word in _pieces(line, inches, size):
            longer = f"{current} {word}" if current else word
            if current and width_of(longer, size) > inches:
                lines.append(current)
                longer = word
            current = longer
        lines.append(current)
    return "\n".join(lines)


def with_room(count: int, inches: float | int, each: float) -> slice:
    """Choose every k-th of a number of ticks, so that each has room for its label.

    Args:
      count: number of ticks.
      inches: length of their axis.
      each: room that a label takes along it, in inches.

    >>> with_room(100, 5.0, 0.2)
    slice(None, None, 4)
    """
    fitting = max(1, int(inches / each + 1e-9))
    return slice(None, None, -(-count // fitting) or 1)


def _drawn(text: str) -> Iterator[str]:
    # A line of spaces has no extent.
    return (line for line in text.split("\n") if line.strip())


def _pieces(line: str, inches: float | int, size: float | int) -> Iterator[str]:
    """Yield the words of a line, those that are too wide in pieces."""
    for word in line.split(" "):
        piece = ""
        for character in word if width_of(word, size) > inches else ():
            if piece and width_of(piece + character, size) > inches:
                yield piece
                piece = ""
            piece += character
        yield piece or word
