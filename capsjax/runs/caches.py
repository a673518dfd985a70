"""What runs leave on a machine outside of their folders, to spare the next start some work."""

import json
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
        """Delete the files, and the folders that are empty then, but for one that is shared.

        Raises:
          OSError: if they cannot be deleted.
        """
        for path in self.paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
            parent = path.parent
            while parent != self.folder and not any(parent.iterdir()):
                parent.rmdir()
                parent = parent.parent
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
        Cache("prepared data sets of TFDS", sets, _prepared(sets), True),
    ]
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        common = Path(os.environ["JAX_COMPILATION_CACHE_DIR"]).expanduser()
        found.append(Cache("compiled programs of JAX", common, _matching(common, COMPILED), True))
    return [cache for cache in found if cache.paths]


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _matching(folder: Path, pattern: re.Pattern) -> list[Path]:
    return [path for path in _children(folder) if pattern.fullmatch(path.name)]


def _prepared(sets: Path) -> list[Path]:
    """Return the prepared sets in TFDS's directory, by version, and what it downloaded for them.

    The directory may be one where other people keep things too, and sets that were downloaded by
    hand.
    """
    infos = ("*/*/dataset_info.json", "*/*/*/dataset_info.json")  # by version; config and version
    found = [path.parent for info in infos for path in sets.glob(info) if _is_of_set(path, sets)]
    return sorted([*found, *filter(_is_fetched, _children(sets / "downloads"))])


def _is_fetched(path: Path) -> bool:
    """Return whether TFDS downloaded or unpacked a file: it writes a file .INFO beside each one."""
    beside = path.with_name(f"{path.name}.INFO")
    return path.name == "extracted" or path.suffix == ".INFO" or beside.exists()


def _is_of_set(info: Path, sets: Path) -> bool:
    """Return whether a dataset_info.json is that of the set after which its folder is named."""
    name = info.relative_to(sets)
    if info.resolve() != sets.resolve() / name:  # behind a link, which may lead anywhere
        return False
    try:
        fields = json.loads(info.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(fields, dict) and fields.get("name") == name.parts[0]


def _files(path: Path) -> Iterator[Path]:
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for folder, _, names in os.walk(path):
        yield from (Path(folder) / name for name in names)
