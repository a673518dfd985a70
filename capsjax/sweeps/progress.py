"""Progress of a sweep: trials, epochs, best and median error so far, and the remaining time."""

import statistics
import time
from collections.abc import Mapping, Sequence

from capsjax.runs.progress import Progress, format_seconds

# Where there is no terminal, lines are printed no more often than this.
SECONDS_BETWEEN_LINES = 15.0


class SweepProgress(Progress):
    """A counter of the steps of all trials together.

    Args:
      num_trials: number of trials of the whole sweep.
      steps: steps of each remaining trial, as if none had been started, by trial. Others, which
        may be members of a population that goes on, are not counted.
      errors: validation error of the finished trials, in 0..1, by trial.
    """

    def __init__(self, num_trials: int, steps: Mapping[str, int], errors: Mapping[str, float]):
        super().__init__(sum(steps.values()))
        self._num_trials, self._steps_left, self._errors = num_trials, dict(steps), dict(errors)
        self._taken, self._seconds, self._printed_at = 0, 0.0, 0.0

    def take(self, trials: Sequence[str], steps: int, seconds: float) -> None:
        """Count steps that each of the trials took, and the seconds that they took together."""
        self._taken += steps * len(trials)
        self._seconds += seconds
        for trial in trials:
            self.skip(trial, steps)

    def skip(self, trial: str, steps: int) -> None:
        """Count steps of a trial that took no time of this start."""
        steps = min(steps, self._steps_left.get(trial, 0))
        if steps:
            self._steps_left[trial] -= steps
            self.advance(steps)

    def end(self, trial: str) -> None:
        """Count all remaining steps of a trial, which are never taken."""
        self.skip(trial, self._steps_left.get(trial, 0))

    def result(self, trial: str, error: float) -> None:
        """Record the latest validation error of a trial."""
        self._errors[trial] = error

    def eta(self) -> float:
        """Return the seconds to the end, at the rate so far; compilation is not counted."""
        return self._seconds * self.left() / max(self._taken, 1)

    def show_trials(self, where: str, finished: int, force: bool = False) -> None:
        """Show the trials done, and the best and median error so far.

        Args:
          where: the population and its epoch.
          finished: number of trials that are done.
          force: whether to print even if a line was printed just now.
        """
        done = f"{finished} of {self._num_trials} trials done"
        if self.has_bar:
            self.show(f"{done}; {where}", self._scores(short=True))
        elif force or time.monotonic() - self._printed_at >= SECONDS_BETWEEN_LINES:
            self._printed_at = time.monotonic()
            parts = [done, where, self._scores(), f"ETA {format_seconds(self.eta())}"]
            self.say("; ".join(filter(None, parts)))

    def _scores(self, short: bool = False) -> str:
        if not self._errors:
            return ""
        best = min(self._errors, key=self._errors.__getitem__)
        middle = statistics.median(self._errors.values())
        lowest, middle = (f"{100 * error:.2f} %" for error in (self._errors[best], middle))
        if short:
            return f"best {lowest}, median {middle}"
        return f"validation error: best {lowest} ({best}), median {middle}"
