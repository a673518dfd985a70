"""Training of one population, from its last checkpoint to the results of its trials."""

import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pace
from jax.sharding import Sharding

from capsjax import devices
from capsjax.checkpoint import CheckpointError, Checkpoints, Restored
from capsjax.data import Arrays, load_part
from capsjax.interrupt import Interrupt
from capsjax.metrics import means_of, results_of
from capsjax.training import steps_per_epoch
from capsjax.training.population import keep_better
from capsjax.training.steps import Health
from capsjax.workdir import open_workdir, program_command
from capsjax.writers import MetricsWriter, NoWriter
from sweeping.folders import trial_folder, write_failure
from sweeping.members import Members
from sweeping.progress import SweepProgress
from sweeping.results import Outcome, write_results

# Longer than a call of train.py: in each of them every member is fetched and put back, and draws
# the order of its epoch anew, 30 ms for the small network.
SECONDS_PER_CALL = 10.0


class PopulationRun:
    """A population in training: what changes from step to step, and what is known of its members.

    Args:
      workdir: of the sweep.
      folder: of the population.
      members: its trials, on their devices.
      compiled: their compiled steps.
      progress: of the sweep.
    """

    def __init__(
        self, workdir: Path, folder: Path, members: Members, compiled: Any, progress: SweepProgress
    ):
        self._workdir, self._folder, self._members = workdir, folder, members
        self._compiled, self._progress, self._config = compiled, progress, members.config
        self._name = f"population {folder.name} of {len(members.trials)}"
        self._in_epoch = steps_per_epoch(len(members.data.training), self._config.train.batch_size)
        self._total = self._in_epoch * self._config.train.epochs
        self._checkpoints = self._open_checkpoints()
        self._evaluate = members.compile_evaluate()
        self._keep_better = jax.jit(keep_better)
        self._numbers = members.place(members.numbers)
        self._restore()

    def train(self, interrupt: Interrupt, on_epoch: Callable[[], int]) -> None:
        """Take all steps that are left, and write the results.

        Args:
          interrupt: heard between two calls of the program.
          on_epoch: called after each epoch; returns how many trials of the sweep are done.

        Raises:
          SystemExit: after Ctrl-C or SIGTERM, when all is saved.
        """
        training = self._members.data.training
        images, labels = devices.replicate((training.images, training.labels), self._members.mesh)
        saved_at, call_steps, finished = time.monotonic(), 1, on_epoch()
        self._open_writers()
        try:
            while self._step < self._total and self._alive.any():
                stop = pace.next_stop(self._config, self._step, self._in_epoch)
                call_steps = min(call_steps, stop - self._step)
                seconds = self._take(call_steps, images, labels)
                call_steps, due, signal = pace.agree(
                    pace.steps_of_next_call(call_steps, seconds, SECONDS_PER_CALL),
                    pace.is_due(self._config, self._step, saved_at),
                    interrupt.signal or 0,
                )
                ends_epoch = self._step % self._in_epoch == 0
                if ends_epoch or self._step % self._config.log.every_steps == 0:
                    self._write_training_metrics()
                if ends_epoch:
                    self._validate()
                    finished = on_epoch()
                self._progress.show(self._where(), finished, force=ends_epoch)
                if due or signal or self._step == self._total:
                    self._save()
                    saved_at = time.monotonic()
                if signal and self._step < self._total:
                    self._progress.say(
                        f"saved step {self._step}; the same command with "
                        f"--workdir={self._workdir} resumes"
                    )
                    raise SystemExit(128 + signal)
        finally:
            for writer in self._writers:
                writer.close()
        self._finish()

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
                "best_losses": [None] * count,
                "best_steps": [0] * count,
                "train_seconds": [0.0] * count,
            }
            self._step = 0
        else:
            self._states, self._best = restored.state["states"], restored.state.get("best")
            notes, self._step = restored.notes, restored.step
            self._progress.say(f"{self._name}: resuming from step {self._step}")
        self._notes = notes
        self._alive = np.array([failure is None for failure in notes["failures"]])
        self._since_log, self._log_seconds = self._step, 0.0
        alive = int(self._alive.sum())
        self._progress.skip(self._step * alive + self._total * (count - alive))

    def _read_checkpoint(self) -> Restored | None:
        """The last one; None if there is none, or it is damaged, and the population begins anew."""
        if not self._checkpoints.steps():
            return None
        try:
            return self._restore_rows()
        except CheckpointError as error:
            self._progress.say(f"{error}. It is set aside, and {self._name} begins anew")
        devices.on_primary(self._set_aside)
        self._checkpoints = self._open_checkpoints()
        return None

    def _set_aside(self) -> None:
        number = len(list(self._folder.glob("damaged-*")))
        os.replace(self._folder / "checkpoints", self._folder / f"damaged-{number}")

    def _open_checkpoints(self, sharding: Sharding | None = None) -> Checkpoints:
        sharding = sharding or self._members.sharding
        return Checkpoints(self._folder / "checkpoints", 1, sharding=sharding)

    def _restore_rows(self) -> Restored | None:
        """The last checkpoint, for as many devices as there are now."""
        num_rows = self._checkpoints.notes()["num_rows"]
        like = {"states": self._members.like(num_rows)}
        if self._keeps_best:
            like["best"] = like["states"].variables
        if num_rows == self._members.num_rows:
            return self._checkpoints.restore_last_whole(like)
        everywhere = devices.everywhere(self._members.mesh)
        restored = self._open_checkpoints(everywhere).restore_last_whole(like)
        state = self._members.refill(devices.to_host(restored.state))
        notes = {**restored.notes, "num_rows": self._members.num_rows}
        return restored._replace(state=state, notes=notes)

    @property
    def _keeps_best(self) -> bool:
        return self._config.selection == "best"

    def _where(self) -> str:
        return f"{self._name}, epoch {self._step / self._in_epoch:.2f}/{self._config.train.epochs}"

    def _open_writers(self) -> None:
        """The trials' folders, and the writers of their metrics."""

        def open_folders():
            for trial in self._members.trials:
                open_workdir(trial_folder(self._workdir, trial), trial.config, program_command({}))

        devices.on_primary(open_folders)
        self._writers = [
            MetricsWriter(
                trial_folder(self._workdir, trial), self._config.log.tensorboard, self._step
            )
            if devices.is_primary()
            else NoWriter()
            for trial in self._members.trials
        ]

    def _take(self, count: int, images, labels) -> float:
        """Take steps with all members that are alive; the seconds that took."""
        num_steps = self._members.fill(np.where(self._alive, count, 0).astype(np.int32), 0)
        started = time.perf_counter()
        self._states, healths = self._compiled(
            self._numbers, self._states, self._members.place(num_steps), images, labels
        )
        healths = devices.to_host(healths)
        seconds = time.perf_counter() - started
        took_part = self._alive.copy()
        for index in np.flatnonzero(took_part):
            self._notes["train_seconds"][index] += seconds / took_part.sum()
            if not healths.finite[index]:
                self._give_up(index, _of_member(healths, index))
        self._step += count
        self._log_seconds += seconds
        self._progress.count(count * int(took_part.sum()), seconds)
        return seconds

    def _give_up(self, index: int, health: Health) -> None:
        """Freeze a member whose loss is not finite any more."""
        shown = health.shown()
        step = int(devices.to_host(self._states.step)[index])
        message = f"step {step} is not finite: " + ", ".join(f"{k} {v}" for k, v in shown.items())
        trial = self._members.trials[index]
        devices.on_primary(
            lambda: write_failure(self._workdir, trial, "non_finite", message, step=step, **shown)
        )
        self._alive[index] = False
        self._notes["failures"][index] = message
        self._progress.say(f"{trial.id}: {message}. The others go on")
        self._progress.skip(self._total - step)

    def _write_training_metrics(self) -> None:
        window = devices.to_host(self._states.window)
        rates = self._members.learning_rates(self._step - 1)
        images = (self._step - self._since_log) * self._config.train.batch_size
        for index in np.flatnonzero(self._alive):
            metrics = means_of(_of_member(window, index))
            metrics["images_per_second"] = images * int(self._alive.sum()) / self._log_seconds
            metrics["learning_rate"] = float(rates[index])
            self._write(index, "train", metrics)
        empty = self._members.place(jax.tree.map(np.zeros_like, window))
        self._states = self._states._replace(window=empty)
        self._since_log, self._log_seconds = self._step, 0.0

    def _write(self, index: int, split: str, metrics: dict[str, float]) -> None:
        self._writers[index].write(self._step, self._step / self._in_epoch, split, metrics)

    def _validate(self) -> None:
        validation = self._members.data.validation
        if validation is None:
            return
        results = self._results(self._states.variables, validation)
        better = np.zeros(len(results), bool)
        for index in np.flatnonzero(self._alive):
            loss, best = results[index]["loss"], self._notes["best_losses"][index]
            better[index] = math.isfinite(loss) and (best is None or loss < best)
            if better[index]:
                self._notes["best_losses"][index] = loss
                self._notes["best_steps"][index] = self._step
            self._write(index, "validation", results[index])
            self._progress.result(self._members.trials[index].id, results[index]["error"])
        if self._keeps_best:
            mask = self._members.place(self._members.fill(better, False))
            self._best = self._keep_better(mask, self._states.variables, self._best)

    def _results(self, variables: dict, part: Arrays) -> list[dict[str, float]]:
        """Metrics of each trial on a part of the data."""
        images, labels = devices.replicate((part.images, part.labels), self._members.mesh)
        sums = devices.to_host(self._evaluate(self._numbers, variables, images, labels))
        count = len(self._members.trials)
        return [results_of(_of_member(sums, index)) for index in range(count)]

    def _save(self) -> None:
        state: dict[str, Any] = {"states": self._states}
        if self._keeps_best:
            state["best"] = self._best
        self._checkpoints.save(self._step, state, self._notes)

    def _finish(self) -> None:
        """Results of the test set, read once, and what they are results of."""
        if self._alive.any():
            variables = self._best if self._keeps_best else self._states.variables
            data, validation = self._config.data, self._members.data.validation
            test = load_part(data.name, "test", dir=data.dir, file=data.file)
            outcome = Outcome(
                self._total,
                *devices.to_host((self._states, self._best)),
                self._notes,
                self._results(variables, test),
                self._results(variables, validation) if validation else None,
            )
            for index in np.flatnonzero(self._alive):
                write_results(self._workdir, self._members, index, outcome)
        # All that they hold lies in the folders of the trials now.
        devices.on_primary(lambda: shutil.rmtree(self._folder / "checkpoints", ignore_errors=True))


def _of_member(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda x: x[index], tree)
