"""How many steps a call of the compiled program takes, and what comes after it.

Clocks and signals differ between processes that run together: they `agree` before they go on.
"""

import time

from ml_collections import ConfigDict

from capsjax.devices import gather

# How long a call of the compiled program should take: progress moves, and a signal is heard. Not
# less, because each call begins with memory that the system must first clear, 0.2 s for the
# paper's network on a CPU.
SECONDS_PER_CALL = 3.0


def steps_of_next_call(call_steps: int, seconds: float, wanted: float = SECONDS_PER_CALL) -> int:
    """How many steps take the wanted seconds, as the last call took so many and so long."""
    return max(1, round(call_steps * wanted / seconds))


def next_stop(config: ConfigDict, step: int, in_epoch: int) -> int:
    """The next step at which something is written."""
    intervals = (in_epoch, config.log.every_steps, config.checkpoint.every_steps)
    return min((step // every + 1) * every for every in intervals if every > 0)


def is_due(config: ConfigDict, step: int, saved_at: float) -> bool:
    """Whether to save a checkpoint, by steps or by the clock.

    Args:
      config: see `capsjax.config`.
      step: number of steps done.
      saved_at: when the last one was saved, by `time.monotonic`.
    """
    every_steps, minutes = config.checkpoint.every_steps, config.checkpoint.every_minutes
    by_steps = every_steps > 0 and step % every_steps == 0
    return by_steps or (minutes > 0 and time.monotonic() - saved_at >= 60 * minutes)


def agree(call_steps: int, due: bool, signal: int) -> tuple[int, bool, int]:
    """What all processes do next: by the clock of process 0, and for a signal to any of them."""
    said = gather([call_steps, due, signal])
    return int(said[0, 0]), bool(said[0, 1]), int(said[:, 2].max())
