"""Training of one population, from its last checkpoint to the results of its trials."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from capsjax.data import Arrays
from capsjax.metrics import means_of, results_of
from capsjax.runs import devices, processes
from capsjax.runs.checkpoint import CheckpointError, Checkpoints, Restored
from capsjax.runs.data_record import fingerprints
from capsjax.runs.interrupt import Interrupt
from capsjax.runs.loop import train
from capsjax.runs.starts import program_command
from capsjax.runs.workdir import open_workdir
from capsjax.runs.writers import LINES, open_writer
from capsjax.sweeps import Trial
from capsjax.sweeps.folders import trial_folder, write_failure, write_first_failure
from capsjax.sweeps.members import Members
from capsjax.sweeps.progress import SweepProgress
from capsjax.sweeps.results import NO_BEST, Outcome, load_test, write_results
from capsjax.training import steps_per_epoch
from capsjax.training.population import keep_better
from capsjax.training.steps import Health
from capsjax.training.watched import selecting

# Longer than a call of train.py: each call fetches every member and puts it back, and draws the
# order of its epoch anew, 30 ms for the small network.
SECONDS_PER_CALL = 10.0


class PopulationRun:
    """A population in training: what changes from step to step, and the notes on its members.

    Args:
      workdir: folder of the sweep.
      folder: folder of the population.
      members: its trials, on their devices.
      compiled: their compiled steps.
      progress: progress of the sweep.
    """

    seconds_per_call = SECONDS_PER_CALL

    def __init__(
        self, workdir: Path, folder: Path, members: Members, compiled: Any, progress: SweepProgress
    ):
        self._workdir, self._folder, self._members = workdir, folder, members
        self._compiled, self._progress, self._config = compiled, progress, members.config
        self._name = f"population {folder.name} of {len(members.trials)}"
        self.steps_per_epoch = steps_per_epoch(
            len(members.data.training), self._config.train.batch_size
        )
        self.total_steps = self.steps_per_epoch * self._config.train.epochs
        self._checkpoints = self._open_checkpoints()
        self._keep_better = jax.jit(keep_better)
        self._numbers = members.place(members.numbers)
        self._restore()

    def train(self, interrupt: Interrupt, on_start: Callable, on_epoch: Callable[[], int]) -> None:
        """Take all remaining steps, and write the results.

        Args:
          interrupt: its signal is read between two calls of the program.
          on_start: called once the folders of the trials are there.
          on_epoch: called after each epoch; returns how many trials of the sweep are done.

        Raises:
          SystemExit: after one of the signals of `Interrupt`, once all is saved.
        """
        training = self._members.data.training
        arrays = (training.images, training.labels)
        self._images, self._labels = devices.replicate(arrays, self._members.mesh)
        self._on_epoch, self._finished = on_epoch, on_epoch()
        self._open_writers()
        try:
            on_start()
            train(self, self._config, self._workdir, interrupt)
        finally:
            for writer in self._writers:
                writer.close()
        self._finish()

    @property
    def is_alive(self) -> bool:
        """Whether there is a member whose loss is finite."""
        return bool(self._alive.any())

    def _restore(self) -> None:
        count = len(self._members.trials)
        restored = self._read_checkpoint()
        if restored is None:
            self._states = self._members.init()
            # A copy, because the states are donated to the next step.
            self._best = (
                jax.tree.map(jnp.copy, self._states.variables) if self._keeps_best else None
            )
            notes = {
                "num_rows": self._members.num_rows,
                "failures": [None] * count,
                "best_values": [None] * count,
                "best_steps": [0] * count,
                "train_seconds": [0.0] * count,
            }
            self.step = 0
        else:
            self._states, self._best = restored.state["states"], restored.state.get("best")
            notes, self.step = restored.notes, restored.step
            notes.setdefault("best_values", notes.pop("best_losses", None))  # its former name
            self._progress.say(f"{self._name}: resuming from step {self.step}")
        self._notes = notes
        self._alive = np.array([failure is None for failure in notes["failures"]])
        self._since_log, self._log_seconds = self.step, 0.0
        for trial, failure in zip(self._members.trials, notes["failures"], strict=True):
            if failure is None:
                self._progress.skip(trial.id, self.step)
            else:
                self._progress.end(trial.id)
                self._record_again(trial, failure)

    def _record_again(self, trial: Trial, failure: str) -> None:
        """Record that a member was not finite, where that is no longer on record."""
        processes.on_primary(
            lambda: write_first_failure(self._workdir, trial, "non_finite", failure)
        )

    def _read_checkpoint(self) -> Restored | None:
        """Read the last whole checkpoint; None if there is none, to begin anew."""
        try:
            return self._checkpoints.read_last_whole(self._restore_rows)
        except CheckpointError as error:
            again = self._checkpoints.trained_again(0, self._checkpoints.steps()[-1])
            self._progress.say(f"{error}. All are set aside, and {self._name} begins anew: {again}")
        processes.on_primary(self._set_aside)
        self._checkpoints = self._open_checkpoints()
        return None

    def _set_aside(self) -> None:
        number = len(list(self._folder.glob("damaged-*")))
        os.replace(self._folder / "checkpoints", self._folder / f"damaged-{number}")

    def _open_checkpoints(self, sharding: Sharding | None = None) -> Checkpoints:
        return Checkpoints(
            self._folder / "checkpoints",
            keep=2,  # the second is for when the first is damaged
            sharding=sharding or self._members.sharding,
            steps_per_epoch=self.steps_per_epoch,
        )

    def _restore_rows(self, step: int) -> Restored:
        """Read the checkpoint of a step, for the present number of devices."""
        num_rows = self._checkpoints.notes(str(step))["num_rows"]
        like = {"states": self._members.like(num_rows)}
        if self._keeps_best:
            like["best"] = like["states"].variables
        if num_rows == self._members.num_rows:
            return self._checkpoints.restore(like, str(step))
        everywhere = devices.everywhere(self._members.mesh)
        restored = self._open_checkpoints(everywhere).restore(like, str(step))
        state = self._members.refill(devices.to_host(restored.state))
        notes = {**restored.notes, "num_rows": self._members.num_rows}
        return restored._replace(state=state, notes=notes)

    @property
    def _keeps_best(self) -> bool:
        return self._config.selection == "best"

    def _open_writers(self) -> None:
        """Open the trials' folders, and the writers of their metrics."""
        training, validation = self._members.data
        data = fingerprints(training=training, validation=validation)

        def open_folders():
            for trial in self._members.trials:
                folder = trial_folder(self._workdir, trial)
                open_workdir(folder, trial.config, program_command({}), data)

        processes.on_primary(open_folders)
        num_lines = self._notes.get(LINES, [0] * len(self._members.trials))
        self._writers = [
            open_writer(trial_folder(self._workdir, trial), trial.config, self.step, count)
            for trial, count in zip(self._members.trials, num_lines, strict=True)
        ]

    def take_steps(self, count: int) -> float:
        """Take `count` steps with all live members, and return the seconds that they took."""
        num_steps = self._members.fill(np.where(self._alive, count, 0).astype(np.int32), 0)
        started = time.perf_counter()
        self._states, healths = self._compiled(
            self._numbers,
            self._states,
            self._members.place(num_steps),
            self._images,
            self._labels,
        )
        healths = devices.to_host(healths)
        seconds = time.perf_counter() - started
        self.step += count
        took_part = np.flatnonzero(self._alive).tolist()
        trials = self._members.trials
        self._progress.take([trials[index].id for index in took_part], count, seconds)
        for index in took_part:
            self._notes["train_seconds"][index] += seconds / len(took_part)
            if not healths.finite[index]:
                self._give_up(index, _of_member(healths, index))
        self._log_seconds += seconds
        return seconds

    def end_epoch(self) -> bool:
        """Validate all members, and return whether their state is worth saving: by interval."""
        self._validate()
        self._finished = self._on_epoch()
        epoch = self.step // self.steps_per_epoch
        return epoch % self._config.checkpoint.every_epochs == 0

    def show_progress(self, ends_epoch: bool) -> None:
        """Show the population, its epoch and the results so far."""
        epoch = f"epoch {self.step / self.steps_per_epoch:.2f}/{self._config.train.epochs}"
        self._progress.show_trials(f"{self._name}, {epoch}", self._finished, force=ends_epoch)

    def say(self, line: str) -> None:
        """Print a line above the progress bar."""
        self._progress.say(line)

    def _give_up(self, index: int, health: Health) -> None:
        """Freeze a member whose loss is no longer finite."""
        shown = health.shown()
        step = int(devices.to_host(self._states.step)[index])
        variables = _of_member(devices.to_host(self._states.variables), index)
        find = self._members.find_non_finite
        origin = processes.on_primary(lambda: find(index, variables, step - 1))
        listed = ", ".join(f"{name} {value}" for name, value in shown.items())
        message = f"step {step} is not finite: {listed}. It began in {origin}"
        self._record_failure(index, message, step=step, **shown)

    def _record_failure(self, index: int, message: str, **facts: Any) -> None:
        trial, workdir = self._members.trials[index], self._workdir
        processes.on_primary(lambda: write_failure(workdir, trial, "non_finite", message, **facts))
        self._alive[index] = False
        self._notes["failures"][index] = message
        self._progress.say(f"{trial.id}: {message}. The others go on")
        self._progress.end(trial.id)

    def write_training_metrics(self) -> None:
        """Write the means of each member since the last call, and begin new ones."""
        window = devices.to_host(self._states.window)
        rates = self._members.learning_rates(self.step - 1)
        images = (self.step - self._since_log) * self._config.train.batch_size
        for index in np.flatnonzero(self._alive).tolist():
            metrics = means_of(_of_member(window, index))
            metrics["images_per_second"] = images * int(self._alive.sum()) / self._log_seconds
            metrics["learning_rate"] = float(rates[index])
            self._write(index, "train", metrics)
        empty = self._members.place(jax.tree.map(np.zeros_like, window))
        self._states = self._states._replace(window=empty)
        self._since_log, self._log_seconds = self.step, 0.0

    def _write(self, index: int, split: str, metrics: dict[str, float]) -> None:
        self._writers[index].write(self.step, self.step / self.steps_per_epoch, split, metrics)

    def _validate(self) -> None:
        validation = self._members.data.validation
        if validation is None:
            return
        results = self._results(self._states.variables, validation)
        better = np.zeros(len(results), bool)
        for index in np.flatnonzero(self._alive).tolist():
            now = selecting(results[index], self._config.selection_metric)
            better[index] = now.is_better_than(self._notes["best_values"][index])
            if better[index]:
                self._notes["best_values"][index] = now.value
                self._notes["best_steps"][index] = self.step
            self._write(index, "validation", results[index])
            self._progress.result(self._members.trials[index].id, results[index]["error"])
        if self._keeps_best:
            mask = self._members.place(self._members.fill(better, False))
            self._best = self._keep_better(mask, self._states.variables, self._best)

    def _results(self, variables: dict, part: Arrays) -> list[dict[str, float]]:
        """Compute the metrics of each trial on a part of the data."""
        num_classes = max(self._members.data.sizes.num_classes, part.num_classes)
        images, labels = devices.replicate((part.images, part.labels), self._members.mesh)
        found = devices.to_host(self._members.evaluate(self._numbers, variables, images, labels))
        of_members = [_of_member(found, index) for index in range(len(self._members.trials))]
        return [
            results_of(sums, part.labels, predictions, num_classes)
            for sums, predictions in of_members
        ]

    def save(self) -> None:
        """Save a checkpoint of all members."""
        state: dict[str, Any] = {"states": self._states}
        if self._keeps_best:
            state["best"] = self._best
        self._notes[LINES] = [writer.sync() for writer in self._writers]
        self._checkpoints.save(self.step, state, self._notes)

    def _finish(self) -> None:
        """Write the results on the test set, which is read once, and the tested parameters."""
        for index in np.flatnonzero(self._alive).tolist():
            if self._keeps_best and self._notes["best_values"][index] is None:
                self._record_failure(index, NO_BEST)
        if self._alive.any():
            variables = self._best if self._keeps_best else self._states.variables
            test = load_test(self._workdir, self._members, self._progress.say)
            validation = self._members.data.validation
            outcome = Outcome(
                self.total_steps,
                *devices.to_host((self._states, self._best)),
                self._notes,
                self._results(variables, test),
                self._results(variables, validation) if validation else None,
            )
            for index in np.flatnonzero(self._alive).tolist():
                write_results(self._workdir, self._members, index, outcome)
        # Everything in them is now in the folders of the trials.
        checkpoints = self._folder / "checkpoints"
        processes.on_primary(lambda: shutil.rmtree(checkpoints, ignore_errors=True))


def _of_member(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda x: x[index], tree)
