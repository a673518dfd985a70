"""The training loop of a single run or of a population: steps, log, validate, save."""

from pathlib import Path
from typing import Protocol, runtime_checkable

from ml_collections import ConfigDict

from capsjax.runs import pace
from capsjax.runs.interrupt import Interrupt


@runtime_checkable
class Trainee(Protocol):
    """The object of the training loop: a run or a population of runs.

    Attributes:
      step: number of steps done.
      total_steps: number of steps of the whole training; fewer once an epoch has ended it early.
      steps_per_epoch: number of steps of an epoch.
      is_alive: whether anything is left whose loss is finite.
      seconds_per_call: duration that a call of the compiled program should have.
    """

    step: int
    total_steps: int
    steps_per_epoch: int
    is_alive: bool
    seconds_per_call: float

    def take_steps(self, count: int) -> float:
        """Take `count` steps, and return the seconds that they took."""

    def write_training_metrics(self) -> None:
        """Write the metrics of the steps since the last call."""

    def end_epoch(self) -> bool:
        """Validate, and return whether the state is worth saving."""

    def show_progress(self, ends_epoch: bool) -> None:
        """Show the progress of the training."""

    def save(self) -> None:
        """Save a checkpoint."""

    def say(self, line: str) -> None:
        """Print a line beside the progress."""


def train(trainee: Trainee, config: ConfigDict, workdir: Path, interrupt: Interrupt) -> None:
    """Take all remaining steps, and save a checkpoint of the last one.

    Args:
      trainee: the run or population to train.
      config: config with the intervals of logs and checkpoints, see `capsjax.config`.
      workdir: folder to resume from, for the message of an interruption.
      interrupt: its signal is read between two calls of the compiled program.

    Raises:
      SystemExit: after one of the signals of `Interrupt`, once the state is saved.
    """
    in_epoch, saves, call_steps = trainee.steps_per_epoch, pace.SaveClock(), 1
    while trainee.step < trainee.total_steps and trainee.is_alive:
        stop = pace.next_stop(config, trainee.step, in_epoch)
        call_steps = min(call_steps, stop - trainee.step)
        seconds = trainee.take_steps(call_steps)
        call_steps, due, signal = pace.agree(
            pace.steps_of_next_call(call_steps, seconds, trainee.seconds_per_call),
            saves.due(config, trainee.step),
            interrupt.signal or 0,
        )
        ends_epoch = trainee.step % in_epoch == 0
        if ends_epoch or trainee.step % config.log.every_steps == 0:
            trainee.write_training_metrics()
        # The end of an epoch may end the training.
        worth_saving = ends_epoch and trainee.end_epoch()
        save = due == pace.Due.NOW or bool(signal) or trainee.step == trainee.total_steps
        if worth_saving:
            save |= due == pace.Due.AT_END_OF_EPOCH
        trainee.show_progress(ends_epoch)
        if save:
            saves.run(trainee.save)
        if signal and trainee.step < trainee.total_steps:
            trainee.say(
                f"saved step {trainee.step}; the same command with --workdir={workdir} resumes"
            )
            raise SystemExit(128 + signal)
