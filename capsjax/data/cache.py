"""Decoded data sets, kept on disk so that they are decoded once."""

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from capsjax.data.arrays import Arrays


def cache_dir() -> Path:
    """Where decoded arrays are kept: $CAPSJAX_CACHE_DIR, else the user's cache directory."""
    if "CAPSJAX_CACHE_DIR" in os.environ:
        return Path(os.environ["CAPSJAX_CACHE_DIR"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "capsjax"


def cached(key: str, decode: Callable[[], Arrays]) -> Arrays:
    """The arrays kept under that key, or those that `decode` gives, which are then kept.

    Two processes that start at once both decode, and each puts a whole file in place under the
    final name in one step; neither ever sees half a file. A file that cannot be read is made
    anew, and a disk that cannot be written costs the next start its ten seconds, no more.

    Args:
      key: a file name without its suffix, different for every content.
      decode: makes the arrays.
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
