"""A single run in training: its state, its compiled programs and the files that it writes."""

import contextlib
import time
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from capsjax.data import Arrays
from capsjax.metrics import means_of, results_of
from capsjax.runs import devices, pictures, processes
from capsjax.runs.checkpoint import Checkpoints, Restored
from capsjax.runs.clock import seconds_since_start
from capsjax.runs.files import write_json
from capsjax.runs.progress import RunProgress, waiting
from capsjax.runs.warm_start import WarmStart
from capsjax.runs.writers import LINES, describe_board, open_writer
from capsjax.training.build import Built, build_evaluate, build_train_steps
from capsjax.training.compilation import compile_steps
from capsjax.training.nonfinite import find_non_finite
from capsjax.training.plateau import after_epoch, describe_standstill
from capsjax.training.steps import Health
from capsjax.training.watched import Watched, selecting, watched

# Duration that a call of the compiled program should have, so that progress moves and a signal is
# noticed. Not less, because each call begins with memory that the system must first clear, 0.2 s
# for the paper's network on a CPU.
SECONDS_PER_CALL = 3.0

# Name of the note, and of the entry of summary.json, on whether training ends early.
STOPPING = "early_stopping"


class NonFiniteError(ValueError):
    """A loss or gradient that is no longer finite."""


class SingleRun:
    """A run of one network, whose batches are divided among the devices.

    Args:
      config: see `capsjax.config`.
      workdir: folder of the run.
      built: what the config describes.
      training, validation: parts of the data, see `capsjax.data.load_training`.
      checkpoints: the checkpoints in the folder.
      mesh: the devices, in one axis.
    """

    seconds_per_call = SECONDS_PER_CALL
    is_alive = True

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        built: Built,
        training: Arrays,
        validation: Arrays | None,
        checkpoints: Checkpoints,
        mesh: Mesh,
    ):
        self._config, self._workdir, self._built = config, workdir, built
        self._training, self._validation = training, validation
        self._checkpoints, self._mesh = checkpoints, mesh
        self._evaluate = jax.jit(build_evaluate(config, built, mesh))
        self.steps_per_epoch = built.steps_per_epoch
        self.total_steps = built.steps_per_epoch * config.train.epochs
        if built.plateau is not None:
            self._next_memory = jax.jit(built.plateau.next_memory)

    def open(self, restored: Restored | None, warm_start: WarmStart | None = None) -> None:
        """Start from the first step or the last checkpoint, and compile the steps.

        Args:
          restored: the last checkpoint, if there is one.
          warm_start: parameters of another run, for the first step.
        """
        config, training = self._config, self._training
        if restored is None:
            state = jax.jit(lambda: self._built.init_state(config.seed))()
            if warm_start is not None:
                state = warm_start.put_into(state, self._built)
                print(warm_start.describe())
            # Placed like a restored state: otherwise evaluation is compiled for each of the two.
            self._state = devices.replicate(state, self._mesh)
            self._notes = {
                "train_seconds": 0.0,
                "image_shape": training.image_shape,
                "num_classes": training.num_classes,
                **({"class_names": training.class_names} if training.class_names else {}),
                "forms": self._built.model.chosen_forms(config.train.batch_size // self._mesh.size),
                "backend": jax.default_backend(),
            }
            if warm_start is not None:
                self._notes["init_from"] = warm_start.record
                # From now on the run does without the other one, which may change or go.
                self._checkpoints.save(0, self._state, self._notes)
        else:
            self._state, self._notes = restored.state, restored.notes
            print(f"resuming {self._workdir} from step {restored.step}")
        self.step = self._first_step = self._logged_step = int(self._state.step)
        if self._notes.get(STOPPING, {}).get("ended"):
            # Killed before the results were written, or given more epochs, which would be none.
            self.total_steps = self.step
            print(f"its training has ended early {describe_standstill(self._notes[STOPPING])}")
        arrays = (training.images, training.labels)
        self._images, self._labels = devices.replicate(arrays, self._mesh)

        started = time.perf_counter()
        # Before the clock of the progress starts.
        with waiting(f"compiling the training step ({self._describe_network()})"):
            self._compiled = self._compile_steps()
        self._notes["compile_seconds"] = time.perf_counter() - started
        print(
            f"{self._workdir}: {len(training)} training examples, {config.train.epochs} epochs of "
            f"{self.steps_per_epoch} steps; compiled in {self._notes['compile_seconds']:.1f} s",
            flush=True,
        )
        num_lines = self._notes.get(LINES, 0)
        self._writer = open_writer(self._workdir, config, self.step, num_lines)
        self._pictures = None
        if config.log.tensorboard:
            print(describe_board(self._workdir), flush=True)
            part = training if self._validation is None else self._validation
            size = config.train.batch_size // self._mesh.size
            self._pictures = pictures.Pictures(self._built, part, self._mesh, size)
        self._compiles_validation = self._validation is not None
        self._progress = RunProgress(self.total_steps, self.step, config.train.batch_size)
        # Value of the metric that the best parameters are chosen by: after this step, and so far.
        self._log_seconds, self._value = 0.0, None
        best, values = self._checkpoints.best_step(), self._checkpoints.validation_values()
        self._best_value = None if best is None else values[best]
        # Arguments of the save of the best epoch since the last save.
        self._unsaved_best: tuple | None = None

    def close(self) -> None:
        """Finish the files and the progress bar."""
        self._progress.close()
        self._writer.close()

    def take_steps(self, count: int) -> float:
        """Take `count` steps, and return the seconds that they took.

        Raises:
          NonFiniteError: if the loss or its gradient is no longer finite.
        """
        started = time.perf_counter()
        self._state, health = self._compiled(
            self._state, self._images, self._labels, np.int32(count)
        )
        self.step, finite = int(self._state.step), bool(health.finite)
        seconds = time.perf_counter() - started
        if self.step == self._first_step + 1:
            self._notes["seconds_to_first_step"] = seconds_since_start()
            self.say(f"first step after {self._notes['seconds_to_first_step']:.1f} s")
        if not finite:
            self._stop_non_finite(health)
        self._notes["train_seconds"] += seconds
        self._log_seconds += seconds
        self._value = None
        self._progress.update(self.step)
        return seconds

    def write_training_metrics(self) -> None:
        """Write the means since the last call, and begin new ones."""
        metrics = means_of(self._state.window)
        images_taken = (self.step - self._logged_step) * self._config.train.batch_size
        metrics["images_per_second"] = images_taken / self._log_seconds
        metrics["learning_rate"] = self._learning_rate()
        self._write("train", metrics)
        empty = jax.tree.map(np.zeros_like, self._state.window)
        self._state = self._state._replace(window=devices.replicate(empty, self._mesh))
        self._logged_step, self._log_seconds = self.step, 0.0

    def end_epoch(self) -> bool:
        """Validate, and return whether the state is worth saving: by interval, or as the best."""
        compiles, self._compiles_validation = self._compiles_validation, False
        with waiting("compiling the validation") if compiles else contextlib.nullcontext():
            metrics = self._validate()
        due = (self.step // self.steps_per_epoch) % self._config.checkpoint.every_epochs == 0
        if metrics is None:
            return due
        self._write("validation", metrics)
        # Before the state is kept: it is resumed after this.
        self._adapt(watched(metrics))
        now = selecting(metrics, self._config.selection_metric)
        self._value = now.value
        if now.is_better_than(self._best_value):
            self._best_value = now.value
            # A copy, because the state is donated to the next step.
            state = jax.tree.map(np.array, self._state)
            self._unsaved_best = (self.step, state, dict(self._notes), now.value)
            return True
        return due

    def _learning_rate(self) -> float:
        """Return the learning rate of the last step."""
        rate, plateau = float(self._built.schedule(self.step - 1)), self._built.plateau
        if plateau is None:
            return rate
        return rate * float(plateau.memory(self._state.opt_state).scale)

    def _adapt(self, now: Watched) -> None:
        """Lower the learning rate, or end the training, where validation no longer improves."""
        epoch, plateau = self.step // self.steps_per_epoch, self._built.plateau
        if plateau is not None:
            rate, opt_state = self._learning_rate(), self._state.opt_state
            memory = self._next_memory(devices.to_host(plateau.memory(opt_state)), now.cost)
            opt_state = plateau.with_memory(opt_state, devices.replicate(memory, self._mesh))
            self._state = self._state._replace(opt_state=opt_state)
            if self._learning_rate() < rate:
                self.say(
                    f"epoch {epoch}: no better validation {now.name} (schedule.plateau.patience="
                    f"{plateau.patience}), learning rate {self._learning_rate():.3g} instead of "
                    f"{rate:.3g}"
                )
        patience = self._config.train.patience
        if patience > 0:
            known = after_epoch(self._notes.get(STOPPING), now, epoch)
            ended = known["epochs_since"] >= patience
            self._notes[STOPPING] = {**known, "ended": ended}
            if ended:
                self.total_steps = self.step
                self.say(f"training ends after epoch {epoch} {describe_standstill(known)}")

    def _validate(self) -> dict[str, float] | None:
        """Compute the metrics of the validation part, if there is one, and draw what is seen."""
        metrics, predictions, variables = None, None, self._state.variables
        if self._validation is not None:
            metrics, predictions = self._score(variables, self._validation)
        epoch = self.step // self.steps_per_epoch
        if self._pictures is not None and pictures.is_due(epoch, self._config.train.epochs):
            for name, picture in self._pictures.draw(variables, predictions):
                self._writer.write_picture(self.step, name, picture)
        return metrics

    def show_progress(self, ends_epoch: bool) -> None:
        """Do nothing: the bar has already moved with the steps."""

    def save(self) -> None:
        """Save a checkpoint of the best epoch since the last save, and one of this step.

        It has the validation metric if an epoch ends here.
        """
        self._notes[LINES] = self._writer.sync()
        self._save_best()
        self._checkpoints.save(self.step, self._state, self._notes, self._value)

    def _save_best(self) -> None:
        if self._unsaved_best is not None and self._unsaved_best[0] != self.step:
            self._checkpoints.save(*self._unsaved_best)
        self._unsaved_best = None

    def say(self, line: str) -> None:
        """Print a line above the progress bar."""
        self._progress.say(line)

    def evaluate(self, variables: dict, part: Arrays) -> dict[str, float]:
        """Compute the metrics of parameters on a part of the data."""
        return self._score(variables, part)[0]

    def _score(self, variables: dict, part: Arrays) -> tuple[dict[str, float], np.ndarray | None]:
        """Compute metrics, and the predictions where those are classes."""
        images, labels = devices.replicate((part.images, part.labels), self._mesh)
        evaluation = self._evaluate(variables, images, labels)
        if part.labels.ndim != 1:
            return results_of(evaluation.sums), None
        predictions = np.asarray(self._built.objective.task.predictions(evaluation.scores))
        # A test part may know of fewer classes than the network, or of more.
        num_classes = max(self._built.model.num_classes, part.num_classes)
        metrics = results_of(evaluation.sums, part.labels, predictions, num_classes)
        return metrics, predictions

    def _describe_network(self) -> str:
        count = sum(leaf.size for leaf in jax.tree.leaves(self._state.params))
        return f"{type(self._built.model).__name__}, {count:,} parameters"

    def _compile_steps(self):
        """Compile the program (state, images, labels, num_steps) -> (state, health)."""
        train_steps = build_train_steps(self._config, self._built, self._mesh)
        jitted = jax.jit(train_steps, donate_argnums=0)
        return compile_steps(jitted, self._state, self._images, self._labels, np.int32(1))

    def _write(self, split: str, metrics: dict[str, float]) -> None:
        epoch = self.step / self.steps_per_epoch
        self._writer.write(self.step, epoch, split, metrics)
        self._progress.report(epoch, split, metrics)

    def _stop_non_finite(self, health: Health) -> None:
        shown, variables = health.shown(), devices.to_host(self._state.variables)
        arrays = (self._training.images, self._training.labels)
        origin = processes.on_primary(
            lambda: find_non_finite(self._config, self._built, variables, self.step - 1, *arrays)
        )
        record = {"step": self.step, **shown, "origin": origin}
        processes.on_primary(lambda: write_json(self._workdir / "failure.json", record))
        self._save_best()
        listed = ", ".join(f"{name} {value}" for name, value in shown.items())
        raise NonFiniteError(
            f"step {self.step} is not finite: {listed}. It began in {origin}. The last checkpoint "
            f"is of step {max(self._checkpoints.steps(), default=0)}. A lower "
            "schedule.learning_rate or a larger model.squash.eps may help"
        )
