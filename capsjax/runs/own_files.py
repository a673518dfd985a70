"""Files of a user's own that registered what a run names: recorded, copied, and loaded again.

own_files.json   for each name of the config that such a file registered: the file, its SHA-256,
                 that of its code, and its copy
code/            the copies

A command that uses a trained network finds the algorithm again without the config that imported it:
in the file if its code is still the same, and otherwise in the copy.
"""

import ast
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from capsjax.config.files import load_module
from capsjax.registry import OWN_FILES, OwnFile
from capsjax.runs.files import (
    DamagedFileError,
    WorkdirError,
    read_sealed,
    sealed,
    set_aside,
    warn,
    write_bytes,
    write_json,
)

RECORD = "own_files.json"
COPIES = "code"
# What it returns is compared by itself, field for field.
CONFIG_FUNCTION = "get_config"


def record_own_files(workdir: Path, fields: Mapping[str, Any]) -> None:
    """Record the files that registered what a config names, with copies; compare them with earlier.

    Args:
      workdir: folder of a run or sweep.
      fields: its resolved config.

    Raises:
      WorkdirError: if the code of a file is not that with which the run began.
    """
    now = _named_in(fields)
    before = _read_or_set_aside(workdir)
    _check_same_code(workdir, before, now)
    if not now or now == before:
        return
    for key, entry in now.items():
        if entry["file"]:
            copy = workdir / entry["copy"]
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(copy, OWN_FILES[key].content)
    write_json(workdir / RECORD, sealed({"files": list(now.values())}))


def check_own_files(workdir: Path, fields: Mapping[str, Any]) -> None:
    """Compare the files that registered what a config names with those of a run, and write nothing.

    Args:
      workdir, fields: as in `record_own_files`.

    Raises:
      WorkdirError: as there.
    """
    try:
        _check_same_code(workdir, _read(workdir), _named_in(fields))
    except DamagedFileError as error:
        warn(f"{error}: whether the files of your own are still the same is not known")


def load_own_files(workdir: Path) -> None:
    """Load the files that registered what a run names, unless this program has done so already.

    Raises:
      WorkdirError: if one cannot be loaded, or there is none; the message names the remedy.
    """
    for key, entry in _read(workdir).items():
        if key in OWN_FILES:
            continue
        what = f"the {entry['kind']} {entry['name']!r} of this run"
        if not entry["file"]:
            raise WorkdirError(
                f"{what} was registered in no file, as in a notebook: register it there again "
                "before you load the run"
            )
        file = _file_or_copy(workdir, entry, what)
        try:
            load_module(file, Path(entry["file"]).stem)
        except Exception as error:  # whatever a file of the user's raises
            raise WorkdirError(
                f"{what} is in {file}, which raises {type(error).__name__}: {error}. It was "
                f"{entry['file']}: put it back, with the files that it imports"
            ) from error
        if key not in OWN_FILES:
            raise WorkdirError(f"{what} is no longer registered by {file}")


def stored_own_files(workdir: Path) -> dict[str, bytes]:
    """Return what `load_own_files` reads, by path below the folder of the run.

    Raises:
      WorkdirError: if a file and its copy are gone or have other code.
    """
    stored = {}
    for entry in _read(workdir).values():
        stored[RECORD] = (workdir / RECORD).read_bytes()
        if entry["file"]:
            what = f"the {entry['kind']} {entry['name']!r} of this run"
            stored[entry["copy"]] = _file_or_copy(workdir, entry, what).read_bytes()
    return stored


def recorded_codes(workdir: Path) -> list[tuple[str, str, str | None]]:
    """Return kind, name and `code_digest` of all that files of the user's registered for a run.

    Raises:
      DamagedFileError: for a damaged record.
    """
    return [(*key, entry.get("code")) for key, entry in sorted(_read(workdir).items())]


def code_digest(content: bytes) -> str:
    """Return the SHA-256 of a file's code: comments, docstrings and `get_config` do not count.

    >>> code_digest(b"x = 1  # one") == code_digest(b"x = 1") != code_digest(b"x = 2")
    True
    """
    tree = ast.parse(content)
    tree.body = [node for node in tree.body if getattr(node, "name", "") != CONFIG_FUNCTION]
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            del body[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _is_docstring(node: ast.AST) -> bool:
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
        return False
    return isinstance(node.value.value, str)


def _named_in(fields: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Describe the files that registered what a config names, by kind and name."""
    names = set(_names_in(fields))
    return {key: _describe(*key, OWN_FILES[key]) for key in sorted(OWN_FILES) if key[1] in names}


def _names_in(value: Any) -> Iterator[str]:
    """Yield all names of fields and all strings in a config."""
    if isinstance(value, Mapping):
        for field, inner in value.items():
            yield field.removesuffix("_loss")
            yield from _names_in(inner)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _names_in(item)


def _describe(kind: str, name: str, own: OwnFile | None) -> dict[str, Any]:
    if own is None:
        return {"kind": kind, "name": name, "file": None}
    sha256 = hashlib.sha256(own.content).hexdigest()
    return {
        "kind": kind,
        "name": name,
        "file": str(own.path),
        "sha256": sha256,
        "code": code_digest(own.content),
        "copy": f"{COPIES}/{sha256[:8]}/{own.path.name}",
    }


def _check_same_code(
    workdir: Path,
    before: Mapping[tuple[str, str], Mapping[str, Any]],
    now: Mapping[tuple[str, str], Mapping[str, Any]],
) -> None:
    for key in before.keys() & now.keys():
        first, entry = before[key], now[key]
        if first.get("code") != entry.get("code"):
            place = f"in {workdir / first['copy']}" if first["file"] else "in no file"
            raise WorkdirError(
                f"the {entry['kind']} {entry['name']!r} is not the one that {workdir} began with, "
                f"whose code is {place}, but that of {entry['file'] or 'a notebook'}. Put it "
                "back, or name another --workdir"
            )


def _file_or_copy(workdir: Path, entry: Mapping[str, Any], what: str) -> Path:
    """Return the file, or its copy where it is gone or has other code, with a line."""
    file, copy = Path(entry["file"]), workdir / entry["copy"]
    if file.is_file():
        if _code_of(file) == entry["code"]:
            return file
        problem = "has other code now"
    else:
        problem = "is gone"
    if not copy.is_file() or _code_of(copy) != entry["code"]:
        raise WorkdirError(
            f"{what} was registered by {file}, which {problem}, and its copy {copy} is missing or "
            "damaged: put it back"
        )
    warn(f"{file} {problem}: {what} is taken from its copy {copy}")
    return copy


def _code_of(file: Path) -> str | None:
    try:
        return code_digest(file.read_bytes())
    except (SyntaxError, ValueError):
        return None


def _read(workdir: Path) -> dict[tuple[str, str], dict[str, Any]]:
    path = workdir / RECORD
    if not path.exists():
        return {}
    entries = read_sealed(path, needed=("files",))["files"]
    return {(entry["kind"], entry["name"]): entry for entry in entries}


def _read_or_set_aside(workdir: Path) -> dict[tuple[str, str], dict[str, Any]]:
    try:
        return _read(workdir)
    except DamagedFileError as error:
        set_aside(error, "written anew from the files that register the same names now")
        return {}
