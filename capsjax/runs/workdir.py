"""The folder of a run: its config, its environment, its summary. Nothing in it is overwritten.

config.json          the whole config
env.json             a list: versions, commit, device, command of each start
data.json            fingerprints of the data, see `capsjax.runs.data_record`
own_files.json code/ files of a user's own that the config needs, see `capsjax.runs.own_files`
metrics.jsonl        one JSON object per line
checkpoints/         the last few and the best
tensorboard/
lock log.txt         while a program trains here; its lines, where it can print them nowhere else
summary.json         the results; written at the end, so its presence means "finished"
summary-40-epochs.json   those of a run of 40 epochs that was given more
evaluation/ figures/ the output of evaluate.py and visualize.py
report.html          a page of all this, the output of report.py
"""

import contextlib
import datetime
import fnmatch
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from capsjax.config.renamed import modernize, tuples
from capsjax.config.tagged import resolved
from capsjax.runs.config_differences import describe_difference, differing_fields, is_free
from capsjax.runs.data_record import Fingerprints, record_data
from capsjax.runs.files import (
    DamagedFileError,
    WorkdirError,
    digest,
    make_folder,
    read_json,
    read_sealed,
    replace_damaged,
    set_aside,
    warn,
    write_json,
)
from capsjax.runs.lock import LOCK
from capsjax.runs.longer import EPOCHS, lengthen
from capsjax.runs.output import LOG
from capsjax.runs.own_files import check_own_files, record_own_files
from capsjax.runs.starts import config_digests, read_starts, record_start

# Temporary files of `write_text`, which a kill leaves behind.
LEFT_OVER = "*.json*.tmp"

# Without these a summary.json is not that of a finished run.
RESULTS = ("selection", "selected_step", "test", "train_seconds")


def new_workdir(name: str, root: Path = Path("runs")) -> Path:
    """Return an unused path for a new run, made of its name and the time."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path = root / f"{name}-{stamp}"
    number = 1
    while path.exists():
        number += 1
        path = root / f"{name}-{stamp}-{number}"
    return path


def open_workdir(
    path: Path, config: ConfigDict, start: Mapping[str, Any], data: Fingerprints | None = None
) -> None:
    """Make the folder of a run, or reopen the folder of the same run.

    Args:
      path: the folder.
      config: config of the run; written at the first start, compared at the others.
      start: facts about this start for env.json besides the environment, such as the command.
      data: fingerprints of the data of the run; recorded at the first start, compared at the
        others. None for a sweep, which loads its data later.

    Raises:
      WorkdirError: if the folder contains a run of another config, of other data, or something
        else.
    """
    make_folder(path)
    is_longer, fields = _is_longer(path, config), resolved(config)
    if not is_longer:
        _write_or_check(path, config)
    for each in path.glob(LEFT_OVER):
        each.unlink(missing_ok=True)
    record_own_files(path, fields)
    if data is not None:
        record_data(path, data)
    # Before the change of config.json that it allows, and after all that may refuse the start.
    record_start(path, start, _digest(fields if is_longer else _read_fields(path)))
    if is_longer:
        lengthen(path, fields)


def _write_or_check(path: Path, config: ConfigDict) -> None:
    """Write the config of a new run, or compare that of a run that is there."""
    if (path / "config.json").exists():
        _check_same(path, config)
    elif all(_is_left_over(each.name) for each in path.iterdir()):
        write_json(path / "config.json", resolved(config))
    else:
        raise WorkdirError(
            f"--workdir={path} is not empty and holds no run (no config.json): name another one"
        )


def _is_left_over(name: str) -> bool:
    """Return whether a file may precede config.json, as where a start was killed before it."""
    return name in (LOCK, LOG) or fnmatch.fnmatch(name, LEFT_OVER)


def read_finished(
    path: Path,
    config: ConfigDict,
    start: Mapping[str, Any],
    data: Fingerprints | None = None,
) -> dict[str, Any] | None:
    """Read the results of a run that is finished; None otherwise, and if it is to go on for longer.

    Nothing is written that is not damaged or missing: the folder may be one that can only be read.

    Args:
      path: the folder, new or of the same run.
      config, start, data: as in `open_workdir`.

    Raises:
      WorkdirError: if the folder contains a finished run of another config or of other data.
    """
    if not (path / "summary.json").exists() or not (path / "config.json").exists():
        return None
    if _is_longer(path, config):
        return None
    _check_same(path, config)
    check_own_files(path, resolved(config))
    try:
        if data is not None:
            record_data(path, data)
        _mend_starts(path, start)
    except OSError as error:
        warn(f"{error}: what is missing in the folder of this finished run is not made anew")
    return summary_or_set_aside(path)


def _mend_starts(path: Path, start: Mapping[str, Any]) -> None:
    """Record this start of a finished run where the record of its starts is damaged or missing."""
    try:
        read_starts(path)
    except DamagedFileError:
        record_start(path, start, _digest(_read_fields(path)))


def read_config(path: Path) -> ConfigDict:
    """Read the config of a run, with today's fields where an earlier version wrote it.

    Raises:
      WorkdirError: if the folder contains no run, or its config.json is damaged.
    """
    config = _read_recorded(path)
    if "base" in config:
        trials = sorted(each.parent for each in path.glob("trials/*/config.json"))
        example = trials[0] if trials else path / "trials"
        raise WorkdirError(f"{path} is a sweep: name one of its trials, such as {example}")
    return config


def is_sweep(path: Path) -> bool:
    """Return whether a folder is that of a sweep, and not of a run; raise as `read_config`."""
    return "base" in _read_recorded(path)


def _read_recorded(path: Path) -> ConfigDict:
    try:
        fields = _read_fields(path)
        _check_recorded(path, fields)
        return _config_of(path, fields)
    except DamagedFileError as error:
        raise WorkdirError(
            f"{error}. The same command as at its last start (in {path / 'env.json'}) writes it "
            "anew"
        ) from None


@contextlib.contextmanager
def naming_remedy() -> Iterator[None]:
    """Name the remedy where a file of a run is damaged, in a WorkdirError."""
    try:
        yield
    except DamagedFileError as error:
        raise WorkdirError(
            f"{error}. Start the run again with its --workdir, which makes the file anew"
        ) from None


def read_summary(path: Path) -> dict[str, Any] | None:
    """Read the results of a run; None if it is not finished.

    Raises:
      DamagedFileError: if summary.json is not what was written.
    """
    summary = path / "summary.json"
    return read_sealed(summary, RESULTS) if summary.exists() else None


def summary_or_set_aside(path: Path) -> dict[str, Any] | None:
    """Read the results of a run as `read_summary`; set damaged ones aside, to be made again."""
    try:
        return read_summary(path)
    except DamagedFileError as error:
        set_aside(error, "the results are computed again, from the last checkpoint")
        return None


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


def _check_same(path: Path, config: ConfigDict) -> None:
    """Compare the config of a run; write a damaged one anew if it is known to be this one."""
    new = resolved(config)
    try:
        fields = _read_fields(path)
        problem = describe_difference(path, flatten(_resolved(path, fields)), flatten(new))
        if problem:
            _check_recorded(path, fields)
    except DamagedFileError as error:
        if config_digests(path)[-1:] != [_digest(new)]:
            raise WorkdirError(
                f"{error}, and {path / 'env.json'} does not show that it was the config given "
                "here. Give the config of its last start, or name another --workdir"
            ) from None
        replace_damaged(error, new, "written anew from the config given here, the recorded one")
    else:
        if problem:
            raise WorkdirError(problem)


def _is_longer(path: Path, config: ConfigDict) -> bool:
    """Return whether a config is that of the run in a folder, but for more epochs."""
    old, new = stored_fields(path), flatten(resolved(config))
    if differing_fields(old, new) != [EPOCHS] or new[EPOCHS] <= old[EPOCHS]:
        return False
    try:
        _check_recorded(path, _read_fields(path))
    except DamagedFileError:
        return False
    return True


def stored_fields(path: Path) -> dict[str, Any]:
    """Return the fields of config.json; none if it is not there, or damaged."""
    try:
        return flatten(_resolved(path, _read_fields(path)))
    except (DamagedFileError, WorkdirError):
        return {}


def _read_fields(path: Path) -> dict[str, Any]:
    """Read the fields of config.json as they were written."""
    try:
        fields = read_json(path / "config.json")
    except (FileNotFoundError, NotADirectoryError):
        raise WorkdirError(
            f"no run in {path} (it has no config.json): give the --workdir of `capsjax train`"
        ) from None
    if not isinstance(fields, dict) or not fields:
        raise DamagedFileError(path / "config.json", "it is no object with fields")
    return fields


def _check_recorded(path: Path, fields: Mapping[str, Any]) -> None:
    """Raise DamagedFileError if these fields of config.json are not those of any start."""
    recorded = config_digests(path)
    if recorded and _digest(fields) not in recorded:
        raise DamagedFileError(path / "config.json", "env.json recorded another config")


def _resolved(path: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
    return resolved(_config_of(path, fields))


def _config_of(path: Path, fields: Mapping[str, Any]) -> ConfigDict:
    try:
        return ConfigDict(tuples(modernize(fields))).lock()
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(path / "config.json", f"{type(error).__name__}: {error}") from None


def _digest(fields: Mapping[str, Any]) -> str:
    """Return the digest of a config's fields that may not differ when a run resumes."""
    flat = flatten(fields)
    return digest({name: value for name, value in flat.items() if not is_free(name)})
