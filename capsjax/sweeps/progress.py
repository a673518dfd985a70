"""Progress of a sweep: trials, epochs, best and median error so far, and the remaining time."""

import statistics
import time

from capsjax.runs.progress import Progress, format_seconds

# Where there is no terminal, lines are printed no more often than this.
SECONDS_BETWEEN_LINES = 15.0


class SweepProgress(Progress):
    """A counter of the steps of all trials together.

    Args:
      num_trials: number of trials of the whole sweep.
      total_steps: steps of all remaining trials, as if none had been started.
      errors: validation error of the finished trials, in 0..1, by trial.
    """

    def __init__(self, num_trials: int, total_steps: int, errors: dict[str, float]):
        super().__init__(total_steps)
        self._num_trials, self._errors = num_trials, dict(errors)
        self._counted, self._seconds, self._printed_at = 0, 0.0, 0.0

    def count(self, steps: int, seconds: float) -> None:
        """Count steps taken, of all members together, and the seconds that they took."""
        self._counted += steps
        self._seconds += seconds
        self.advance(steps)

    def result(self, trial: str, error: float) -> None:
        """Record the latest validation error of a trial."""
        self._errors[trial] = error

    def eta(self) -> float:
        """Return the seconds to the end, at the rate so far; compilation is not counted."""
        return self._seconds * self.left() / max(self._counted, 1)

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
