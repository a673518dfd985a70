"""Small files, written so that nobody ever reads a partial one, and known when damaged."""

import contextlib
import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

SEAL = "sha256"


class WorkdirError(ValueError):
    """A folder that does not contain the expected run; the message names the remedy."""


class DamagedFileError(ValueError):
    """A file that is not what was written; the message names it.

    Attributes:
      path: the file.
      reason: how its damage shows.
    """

    def __init__(self, path: Path, reason: object):
        super().__init__(f"{path} is damaged: {reason}")
        self.path, self.reason = path, reason


def reason(error: Exception) -> str:
    """Return the start of an error's message, or what the system says about the disk.

    >>> reason(ValueError("RESOURCE_EXHAUSTED: ... [os_error_code='28']"))
    'No space left on device'
    """
    text = " ".join(str(error).split())
    code = re.search(r"os_error_code='(\d+)'", text)  # of tensorstore, behind a long path
    return os.strerror(int(code[1])) if code else f"{type(error).__name__}: {text[:200]}"


def make_folder(path: Path) -> None:
    """Make the folder of a run, with those above it, unless it exists.

    Raises:
      WorkdirError: if it cannot be made.
    """
    if path.exists() and not path.is_dir():
        raise WorkdirError(f"--workdir={path} is a file")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkdirError(f"--workdir={path} cannot be made: {error}") from None


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in errors of writing it, such as of a full disk: the system does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_text(path: Path, text: str) -> None:
    """Put a whole file in place in one step."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Put a whole file in place in one step."""
    with (
        naming(path),
        tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=path.name, suffix=".tmp", delete=False
        ) as file,
    ):
        temporary = file.name
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(temporary, 0o644)  # temporary files are private; these are for everybody
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, as `write_text` does."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
      OSError: if it cannot be read.
      DamagedFileError: if it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedFileError(path, error) from None


def digest(fields: Mapping[str, Any]) -> str:
    """Return the SHA-256 of fields as JSON, the same whether they were written and read or not."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def sealed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields with their digest beside them, by which `read_sealed` notices a change."""
    return {**fields, SEAL: digest(fields)}


def read_sealed(path: Path, needed: Collection[str] = ()) -> dict[str, Any]:
    """Read a JSON file of sealed fields; those that earlier versions wrote have no seal.

    Args:
      path: the file.
      needed: fields that it has if it is whole.

    Raises:
      OSError: if it cannot be read.
      DamagedFileError: if it is no such file, or differs from what was written.
    """
    fields = read_json(path)
    if not isinstance(fields, dict):
        raise DamagedFileError(path, "it is no object")
    missing = [name for name in needed if name not in fields]
    if missing:
        raise DamagedFileError(path, f"it has no field {missing[0]!r}")
    rest = {name: value for name, value in fields.items() if name != SEAL}
    if fields.get(SEAL, digest(rest)) != digest(rest):
        raise DamagedFileError(path, f"it differs from what was written ({SEAL})")
    return fields


def set_aside(error: DamagedFileError, outcome: str) -> None:
    """Move a damaged file to an unused name beside it, and report that with the outcome."""
    target = _unused_beside(error.path)
    os.replace(error.path, target)
    warn(f"{error}; moved to {target}; {outcome}")


def replace_damaged(error: DamagedFileError, value: Any, outcome: str) -> None:
    """Write a damaged JSON file anew, with a copy of what it was; the file is never missing."""
    target = _unused_beside(error.path)
    write_bytes(target, error.path.read_bytes())
    write_json(error.path, value)
    warn(f"{error}; copied to {target}; {outcome}")


def _unused_beside(path: Path) -> Path:
    """Return an unused name for a damaged file."""
    target, number = path.with_name(f"{path.name}.damaged"), 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.damaged-{number}")
    return target


def warn(line: str) -> None:
    """Report in a line, beside the progress, what did not go as it should."""
    logging.getLogger("absl").warning("%s", line)
