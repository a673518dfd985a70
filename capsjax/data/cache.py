"""Decoded data sets, kept on disk so that they are decoded only once."""

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from capsjax.data.arrays import Arrays


def cache_dir() -> Path:
    """Return the directory of decoded arrays: $CAPSJAX_CACHE_DIR, else the user's cache."""
    if "CAPSJAX_CACHE_DIR" in os.environ:
        return Path(os.environ["CAPSJAX_CACHE_DIR"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "capsjax"


def cached(key: str, decode: Callable[[], Arrays]) -> Arrays:
    """Return the arrays cached under a key, or decode and cache them.

    Two processes that start at once both decode, and each moves a whole file to the final name
    in one step, so neither ever reads a partial one. An unreadable file is made anew, and an
    unwritable disk costs the next start only its ten seconds.

    Args:
      key: file name without its suffix, unique to the content.
      decode: function that makes the arrays.
    """
    path = cache_dir() / f"{key}.npz"
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return Arrays(file["images"], file["labels"], int(file["num_classes"]))
    except Exception:
        pass  # missing, not ours to read, or damaged in one of zipfile's and numpy's many ways
    arrays = decode()
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            np.savez(
                file, images=arrays.images, labels=arrays.labels, num_classes=arrays.num_classes
            )
        os.replace(temporary, path)
    except OSError:
        pass
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    return arrays
