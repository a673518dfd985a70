"""How far a sweep is: trials, epochs, the best and the median so far, and when it will be done."""

import statistics
import time

from tqdm import tqdm

from capsjax.progress import format_seconds, say

# Where there is no terminal a line is printed no more often than this.
SECONDS_BETWEEN_LINES = 15.0


class SweepProgress:
    """Counts steps of all trials together.

    Args:
      num_trials: of the whole sweep.
      total_steps: of all trials that are left, as if none had been begun.
      errors: by trial, the validation error of those that are finished, in 0..1.
    """

    def __init__(self, num_trials: int, total_steps: int, errors: dict[str, float]):
        self._num_trials, self._total, self._errors = num_trials, total_steps, dict(errors)
        self._done = self._counted = 0
        self._seconds, self._printed_at = 0.0, 0.0
        self._bar = tqdm(
            total=total_steps, unit="step", disable=None, dynamic_ncols=True, smoothing=0.05
        )

    def skip(self, steps: int) -> None:
        """Steps that an earlier start has made, or that a trial that ended early leaves out."""
        self._done += steps
        self._bar.update(steps)

    def count(self, steps: int, seconds: float) -> None:
        """Steps that were made, of all members together, and how long that took."""
        self._counted += steps
        self._seconds += seconds
        self.skip(steps)

    def result(self, trial: str, error: float) -> None:
        """The latest validation error of a trial."""
        self._errors[trial] = error

    def eta(self) -> float:
        """Seconds to the end, at the rate so far; compilation is not counted."""
        return self._seconds * (self._total - self._done) / max(self._counted, 1)

    def show(self, where: str, finished: int, force: bool = False) -> None:
        """Say how it goes.

        Args:
          where: the population and its epoch.
          finished: number of trials that are done.
          force: also if a line was printed just now.
        """
        done = f"{finished} of {self._num_trials} trials done"
        if not self._bar.disable:
            self._bar.set_description_str(f"{done}; {where}")
            self._bar.set_postfix_str(self._scores(short=True))
        elif force or time.monotonic() - self._printed_at >= SECONDS_BETWEEN_LINES:
            self._printed_at = time.monotonic()
            parts = [done, where, self._scores(), f"ETA {format_seconds(self.eta())}"]
            print("; ".join(filter(None, parts)), flush=True)

    def say(self, line: str) -> None:
        """Show a line of its own."""
        say(self._bar, line)

    def close(self) -> None:
        self._bar.close()

    def _scores(self, short: bool = False) -> str:
        if not self._errors:
            return ""
        best = min(self._errors, key=self._errors.__getitem__)
        middle = statistics.median(self._errors.values())
        lowest, middle = (f"{100 * error:.2f} %" for error in (self._errors[best], middle))
        if short:
            return f"best {lowest}, median {middle}"
        return f"validation error: best {lowest} ({best}), median {middle}"
