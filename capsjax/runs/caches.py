"""What runs leave on a machine outside of their folders, to spare the next start some work."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from capsjax.data.cache import cache_dir
from capsjax.data.tfds import find_data_dir

# A file of `capsjax.data.cache` for a set of TFDS, and what is left of one by a kill.
DECODED = re.compile(r".+-[0-9a-f]+-[0-9a-f]{12}-(train|test)\.npz|tmp.+\.tmp")
# What JAX writes to the folder of its compiled programs, where XLA keeps its choices for a GPU too.
COMPILED = re.compile(r".+-(cache|atime)|xla_gpu_per_fusion_autotune_cache_dir")


class Cache(NamedTuple):
    """Files of one kind that are made again when they are needed.

    Attributes:
      content: what they are.
      folder: where they are.
      paths: the files and folders in it that belong to the cache.
      is_shared: whether other programs than capsjax may use them.
    """

    content: str
    folder: Path
    paths: list[Path]
    is_shared: bool

    def size(self) -> int:
        """Return the bytes of all files."""
        return sum(file.lstat().st_size for path in self.paths for file in _files(path))

    def remove(self) -> None:
        """Delete the files, and the folder if it is capsjax's own and nothing else is in it.

        Raises:
          OSError: if they cannot be deleted.
        """
        for path in self.paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        if not self.is_shared and not any(self.folder.iterdir()):
            self.folder.rmdir()


def find_caches(data_dir: str = "") -> list[Cache]:
    """Find all caches that are not empty.

    Args:
      data_dir: TFDS's directory; empty for $TFDS_DATA_DIR, else TFDS's own default.
    """
    own, sets = cache_dir(), Path(find_data_dir(data_dir))
    found = [
        Cache("compiled programs", own / "compiled", _children(own / "compiled"), False),
        Cache("decoded data sets", own, _matching(own, DECODED), False),
        Cache("prepared data sets of TFDS", sets, list(filter(_is_set, _children(sets))), True),
    ]
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        common = Path(os.environ["JAX_COMPILATION_CACHE_DIR"]).expanduser()
        found.append(Cache("compiled programs of JAX", common, _matching(common, COMPILED), True))
    return [cache for cache in found if cache.paths]


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _matching(folder: Path, pattern: re.Pattern) -> list[Path]:
    return [path for path in _children(folder) if pattern.fullmatch(path.name)]


def _is_set(path: Path) -> bool:
    """Return whether a folder in TFDS's directory is a prepared set, or TFDS's downloads."""
    infos = ("*/dataset_info.json", "*/*/dataset_info.json")  # by version; by config and version
    return path.name == "downloads" or any(any(path.glob(info)) for info in infos)


def _files(path: Path) -> Iterator[Path]:
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for folder, _, names in os.walk(path):
        yield from (Path(folder) / name for name in names)
