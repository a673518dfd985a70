"""The folder of a sweep, and what its files say of each trial.

config.json env.json   as of a run
index.json             a row for each trial, for report.py and for people; made from what follows
populations/N/         members.json, forms.json (how it has been computed since its start) and,
                       until they are done, checkpoints/ of trials that are trained together
trials/ID/             a trial: reads like the folder of a run of train.py
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from capsjax.files import read_json, write_json
from capsjax.sweeps import Trial
from capsjax.workdir import read_summary


class Status(NamedTuple):
    """What became of a trial.

    Attributes:
      name: "waiting", "finished", "non_finite" or "failed".
      summary: of a finished one.
      message: why, of the last two.
    """

    name: str
    summary: dict[str, Any] | None = None
    message: str = ""

    @property
    def is_final(self) -> bool:
        """Whether another start leaves it alone. What failed is tried again."""
        return self.name in ("finished", "non_finite")


def trial_folder(workdir: Path, trial: Trial) -> Path:
    """Of a trial's own files."""
    return workdir / "trials" / trial.id


def read_status(workdir: Path, trial: Trial) -> Status:
    """From the trial's files."""
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
    """Say that a trial ended without a result.

    Args:
      workdir: of the sweep.
      trial: which one.
      status: "non_finite" or "failed".
      message: why.
      **facts: numbers that belong to it.
    """
    folder = trial_folder(workdir, trial)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "failure.json", {"status": status, "message": message, **facts})


def clear_failure(workdir: Path, trial: Trial) -> None:
    """Forget a failure: the trial is tried again."""
    (trial_folder(workdir, trial) / "failure.json").unlink(missing_ok=True)


def unfinished_populations(workdir: Path, trials: Sequence[Trial]) -> list[tuple[str, list[str]]]:
    """Folders of populations that were begun, and their members, in the order of their start.

    Those whose members are all done are left out, and those with members that the sweep does not
    have any more, as when it is given fewer seeds: what is left of them is trained anew.
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
    """A folder for trials that are to be trained together, in those forms from start to end."""
    root = workdir / "populations"
    root.mkdir(exist_ok=True)
    number = 1 + max((int(path.name) for path in root.glob("[0-9]*")), default=-1)
    folder = root / f"{number:03d}"
    folder.mkdir()
    write_json(folder / "forms.json", forms)
    write_json(folder / "members.json", [trial.id for trial in members])
    return folder


def forms_at_start(folder: Path) -> dict[str, Any] | None:
    """The forms that a population was begun with; None if it began before they were stored."""
    forms = folder / "forms.json"
    return read_json(forms) if forms.exists() else None
