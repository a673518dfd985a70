"""Number of steps in a call of the compiled program, and what follows it.

Clocks and signals differ between the processes of a run, so they `agree` before they go on.
"""

import enum
import time
from collections.abc import Callable

from ml_collections import ConfigDict

from capsjax.runs.processes import gather

# The part of the time that saves at the ends of epochs may take, those at the end included.
SHARE_OF_SAVES = 0.01


class Due(enum.IntEnum):
    """Whether a checkpoint is due."""

    NO = 0
    AT_END_OF_EPOCH = 1
    NOW = 2


class SaveClock:
    """The times at which a run was saved, and the seconds that it took.

    Epochs may be shorter than a save. So a save that only the end of an epoch asks for waits until
    it, and another one at the end of the run, are no more than SHARE_OF_SAVES of the time. (The
    first one does not wait: it shows that the disk can be written.) A kill costs what was done
    since the last save, at most `checkpoint.every_minutes` and a call of the program.
    """

    def __init__(self):
        self._started = self._saved = time.monotonic()
        self._seconds = self._longest = 0.0

    def run(self, save: Callable[[], None]) -> None:
        """Save, and note how long that took."""
        started = time.monotonic()
        save()
        self._saved = time.monotonic()
        self._seconds += self._saved - started
        self._longest = max(self._longest, self._saved - started)

    def due(self, config: ConfigDict, step: int) -> Due:
        """Return whether a checkpoint is due after a step, by the config and the clock."""
        now, every_steps = time.monotonic(), config.checkpoint.every_steps
        if every_steps > 0 and step % every_steps == 0:
            return Due.NOW
        if 0 < 60 * config.checkpoint.every_minutes <= now - self._saved:
            return Due.NOW
        affordable = SHARE_OF_SAVES * (now - self._started)
        if self._seconds + 2 * self._longest <= affordable:
            return Due.AT_END_OF_EPOCH
        return Due.NO


def steps_of_next_call(call_steps: int, seconds: float, wanted: float) -> int:
    """Return the number of steps that fill `wanted` seconds at the last call's rate."""
    return max(1, round(call_steps * wanted / seconds))


def next_stop(config: ConfigDict, step: int, in_epoch: int) -> int:
    """Return the next step at which something is written."""
    intervals = (in_epoch, config.log.every_steps, config.checkpoint.every_steps)
    return min((step // every + 1) * every for every in intervals if every > 0)


def agree(call_steps: int, due: Due, signal: int) -> tuple[int, Due, int]:
    """Return what all processes do next, by process 0's clock and for a signal to any of them."""
    said = gather([call_steps, due, signal])
    return int(said[0, 0]), Due(int(said[0, 1])), int(said[:, 2].max())
