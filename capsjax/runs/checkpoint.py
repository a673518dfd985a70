"""Checkpoints through Orbax, with checksums: the last few and the best are kept.

What this module promises. A checkpoint has its final name only once all its files, their folders
and the manifest of their SHA-256 are on the disk; an earlier one is deleted only after that. So
neither `kill -9` nor a power cut takes the last whole checkpoint of a run, and what is left of a
save counts for nothing. Before a checkpoint is read, all its files are compared with the manifest:
one that is missing, cut off or changed by a bit is named, and never read as if it were whole.
Training sets such a checkpoint aside and goes on from what is whole; other programs refuse it.

Checkpoints of earlier versions have no manifest, and are read without that comparison. The notes
of later ones record that there is one, so that a lost manifest is damage like any other.

Where several processes run together, all call the same methods, Orbax divides the arrays among
them, and process 0 does the rest once all have written.
"""

import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import orbax.checkpoint as ocp

from capsjax.registry import look_up
from capsjax.runs import manifest
from capsjax.runs.files import reason, warn
from capsjax.runs.processes import check_same, is_lost_process, on_primary
from capsjax.runs.step_folders import StepFolders
from capsjax.runs.stored_trees import from_stored, to_stored
from capsjax.training.watched import Watched

T = TypeVar("T")


class CheckpointError(ValueError):
    """A missing or unreadable checkpoint; the message names the remedy."""


class Restored(NamedTuple):
    """A checkpoint that was read.

    Attributes:
      step: number of steps done when it was saved.
      state: the state as it was saved.
      notes: the small values that were saved with it.
    """

    step: int
    state: Any
    notes: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    Saving returns when the checkpoint is whole and on the disk.

    Args:
      directory: folder of the checkpoints; made at the first save.
      keep: number of the last ones to keep; the best one by validation is kept too.
      read_only: for programs that only read.
      sharding: placement of restored arrays, whatever devices they were saved from; the default
        device if None.
      steps_per_epoch: to count epochs in messages; 0 to count steps.
      metric: that of validation by which the best is chosen, see `Watched`.
    """

    def __init__(
        self,
        directory: Path,
        keep: int = 1,
        read_only: bool = False,
        sharding: jax.sharding.Sharding | None = None,
        steps_per_epoch: int = 0,
        metric: str = "loss",
    ):
        logging.getLogger("absl").setLevel(logging.WARNING)  # Orbax reports each of its actions
        if keep < 1:
            raise ValueError(f"checkpoint.keep is at least 1, not {keep}")
        self._directory = Path(os.path.abspath(directory))
        self._folders = StepFolders(self._directory)
        self._sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        self._keep, self._read_only, self._steps_per_epoch = keep, read_only, steps_per_epoch
        self._metric = metric
        self._checkpointer = ocp.Checkpointer(
            ocp.CompositeCheckpointHandler(
                state=ocp.StandardCheckpointHandler(),
                notes=ocp.JsonCheckpointHandler(),
                metrics=ocp.JsonCheckpointHandler("metrics"),
            )
        )
        # Values of the metric by step. All processes keep up with process 0, because other machines
        # may see later what it changes in a folder.
        values = on_primary(lambda: self._folders.values(metric))
        self._values: dict[int, float | None] = dict(values)

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints, in ascending order."""
        return sorted(self._values)

    def best_step(self) -> int | None:
        """Return the step of the best checkpoint by validation, None if none has a value."""
        values = self.validation_values()
        return min(values, key=lambda step: Watched(self._metric, values[step]).cost, default=None)

    def validation_values(self) -> dict[int, float]:
        """Return the value of the metric of each checkpoint that has one, by step."""
        return {step: value for step, value in self._values.items() if value is not None}

    def save(self, step: int, state: Any, notes: Mapping, value: float | None = None) -> None:
        """Save a checkpoint, unless the step already has one.

        Args:
          step: number of steps done.
          state: any pytree of arrays.
          notes: small values that JSON can represent.
          value: that of the metric by which the best is chosen; None within an epoch.

        Raises:
          CheckpointError: if it cannot be written; the earlier checkpoints are unharmed.
        """
        if self._read_only:
            raise CheckpointError(f"{self._directory} was opened for reading only")
        if step in self._values:
            damage = self._damage(step)
            if damage is None:
                return
            self._set_aside(step, damage, "it is saved again")
        if value is not None and not math.isfinite(value):
            value = None  # NaN is neither larger nor smaller: it would stay the best
        items = {
            "state": ocp.args.StandardSave(to_stored(state)),
            "notes": ocp.args.JsonSave({**notes, "manifest": manifest.NAME}),
        }
        if value is not None:
            items["metrics"] = ocp.args.JsonSave({f"validation_{self._metric}": value})
        try:
            on_primary(self._folders.clear_leftovers)
            self._checkpointer.save(self._folders.partial(step), args=ocp.args.Composite(**items))
            on_primary(lambda: self._folders.put_in_place(step))
        except Exception as error:  # tensorstore raises ValueError for a full disk
            raise CheckpointError(
                f"could not save step {step} in {self._directory} ({reason(error)}). Make room or "
                "check the permissions, then start the same command: it goes on from the last whole"
            ) from error
        self._values[step] = value
        superseded = self._values.keys() - {*self.steps()[-self._keep :], self.best_step()}
        on_primary(lambda: self._folders.delete(superseded))
        for each in superseded:
            del self._values[each]

    def restore(self, like: Any, which: str = "last") -> Restored:
        """Read a checkpoint.

        Args:
          like: a state of the same shapes, whose values do not matter (`jax.eval_shape` returns
            one); the result has its types.
          which: "last", "best", or a step.

        Raises:
          CheckpointError: if there is none, it is damaged, or it belongs to another network.
        """
        step = self._find(which)
        self._require_whole(step)
        return self._read(step, like)

    def notes(self, which: str = "last") -> dict[str, Any]:
        """Read the small values of a checkpoint, chosen as in `restore`, without its state."""
        step = self._find(which)
        self._require_whole(step, "notes")
        return self._folders.notes(step)

    def restore_last_whole(self, like: Any) -> Restored | None:
        """Read the last readable checkpoint; return None if the run has none at all.

        All damaged ones are moved to another directory beside this one, each with a line that
        names the file and what its loss costs.

        Raises:
          CheckpointError: if there are checkpoints, but none can be read, or not the same one by
            all processes.
        """
        try:
            return self.read_last_whole(lambda step: self._read(step, like))
        except CheckpointError as error:
            raise CheckpointError(f"{error}. Start anew in another --workdir") from error

    def read_last_whole(self, read: Callable[[int], T]) -> T | None:
        """Do as `restore_last_whole`, but with a function that reads the checkpoint of a step."""
        damaged: dict[int, CheckpointError] = {}
        for step in reversed(self.steps()):
            try:
                result = self._read_whole(step, read)
            except CheckpointError as error:
                damaged[step] = error
                continue
            check_same(f"the last checkpoint in {self._directory} that can be read", step)
            if not self._read_only:
                self._go_on_from(step, damaged)
            return result
        if damaged:
            raise CheckpointError(
                f"no checkpoint in {self._directory} can be read: {damaged[max(damaged)]}"
            )
        return None

    def restore_best_whole(self, like: Any) -> Restored:
        """Read the best checkpoint of a run that has ended.

        A damaged one is reported and moved to another directory, and the next best is read.

        Raises:
          CheckpointError: as `restore`, also if it is the last one, which can be trained again.
        """
        while True:
            step, last = self._find("best"), self.steps()[-1]
            try:
                return self._read_whole(step, lambda step: self._read(step, like))
            except CheckpointError as error:
                if step == last:
                    raise CheckpointError(f"{error}. {self._remedy(step)}") from error
                self._set_aside(step, error, self._cost(step, last))

    def _read_whole(self, step: int, read: Callable[[int], T]) -> T:
        damage = self._damage(step)
        if damage is not None:
            raise damage
        return read(step)

    def _read(self, step: int, like: Any) -> Restored:
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._sharding), like
        )
        try:
            restored = self._checkpointer.restore(
                self._folders.folder(step),
                args=ocp.args.Composite(state=ocp.args.StandardRestore(to_stored(like))),
            )
        except Exception as error:  # whatever a damaged file makes tensorstore raise
            if is_lost_process(error):
                raise
            raise CheckpointError(
                f"the checkpoint of step {step} in {self._directory} is damaged or belongs to "
                f"another network ({reason(error)})"
            ) from error
        return Restored(step, from_stored(like, restored["state"]), self._folders.notes(step))

    def _find(self, which: str) -> int:
        steps = self.steps()
        if not steps:
            raise CheckpointError(f"no checkpoint in {self._directory}: train first")
        if which.isdigit():
            return look_up({str(step): step for step in steps}, which, "checkpoint")
        named = {"last": lambda: steps[-1], "best": self._checked_best_step}
        step = look_up(named, which, "checkpoint (not a step either)")()
        if step is None:
            raise CheckpointError(
                f"no checkpoint in {self._directory} has a validation {self._metric} to be best "
                f"by; use 'last' or one of {', '.join(map(str, steps))}"
            )
        return step

    def _checked_best_step(self) -> int | None:
        if self._read_only:  # a run has checked them when it began
            for step in self.steps():
                self._require_whole(step, "metrics")
        return self.best_step()

    def _require_whole(self, step: int, part: str = "") -> None:
        damage = self._damage(step, part)
        if damage is not None:
            raise CheckpointError(f"{damage}. {self._remedy(step)}")

    def _damage(self, step: int, part: str = "") -> CheckpointError | None:
        problem = on_primary(lambda: self._folders.problem(step, part))
        if problem is None:
            return None
        return CheckpointError(
            f"the checkpoint of step {step} in {self._directory} is damaged: {problem}"
        )

    def _remedy(self, step: int) -> str:
        if not self._read_only:
            return "Start the same command again: it goes on from the last whole checkpoint"
        others = [each for each in self.steps() if each != step and self._damage(each) is None]
        if not others:
            return "No other checkpoint is whole: train anew in another --workdir"
        return "Whole instead: " + " or ".join(f"--checkpoint={each}" for each in others)

    def _go_on_from(self, start: int, damaged: dict[int, CheckpointError]) -> None:
        """Set aside the damaged checkpoints after a step, and those before it, if there are any."""
        for step in self.steps():
            if step < start and (damage := self._damage(step)) is not None:
                damaged[step] = damage
        costs = {step: self._cost(step, start) for step in damaged}
        for step, error in damaged.items():
            self._set_aside(step, error, costs[step])

    def _cost(self, step: int, start: int) -> str:
        """Return what the loss of a checkpoint costs a run that goes on from another one."""
        if step > start:
            return f"going on from step {start}: {self.trained_again(start, step)}"
        if self._damage(step, "metrics") is not None:
            return "if its parameters were the best so far, the best of the others count now"
        if step == self.best_step():
            return (
                f"its parameters were the best so far (validation {self._metric} "
                f"{self._values[step]:.4g}) and are lost: the best of the others count now"
            )
        return "nothing is lost with it"

    def trained_again(self, start: int, end: int) -> str:
        """Return, in words, what is trained again from one step to another."""
        unit, size = ("epoch", self._steps_per_epoch) if self._steps_per_epoch else ("step", 1)
        first, last = start // size + 1, -(-end // size)
        if first == last:
            return f"{unit} {first} is trained again"
        return f"{unit}s {first} to {last} are trained again"

    def _set_aside(self, step: int, error: CheckpointError, outcome: str) -> None:
        def move():
            target = self._folders.set_aside(step)
            warn(f"{error}; moved to {target}; {outcome}")

        on_primary(move)
        del self._values[step]
