"""Pictures of files and folders, as images of one size."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from tqdm import tqdm

from capsjax.data.arrays import DataError

# What a folder is searched for.
SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
GREY = ("1", "L", "LA")
DEEP = ("I", "F")
# How pictures of each orientation of EXIF are turned to be shown; others are shown as they are.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ON_ITS_SIDE = (5, 6, 7, 8)


class Description(NamedTuple):
    """What a picture is: its size (h, w), and whether it is grey."""

    size: tuple[int, int]
    is_grey: bool


def find_pictures(paths: Sequence[str | Path]) -> list[Path]:
    """Find pictures: files by name, and all below folders, in the order of their names.

    Below folders, names that begin with a dot are hidden: systems and editors keep copies there.

    Raises:
      ValueError: for a path that is not there, or a folder without pictures.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = [each for each in sorted(path.rglob("*")) if _is_shown_picture(each, path)]
            if not inside:
                raise ValueError(f"no pictures below {path} ({', '.join(sorted(SUFFIXES))})")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise ValueError(f"no file or folder {path}")
    return found


def _is_shown_picture(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def read_picture(path: Path, image_shape: Sequence[int]) -> np.ndarray:
    """Read a picture, in grey or colour as the images have channels, and resize it.

    A picture that a camera has marked as turned (the orientation of EXIF) is read upright.

    Args:
      path: a file that Pillow can read.
      image_shape: (h, w, c) of the result; 1, 3 or 4 channels.

    Returns:
      The image, uint8 (h, w, c).

    Raises:
      ValueError: for a file that is no picture, or another number of channels.
    """
    with _opened(path) as picture:
        return fitted_picture(upright(picture), image_shape)


def fitted_picture(picture: Image.Image, image_shape: Sequence[int]) -> np.ndarray:
    """Return a picture as an image of the given shape, as `read_picture` does.

    What is transparent becomes white, but for images of 4 channels.

    Raises:
      ValueError: for another number of channels than 1, 3 or 4.
    """
    height, width, channels = image_shape
    if channels not in MODES:
        raise ValueError(f"a picture has 1, 3 or 4 channels, and these images {channels}")
    if channels < 4:
        picture = on_white(picture)
    resized = picture.convert(MODES[channels]).resize((width, height), Image.Resampling.BOX)
    return np.asarray(resized).reshape(height, width, channels)


def check_size(image_size: Sequence[int]) -> None:
    """Raise DataError for a setting image_size that is neither empty nor rows and columns."""
    if image_size and not (len(image_size) == 2 and min(image_size) >= 1):
        raise DataError(f"image_size is rows and columns, (28, 28), not {tuple(image_size)}")


def read_pictures(paths: Sequence[Path], image_shape: Sequence[int]) -> np.ndarray:
    """Read pictures as `read_picture`, and show the progress; uint8 (n, h, w, c)."""
    read = tqdm(paths, "reading", unit="picture", disable=None, leave=False, delay=1)
    return np.stack([read_picture(path, image_shape) for path in read])


def describe_picture(path: Path) -> Description:
    """Read the size and the colours of a picture, without its pixels.

    Raises:
      ValueError: as `read_picture`.
    """
    with _opened(path) as picture:
        size = picture.height, picture.width
        # Pillow reports the size of a TIFF as it is shown, and of other formats as they are stored.
        if picture.format != "TIFF" and _orientation(picture) in ON_ITS_SIDE:
            size = size[::-1]
        return Description(size, picture.mode in GREY)


def upright(picture: Image.Image) -> Image.Image:
    """Return a picture turned as the orientation of its EXIF says that it is to be shown."""
    picture.load()  # Pillow turns a TIFF as it loads it, which has no orientation then.
    turn = TURNS.get(_orientation(picture))
    return picture if turn is None else picture.transpose(turn)


def on_white(picture: Image.Image) -> Image.Image:
    """Return a picture without transparency, as it looks on white paper."""
    if not picture.has_transparency_data:
        return picture
    paper = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(paper, picture.convert("RGBA")).convert("RGB")


def _orientation(picture: Image.Image) -> int:
    try:
        return picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises errors of several kinds where EXIF is damaged
        return 1


def check_depth(picture: Image.Image, name: str | Path) -> None:
    """Raise DataError for a picture of which Pillow would cut off what is above 255."""
    if picture.mode.startswith(DEEP):
        raise DataError(f"{name} has more than 8 bits for a pixel's grey: save it with 8")


@contextlib.contextmanager
def naming(name: str | Path) -> Iterator[None]:
    """Raise DataError, with the name of a picture, for what Pillow raises while it reads one."""
    try:
        yield
    except Image.DecompressionBombError:
        most = 2 * Image.MAX_IMAGE_PIXELS // 10**6
        raise DataError(f"{name} has more than {most} megapixels: save it smaller") from None
    except UnidentifiedImageError:
        raise DataError(f"{name} is no picture that Pillow can read") from None
    except (OSError, SyntaxError) as error:  # a damaged PNG raises either
        raise DataError(f"{name} cannot be read: {error}") from None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    # Pillow (12.3) garbles an uncompressed TIFF that lies on its side when it opens it by name.
    with naming(path), path.open("rb") as stream, Image.open(stream) as picture:
        check_depth(picture, path)
        yield picture
