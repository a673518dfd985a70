"""index.json: a description of a sweep, and a row for each of its trials."""

import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from capsjax.runs.environment import describe_environment
from capsjax.runs.files import DamagedFileError, read_sealed, set_aside
from capsjax.runs.selection import describe_selection
from capsjax.runs.starts import program_command, typed_words
from capsjax.runs.workdir import stored_fields
from capsjax.sweeps import Trial
from capsjax.sweeps.folders import Status

OF_MACHINE = ("device", "device_count", "processor", "cpu_count", "commit")
OF_START = (*OF_MACHINE, "versions", "command")
OF_REPORT = ("title", "reference", "published")
OF_SUMMARY = ("steps", "num_parameters", "test", "validation", "train_seconds")


def make_index(
    config: ConfigDict,
    trials: Sequence[Trial],
    statuses: Sequence[Status],
    running: Collection[str],
    start: Mapping[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """Make the contents of the file.

    Args:
      config: config of the sweep.
      trials, statuses: all trials, and the status of each.
      running: ids of the trials in training.
      start: from `describe_start`, of the last start that trained.
      seconds: duration of the sweep over all its starts.
    """
    return {
        "name": config.name,
        "title": config.title,
        "status": "finished" if all(status.is_final for status in statuses) else "running",
        "factors": [
            {"name": factor, "levels": [level for level, _ in levels]}
            for factor, levels in config.factors
        ],
        "num_seeds": config.num_seeds,
        "num_trials": len(trials),
        "reference": dict(config.reference) or None,
        "published": [
            {
                "levels": dict(levels),
                "error_percent": error,
                "deviation": deviation,
                "source": source,
            }
            for levels, error, deviation, source in config.published
        ],
        **start,
        "seconds": seconds,
        "trials": [
            _row(trial, status, trial.id in running)
            for trial, status in zip(trials, statuses, strict=True)
        ],
    }


def as_begun(workdir: Path, config: ConfigDict) -> ConfigDict:
    """Return the config of a sweep with what is for its report alone as in the folder.

    Those fields change nothing that is trained: they may differ when a sweep resumes.
    """
    stored = stored_fields(workdir)
    begun = config.copy_and_resolve_references()
    with begun.unlocked():
        begun.update({name: stored[name] for name in OF_REPORT if name in stored})
    return begun.lock()


def describe_start() -> dict[str, Any]:
    """Return the machine, the versions and the command of this start."""
    environment = describe_environment()
    return {
        **{name: environment[name] for name in OF_MACHINE},
        "versions": environment["packages"],
        "command": shlex.join(typed_words(program_command({})["command"], "sweep")),
    }


def read_earlier(workdir: Path) -> dict[str, Any]:
    """Read the `seconds` of earlier starts, and what describes the last one that trained.

    Empty if the file is missing or damaged.
    """
    try:
        index = read_sealed(workdir / "index.json", ("seconds",))
    except FileNotFoundError:
        return {}
    except DamagedFileError as error:
        set_aside(error, "it is made anew, without the seconds of earlier starts")
        return {}
    return {name: index[name] for name in ("seconds", *OF_START) if name in index}


def _row(trial: Trial, status: Status, running: bool) -> dict[str, Any]:
    summary: Mapping[str, Any] = status.summary or {}
    return {
        "id": trial.id,
        "levels": trial.levels,
        "overrides": trial.overrides,
        "seed": trial.config.seed,
        "status": "running" if running and status.name == "waiting" else status.name,
        "message": status.message,
        "epochs": trial.config.train.epochs,
        "selection": describe_selection(trial.config),
        **{name: summary.get(name) for name in OF_SUMMARY},
    }
