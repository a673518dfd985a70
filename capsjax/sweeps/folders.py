"""The folder of a sweep, and what its files record of each trial.

config.json env.json   as for a run
data.json              fingerprints of the data, see `capsjax.runs.data_record`
index.json             a row for each trial, for report.py and for people; made from the files below
populations/N/         members.json, forms.json (the members again, and how they have been computed
                       since their start) and, until they are done, checkpoints/ of trials that are
                       trained together
trials/ID/             a trial, in the same form as the folder of a run of train.py
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from capsjax.runs.files import (
    DamagedFileError,
    read_json,
    read_sealed,
    sealed,
    set_aside,
    write_json,
)
from capsjax.runs.workdir import read_summary
from capsjax.sweeps import Trial


class Status(NamedTuple):
    """The status of a trial.

    Attributes:
      name: "waiting", "finished", "non_finite", "failed", or "damaged" if nobody can read which.
      summary: results of a finished trial.
      message: reason for one of the last three.
    """

    name: str
    summary: dict[str, Any] | None = None
    message: str = ""

    @property
    def is_final(self) -> bool:
        """Whether another start leaves the trial alone; failed ones are tried again."""
        return self.name in ("finished", "non_finite")


def trial_folder(workdir: Path, trial: Trial) -> Path:
    """Return the folder of a trial's own files."""
    return workdir / "trials" / trial.id


def read_status(workdir: Path, trial: Trial) -> Status:
    """Read the status of a trial from its files."""
    folder = trial_folder(workdir, trial)
    failure = folder / "failure.json"
    try:
        summary = read_summary(folder)
        if summary is not None:
            return Status("finished", summary)
        if failure.exists():
            fields = read_sealed(failure)
            return Status(fields.get("status", "failed"), None, fields.get("message", ""))
    except DamagedFileError as error:
        return Status("damaged", None, str(error))
    return Status("waiting")


def write_failure(workdir: Path, trial: Trial, status: str, message: str, **facts: Any) -> None:
    """Record that a trial ended without a result.

    Args:
      workdir: folder of the sweep.
      trial: the trial.
      status: "non_finite" or "failed".
      message: the reason.
      **facts: further numbers to record.
    """
    folder = trial_folder(workdir, trial)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "failure.json", {"status": status, "message": message, **facts})


def write_first_failure(workdir: Path, trial: Trial, status: str, message: str) -> bool:
    """Do as `write_failure`, unless the trial has ended before; return whether it is recorded."""
    if read_status(workdir, trial).is_final:
        return False
    write_failure(workdir, trial, status, message)
    return True


def clear_failure(workdir: Path, trial: Trial) -> None:
    """Delete the record of a failure, so that the trial is tried again."""
    failure = trial_folder(workdir, trial) / "failure.json"
    try:
        if failure.exists():
            read_sealed(failure)
    except DamagedFileError as error:
        set_aside(error, "the trial is tried again")
    failure.unlink(missing_ok=True)


def has_parameters(workdir: Path, trial: Trial) -> bool:
    """Return whether a trial was trained to its end: its own checkpoints are written then."""
    return any((trial_folder(workdir, trial) / "checkpoints").glob("[0-9]*"))


def set_parameters_aside(workdir: Path, trial: Trial) -> None:
    """Rename the checkpoints of a trial that none can be read of, so that it is trained anew."""
    checkpoints = trial_folder(workdir, trial) / "checkpoints"
    target = checkpoints.with_name(f"{checkpoints.name}_unreadable")
    while target.exists():
        target = target.with_name(f"{target.name}_")
    checkpoints.rename(target)


def unfinished_populations(workdir: Path, trials: Sequence[Trial]) -> list[tuple[str, list[str]]]:
    """List the folders of started populations and their members, in the order of their start.

    Populations whose members are all done are left out, and those with members that the sweep no
    longer has, as when it is given fewer seeds: their remaining trials are trained anew. When it is
    given more again, one whose members are in a later one too stays out, or they would be trained
    twice. So do those that were trained to their end, where a member's results were lost later.
    """
    by_id = {trial.id: trial for trial in trials}
    found: list[tuple[str, list[str]]] = []
    taken: set[str] = set()
    for folder in sorted((workdir / "populations").glob("[0-9]*"), reverse=True):
        ids = _members(folder)
        members = [by_id[name] for name in ids if name in by_id]
        is_left_out = len(members) < len(ids) or not taken.isdisjoint(ids)
        taken.update(ids)
        if is_left_out or all(read_status(workdir, each).is_final for each in members):
            continue
        ended = any(has_parameters(workdir, each) for each in members)
        if not ended or (folder / "checkpoints").exists():
            found.append((str(folder), ids))
    return found[::-1]


def _members(folder: Path) -> list[str]:
    """Read the members of a population from one of the two files that have them."""
    path, stored = folder / "members.json", (forms_at_start(folder) or {}).get("members")
    try:
        ids = read_json(path) if path.exists() else []
        if not isinstance(ids, list):
            raise DamagedFileError(path, "it is no list")
    except DamagedFileError as error:
        again = "its trials begin anew" if stored is None else "forms.json has the same members"
        set_aside(error, again)
        ids = []
    return ids if stored is None else stored


def new_population(workdir: Path, members: Iterable[Trial], forms: dict[str, Any]) -> Path:
    """Make a folder for trials to be trained together, in the same forms from start to end."""
    root = workdir / "populations"
    root.mkdir(exist_ok=True)
    number = 1 + max((int(path.name) for path in root.glob("[0-9]*")), default=-1)
    folder = root / f"{number:03d}"
    folder.mkdir()
    ids = [trial.id for trial in members]
    write_forms(folder, forms, ids)
    write_json(folder / "members.json", ids)
    return folder


def write_forms(folder: Path, forms: dict[str, Any], ids: Sequence[str]) -> None:
    """Store the forms that a population is computed with from now on."""
    write_json(folder / "forms.json", sealed({**forms, "members": list(ids)}))


def forms_at_start(folder: Path) -> dict[str, Any] | None:
    """Read the forms that a population started with; None if they are not known.

    A damaged file is set aside.
    """
    path = folder / "forms.json"
    try:
        return read_sealed(path, ("backend", "population", "forms")) if path.exists() else None
    except DamagedFileError as error:
        set_aside(
            error,
            "the forms that suit this machine are taken: where they are others than before, the "
            "results are not bit for bit those of an uninterrupted run",
        )
        return None
