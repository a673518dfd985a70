"""The machine that is measured on: how much others use its processors."""

import os
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class OtherWork:
    """Use of the processors by others from now on."""

    def __init__(self):
        self._began = self._now()

    def share(self) -> float | None:
        """Return others' share of all processors since the start, in 0..1; None if not reported."""
        (wall, own, busy), (wall_now, own_now, busy_now) = self._began, self._now()
        if busy is None or busy_now is None or wall_now <= wall:
            return None
        others = (busy_now - busy) - (own_now - own)
        # The clocks have different resolutions: a little below zero is zero.
        return max(0.0, others / (wall_now - wall) / (os.cpu_count() or 1))

    @staticmethod
    def _now() -> tuple[float, float, float | None]:
        return time.perf_counter(), time.process_time(), _busy_seconds()


def _busy_seconds() -> float | None:
    """Return the seconds that all processors together have worked since the machine started."""
    try:
        line = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0]
    except OSError:  # not Linux
        return None
    user, nice, system, _idle, _waiting, *others = map(int, line.split()[1:9])
    return (user + nice + system + sum(others)) / os.sysconf("SC_CLK_TCK")


# Two threads that wait for each other at every layer lose more than the share that others take.
DISTURBED = 0.05


def others_line(records: Iterable[dict[str, Any]]) -> list[str]:
    """Write a line for a table about the work of others while its records were measured."""
    shares = [share for each in records for share in each.get("others", []) if share is not None]
    if not shares:
        return []
    middle, most = statistics.median(shares), max(shares)
    line = (
        f"While this was measured others used {100 * middle:.0f} % of the processors (median of "
        f"all calls; at most {100 * most:.0f} %)"
    )
    disturbed = middle > DISTURBED
    return [f"{line}: **repeat it on an idle machine**." if disturbed else f"{line}."]
