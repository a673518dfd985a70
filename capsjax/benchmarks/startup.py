"""Section "startup": the time from the start of experiments/train.py to its first step."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from capsjax.benchmarks.settings import Settings
from capsjax.benchmarks.timing import Calls, median
from capsjax.reports.tables import number, seconds_range, table
from capsjax.runs.files import read_json

ROOT = Path(__file__).resolve().parent.parent.parent
PAIRS = 3
STARTS = {"cold": "empty compilation cache", "warm": "filled compilation cache"}
COLUMNS = {
    "seconds_to_first_step": "first step after, s",
    "compile_seconds": "of which compilation, s",
    "whole_seconds": "whole run, s",
}


def run(section: dict[str, Any], settings: Settings) -> None:
    """Measure, filling the section on the way, so that an interruption loses nothing."""
    runs = section["runs"] = []
    with Calls("startup", len(STARTS) * PAIRS) as progress:
        for _ in range(PAIRS):
            with tempfile.TemporaryDirectory(prefix="capsjax-benchmark-") as folder:
                for start in STARTS:
                    progress.start(start)
                    runs.append({"start": start, **train_once(Path(folder), start)})
                    progress.advance(1)


def train_once(folder: Path, name: str) -> dict[str, float | None]:
    """Train an epoch of the digits in a process of its own.

    Args:
      folder: folder of the run, and of the cache, which the next run finds filled.
      name: name of the run.

    Raises:
      OSError: if the run fails, with the last line of its errors.
    """
    command = [sys.executable, "experiments/train.py", "--config=configs/digits.py"]
    command += ["--config.train.epochs=1", f"--workdir={folder / name}"]
    environment = {**os.environ, "CAPSJAX_CACHE_DIR": str(folder / "cache")}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # it may be filled already
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise OSError(f"experiments/train.py failed: {(done.stderr.splitlines() or ['?'])[-1]}")
    summary = read_json(folder / name / "summary.json")
    kept = {key: summary.get(key) for key in ("seconds_to_first_step", "compile_seconds")}
    return {**kept, "whole_seconds": seconds}


def markdown(section: dict[str, Any]) -> str:
    """Format a table of both starts."""
    lines = []
    for start, title in STARTS.items():
        line = [title]
        for key in COLUMNS:
            runs = [each for each in section.get("runs", []) if each["start"] == start]
            seconds = [each[key] for each in runs if each[key] is not None]
            middle = median({"seconds": seconds})
            line.append(f"{number(middle)} ({seconds_range(seconds)})" if seconds else "-")
        lines.append(line)
    return "\n\n".join(
        [
            table(["`experiments/train.py --config=configs/digits.py`", *COLUMNS.values()], lines),
            "As the run itself tells it, imports included; medians (and smallest to largest) of "
            f"{len(section.get('runs', []))} runs, of both kinds in turn.",
        ]
    )
