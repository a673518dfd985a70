"""The folder of a run: its config, its environment, its summary. Nothing in it is overwritten.

config.json          the config, whole
env.json             a list: versions, commit, device, command of each start
metrics.jsonl        one JSON object a line
checkpoints/         the last few and the best
tensorboard/
summary.json         the results; written at the end, so its presence says "finished"
evaluation/ figures/ what evaluate.py and visualize.py make
"""

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from capsjax.files import read_json, write_json

# Fields that may differ when a run resumes: where things are and how often they are written
# says nothing about what is computed. A sweep has them under "base.", and may be given more seeds.
FREE_FIELDS = ("data.dir", "data.file", "checkpoint.", "log.", "evaluate.batch_size", "num_seeds")

# Fields that configs of earlier versions lack, and the value with which a run does what it did
# without them.
ADDED_FIELDS = {"schedule.anneal_epochs": 0}

PACKAGES = ("capsjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "chex")


class WorkdirError(ValueError):
    """A folder that does not hold the run that is meant; the message says what to do."""


def new_workdir(name: str, root: Path = Path("runs")) -> Path:
    """A path for a new run that no other run has: name and time."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path = root / f"{name}-{stamp}"
    number = 1
    while path.exists():
        number += 1
        path = root / f"{name}-{stamp}-{number}"
    return path


def open_workdir(path: Path, config: ConfigDict, start: Mapping[str, Any]) -> None:
    """Make the folder of a run, or enter the folder of the same run again.

    Args:
      path: the folder.
      config: of the run; written at the first start, compared at the others.
      start: what env.json is to hold of this start besides the environment: the command.

    Raises:
      WorkdirError: if the folder holds a run of another config, or something else.
    """
    if path.exists() and not path.is_dir():
        raise WorkdirError(f"--workdir={path} is a file")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkdirError(f"--workdir={path} cannot be made: {error}") from None
    if (path / "config.json").exists():
        _check_same(path, flatten(read_config(path).to_dict()), flatten(config.to_dict()))
    elif any(path.iterdir()):
        raise WorkdirError(
            f"--workdir={path} is not empty and holds no run (no config.json): name another one"
        )
    else:
        write_json(path / "config.json", config.to_dict())
    env = path / "env.json"
    try:
        starts = read_json(env) if env.exists() else []
    except ValueError:
        starts = []  # it only says what was; no reason not to go on
    write_json(env, [*starts, {**describe_environment(), **start}])


def read_config(path: Path) -> ConfigDict:
    """The config of a run, with `ADDED_FIELDS` filled in where it is older than they are.

    Raises:
      WorkdirError: if the folder holds no run.
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
    for name, value in ADDED_FIELDS.items():
        # A sweep has the fields of its runs under "base".
        _fill_in(fields.get("base", fields), name.split("."), value)
    return ConfigDict(_tuples(fields)).lock()


def _fill_in(fields: Any, path: Sequence[str], value: Any) -> None:
    """Set the field at that path if it is missing and what it belongs in is there."""
    first, *rest = path
    if isinstance(fields, dict):
        if rest:
            _fill_in(fields.get(first), rest, value)
        else:
            fields.setdefault(first, value)


def read_summary(path: Path) -> dict[str, Any] | None:
    """The results of a run, None if it is not finished."""
    summary = path / "summary.json"
    return read_json(summary) if summary.exists() else None


def flatten(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one of dotted names.

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


def describe_environment() -> dict[str, Any]:
    """Everything about the machine and the software that a result may depend on."""
    device = jax.devices()[0]
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "commit": _commit(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cpu_count": os.cpu_count(),
        "device": device.device_kind,
        "device_count": jax.device_count(),
        # What programs may take of a GPU's memory; None for a CPU.
        "device_memory_bytes": (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit"),
        "process_count": jax.process_count(),
        "backend": jax.default_backend(),
    }


def _processor() -> str:
    """The processor's name, as exact as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str | None:
    """The commit of the checkout that the program runs from, "+" for one with changes."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None  # installed from a package, or no git


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
    """JSON knows no tuples, and configs hold no lists."""
    if isinstance(value, Mapping):
        return {name: _tuples(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_tuples(item) for item in value)
    return value


def program_command(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """How this program was called: for env.json."""
    return {"command": sys.argv, "overrides": dict(overrides)}
