"""Running time of this process."""

import os
import time
from pathlib import Path

_IMPORTED = time.perf_counter()


def seconds_since_start() -> float:
    """Return the seconds since the process started, imports included.

    Where the system does not report the start, they count from the import of this module.

    >>> seconds_since_start() > 0
    True
    """
    try:
        # The program's name, in parentheses, may contain spaces. Field 22 is the start.
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, AttributeError, IndexError, ValueError):
        return time.perf_counter() - _IMPORTED
