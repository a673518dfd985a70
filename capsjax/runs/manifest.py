"""Checksums of a folder: a file with the SHA-256 of every other, written last.

A file counts as whole if it is what the manifest lists. The manifest is written once all files and
folders that it covers are on the disk, so that a power cut leaves either no manifest or a true one.
It is in the format of `sha256sum`; its last line, a comment, is the checksum of the manifest
itself. To check a checkpoint by hand: `cd runs/a/checkpoints/195; sha256sum -c manifest.sha256`.
"""

import errno
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from capsjax.runs.files import write_text

NAME = "manifest.sha256"


def write(folder: Path) -> None:
    """Write a folder to the disk for good, and then its manifest.

    Args:
      folder: the folder, in which nothing is written any more.

    Raises:
      OSError: if the disk is full or fails; the folder then has no manifest.
    """
    paths = sorted(folder.rglob("*"))
    files = [path for path in paths if path.is_file()]
    with ThreadPoolExecutor() as pool:  # a disk writes several files in the time of one
        digests = list(pool.map(_sync_file, files))
    folders = [folder, *(path for path in paths if path.is_dir())]
    for each in folders:
        sync_folder(each)
    lines = [
        f"{digest}  {path.relative_to(folder).as_posix()}\n"
        for digest, path in zip(digests, files, strict=True)
    ]
    write_text(folder / NAME, _sealed("".join(lines)))
    sync_folder(folder)


def difference(folder: Path, part: str = "") -> str | None:
    """Compare a folder with its manifest.

    Args:
      folder: the folder.
      part: name of a folder in it, to compare only that.

    Returns:
      The first file that is missing or damaged, in words; None if all are whole.
    """
    try:
        text = (folder / NAME).read_bytes().decode()
    except FileNotFoundError:
        return f"{NAME} is missing"
    except UnicodeDecodeError:
        return f"{NAME} is damaged"
    listed = text.rpartition("# ")[0]
    if text != _sealed(listed):
        return f"{NAME} is damaged"
    for line in listed.splitlines():
        digest, _, name = line.partition("  ")
        if not part or name.startswith(f"{part}/"):
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if _digest(path) != digest:
                return f"{name} is not what was saved (another SHA-256)"
    return None


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems do this by themselves
            raise
    finally:
        os.close(handle)


def _sync_file(path: Path) -> str:
    """Write a file to the disk, and return its checksum."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return _digest(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sealed(listed: str) -> str:
    """Add the line with the checksum of the lines themselves."""
    return f"{listed}# {hashlib.sha256(listed.encode()).hexdigest()}\n"
