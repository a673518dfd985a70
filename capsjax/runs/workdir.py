"""The folder of a run: its config, its environment, its summary. Nothing in it is overwritten.

config.json          the whole config
env.json             a list: versions, commit, device, command of each start
metrics.jsonl        one JSON object per line
checkpoints/         the last few and the best
tensorboard/
summary.json         the results; written at the end, so its presence means "finished"
evaluation/ figures/ the output of evaluate.py and visualize.py
"""

import datetime
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from capsjax.config.renamed import modernize
from capsjax.config.tagged import resolved
from capsjax.runs.environment import describe_environment
from capsjax.runs.files import read_json, write_json

# Fields that may differ when a run resumes: where files are and how often they are written does not
# affect what is computed. A sweep has them under "base.", and may be given more seeds.
FREE_FIELDS = ("data.dir", "data.file", "checkpoint.", "log.", "evaluate.batch_size", "num_seeds")


class WorkdirError(ValueError):
    """A folder that does not contain the expected run; the message names the remedy."""


def new_workdir(name: str, root: Path = Path("runs")) -> Path:
    """Return an unused path for a new run, made of its name and the time."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path = root / f"{name}-{stamp}"
    number = 1
    while path.exists():
        number += 1
        path = root / f"{name}-{stamp}-{number}"
    return path


def open_workdir(path: Path, config: ConfigDict, start: Mapping[str, Any]) -> None:
    """Make the folder of a run, or reopen the folder of the same run.

    Args:
      path: the folder.
      config: config of the run; written at the first start, compared at the others.
      start: facts about this start for env.json besides the environment, such as the command.

    Raises:
      WorkdirError: if the folder contains a run of another config, or something else.
    """
    if path.exists() and not path.is_dir():
        raise WorkdirError(f"--workdir={path} is a file")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkdirError(f"--workdir={path} cannot be made: {error}") from None
    if (path / "config.json").exists():
        _check_same(path, flatten(resolved(read_config(path))), flatten(resolved(config)))
    elif any(path.iterdir()):
        raise WorkdirError(
            f"--workdir={path} is not empty and holds no run (no config.json): name another one"
        )
    else:
        write_json(path / "config.json", resolved(config))
    env = path / "env.json"
    try:
        starts = read_json(env) if env.exists() else []
    except ValueError:
        starts = []  # it only records the past; no reason to stop
    write_json(env, [*starts, {**describe_environment(), **start}])


def read_config(path: Path) -> ConfigDict:
    """Read the config of a run, with today's fields where an earlier version wrote it.

    Raises:
      WorkdirError: if the folder contains no run.
    """
    try:
        fields = read_json(path / "config.json")
    except (FileNotFoundError, NotADirectoryError):
        raise WorkdirError(
            f"no run in {path} (it has no config.json): give the --workdir of experiments/train.py"
        ) from None
    except ValueError as error:
        raise WorkdirError(f"{path / 'config.json'} is damaged: {error}") from None
    if not isinstance(fields, dict):
        raise WorkdirError(f"{path / 'config.json'} is damaged: it is no object")
    return ConfigDict(_tuples(modernize(fields))).lock()


def read_summary(path: Path) -> dict[str, Any] | None:
    """Read the results of a run; None if it is not finished."""
    summary = path / "summary.json"
    return read_json(summary) if summary.exists() else None


def flatten(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested mapping to one of dotted names.

    >>> flatten({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    flat = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _check_same(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    differing = [
        f"{name}: {old.get(name)!r} there, {new.get(name)!r} here"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and not name.removeprefix("base.").startswith(FREE_FIELDS)
    ]
    if differing:
        raise WorkdirError(
            f"{path} holds a run of another config ({'; '.join(differing)}). Name another "
            "--workdir, or give the same config to resume"
        )


def _tuples(value: Any) -> Any:
    """Turn lists into tuples, because JSON has no tuples and configs have no lists."""
    if isinstance(value, Mapping):
        return {name: _tuples(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_tuples(item) for item in value)
    return value


def program_command(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return how this program was called, for env.json."""
    return {"command": sys.argv, "overrides": dict(overrides)}
