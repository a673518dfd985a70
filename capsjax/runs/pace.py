"""Number of steps in a call of the compiled program, and what follows it.

Clocks and signals differ between the processes of a run, so they `agree` before they go on.
"""

import time

from ml_collections import ConfigDict

from capsjax.runs.processes import gather


def steps_of_next_call(call_steps: int, seconds: float, wanted: float) -> int:
    """Return the number of steps that fill `wanted` seconds at the last call's rate."""
    return max(1, round(call_steps * wanted / seconds))


def next_stop(config: ConfigDict, step: int, in_epoch: int) -> int:
    """Return the next step at which something is written."""
    intervals = (in_epoch, config.log.every_steps, config.checkpoint.every_steps)
    return min((step // every + 1) * every for every in intervals if every > 0)


def is_due(config: ConfigDict, step: int, saved_at: float) -> bool:
    """Return whether to save a checkpoint, by steps or by the clock.

    Args:
      config: see `capsjax.config`.
      step: number of steps done.
      saved_at: time at which the last one was saved, by `time.monotonic`.
    """
    every_steps, minutes = config.checkpoint.every_steps, config.checkpoint.every_minutes
    by_steps = every_steps > 0 and step % every_steps == 0
    return by_steps or (minutes > 0 and time.monotonic() - saved_at >= 60 * minutes)


def agree(call_steps: int, due: bool, signal: int) -> tuple[int, bool, int]:
    """Return what all processes do next, by process 0's clock and for a signal to any of them."""
    said = gather([call_steps, due, signal])
    return int(said[0, 0]), bool(said[0, 1]), int(said[:, 2].max())
