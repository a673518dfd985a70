"""The folder of a sweep, and what its files record of each trial.

config.json env.json   as for a run
index.json             a row for each trial, for report.py and for people; made from the files below
populations/N/         members.json, forms.json (how it has been computed since its start) and,
                       until they are done, checkpoints/ of trials that are trained together
trials/ID/             a trial, in the same form as the folder of a run of train.py
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from capsjax.runs.files import read_json, write_json
from capsjax.runs.workdir import read_summary
from capsjax.sweeps import Trial


class Status(NamedTuple):
    """The status of a trial.

    Attributes:
      name: "waiting", "finished", "non_finite" or "failed".
      summary: results of a finished trial.
      message: reason for one of the last two.
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
    summary = read_summary(folder)
    if summary is not None:
        return Status("finished", summary)
    failure = folder / "failure.json"
    if failure.exists():
        fields = read_json(failure)
        return Status(fields.get("status", "failed"), None, fields.get("message", ""))
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


def clear_failure(workdir: Path, trial: Trial) -> None:
    """Delete the record of a failure, so that the trial is tried again."""
    (trial_folder(workdir, trial) / "failure.json").unlink(missing_ok=True)


def unfinished_populations(workdir: Path, trials: Sequence[Trial]) -> list[tuple[str, list[str]]]:
    """List the folders of started populations and their members, in the order of their start.

    Populations whose members are all done are left out, and those with members that the sweep no
    longer has, as when it is given fewer seeds: their remaining trials are trained anew.
    """
    by_id = {trial.id: trial for trial in trials}
    found = []
    for folder in sorted((workdir / "populations").glob("[0-9]*")):
        members = folder / "members.json"
        ids = read_json(members) if members.exists() else []
        known = by_id.keys() >= set(ids)
        if known and not all(read_status(workdir, by_id[name]).is_final for name in ids):
            found.append((str(folder), ids))
    return found


def new_population(workdir: Path, members: Iterable[Trial], forms: dict[str, Any]) -> Path:
    """Make a folder for trials to be trained together, in the same forms from start to end."""
    root = workdir / "populations"
    root.mkdir(exist_ok=True)
    number = 1 + max((int(path.name) for path in root.glob("[0-9]*")), default=-1)
    folder = root / f"{number:03d}"
    folder.mkdir()
    write_json(folder / "forms.json", forms)
    write_json(folder / "members.json", [trial.id for trial in members])
    return folder


def forms_at_start(folder: Path) -> dict[str, Any] | None:
    """Read the forms that a population started with; None if they were not stored yet."""
    forms = folder / "forms.json"
    return read_json(forms) if forms.exists() else None
