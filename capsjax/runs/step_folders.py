"""The folders of checkpoints, one for each step: put in place whole, compared, set aside.

12/              a checkpoint: state/, notes/, metrics/, manifest.sha256
partial-12/      one that is being written or deleted
"""

import contextlib
import functools
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from capsjax.runs import manifest
from capsjax.runs.files import warn

PARTIAL = "partial-"
# Orbax writes under a name of its own, and then renames.
LEFTOVERS = (PARTIAL, ".orbax-checkpoint-tmp")


class StepFolders:
    """The checkpoints in a folder, as files.

    Args:
      directory: folder of the checkpoints.
    """

    def __init__(self, directory: Path):
        self.directory = directory

    def folder(self, step: int) -> Path:
        """Return the folder of a whole checkpoint."""
        return self.directory / str(step)

    def partial(self, step: int) -> Path:
        """Return the folder of a checkpoint that is being written or deleted."""
        return self.directory / f"{PARTIAL}{step}"

    def values(self, metric: str) -> list[tuple[int, float | None]]:
        """Read the steps, in ascending order, with the validation metric of those that have it."""
        folders = self.directory.iterdir() if self.directory.is_dir() else ()
        steps = sorted(int(each.name) for each in folders if each.name.isdecimal())
        return [(step, self._metrics(step).get(f"validation_{metric}")) for step in steps]

    def _metrics(self, step: int) -> dict[str, float]:
        try:
            return dict(self._read(step, "metrics/metrics"))
        except (OSError, ValueError, TypeError):
            return {}  # none were saved, or they are damaged, which `problem` finds

    def notes(self, step: int) -> dict[str, Any]:
        """Read the small values of a checkpoint."""
        notes = self._read(step, "notes/metadata")
        notes.pop("manifest", None)
        return notes

    def _read(self, step: int, name: str) -> Any:
        return json.loads((self.folder(step) / name).read_text(encoding="utf-8"))

    def problem(self, step: int, part: str = "") -> str | None:
        """Compare a checkpoint with its checksums.

        Args:
          step: its step.
          part: "notes" or "metrics" to compare only that.

        Returns:
          The file that is missing or damaged, in words; None if all are whole.
        """
        try:
            if (self.folder(step) / manifest.NAME).exists():
                return manifest.difference(self.folder(step), part)
            promised = "manifest" in self._read(step, "notes/metadata")
        except OSError as error:
            return f"{error.filename} cannot be read ({error.strerror})"
        except (ValueError, TypeError) as error:
            return f"notes/metadata cannot be read ({error})"
        if promised:
            return f"{manifest.NAME} is missing"
        _report_old(self.directory)
        metrics = self.folder(step) / "metrics"
        if part != "notes" and metrics.exists() and not self._metrics(step):
            return "metrics/metrics cannot be read"
        return None

    def clear_leftovers(self) -> None:
        """Delete what is left of saves and deletions that were killed."""
        for path in self.directory.glob("*"):
            if any(part in path.name for part in LEFTOVERS):
                shutil.rmtree(path, ignore_errors=True)

    def put_in_place(self, step: int) -> None:
        """Give a checkpoint that is written its manifest, and then its name."""
        manifest.write(self.partial(step))
        os.replace(self.partial(step), self.folder(step))
        for folder in (self.directory, self.directory.parent):
            manifest.sync_folder(folder)

    def delete(self, steps: Iterable[int]) -> None:
        """Delete checkpoints, none of which is ever seen as half of one."""
        for step in steps:
            with contextlib.suppress(OSError):  # one too many does no harm
                os.replace(self.folder(step), self.partial(step))
                shutil.rmtree(self.partial(step))

    def set_aside(self, step: int) -> str:
        """Move a checkpoint to another folder beside this one, and return its new path."""
        aside = self.directory.with_name(self.directory.name + "_damaged")
        aside.mkdir(exist_ok=True)
        target = aside / str(step)
        while target.exists():
            target = target.with_name(target.name + "_")
        os.replace(self.folder(step), target)
        return str(target)


@functools.cache
def _report_old(directory: Path) -> None:
    warn(
        f"{directory} holds a checkpoint of an earlier version, without checksums: damage to its "
        "arrays would go unnoticed"
    )
