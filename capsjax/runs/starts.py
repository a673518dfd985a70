"""env.json in the folder of a run: facts about each of its starts.

Each has the digest of the config at that start, by which a change of config.json is noticed.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from capsjax.runs.environment import describe_environment
from capsjax.runs.files import DamagedFileError, read_json, set_aside, write_json

# What reports take from each start.
NEEDED = {"backend", "command"}


def read_starts(path: Path) -> list[dict[str, Any]]:
    """Read the facts about each start of a run.

    Args:
      path: the folder of the run.

    Raises:
      OSError: if they cannot be read.
      DamagedFileError: if the file is missing, or is no list of starts.
    """
    file = path / "env.json"
    try:
        starts = read_json(file)
    except FileNotFoundError:
        raise DamagedFileError(file, "it is missing") from None
    if not isinstance(starts, list) or not all(map(_is_start, starts)) or not starts:
        raise DamagedFileError(file, "it is no list of starts")
    return starts


def _is_start(fields: Any) -> bool:
    return isinstance(fields, dict) and fields.keys() >= NEEDED


def record_start(path: Path, start: Mapping[str, Any], config: str) -> None:
    """Add a start to those of a run; a damaged record of the earlier ones is set aside.

    Args:
      path: the folder of the run.
      start: facts about the start besides the environment, such as the command.
      config: digest of the config.
    """
    file = path / "env.json"
    try:
        starts = read_starts(path) if file.exists() else []
    except DamagedFileError as error:
        starts = []  # it only records the past; no reason to stop
        set_aside(error, "what it recorded of earlier starts is no longer in env.json")
    write_json(file, [*starts, {**describe_environment(), **start, "config": config}])


def config_digests(path: Path) -> list[str]:
    """Return the digests of a run's config at its starts, in their order; none if none is known."""
    try:
        digests = [start.get("config") for start in read_starts(path)]
    except (OSError, DamagedFileError):
        return []
    return [each for each in digests if each]


def program_command(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return how this program was called, for env.json."""
    return {"command": sys.argv, "overrides": dict(overrides)}


def typed_words(words: Sequence[str], program: str) -> list[str]:
    """Return the words of a recorded command as they are typed, without the place of `capsjax`.

    Args:
      words: the field "command" of a start.
      program: the command that it is, which earlier versions did not record.

    >>> typed_words(["/usr/bin/capsjax", "--config=digits"], "train")
    ['capsjax', 'train', '--config=digits']
    >>> typed_words(["experiments/train.py", "--config=a.py"], "train")
    ['python', 'experiments/train.py', '--config=a.py']
    """
    script, *rest = words
    if Path(script).suffix == ".py":
        return ["python", script, *rest]
    has_program = bool(rest) and not rest[0].startswith("-")
    return ["capsjax", *([] if has_program else [program]), *rest]
