"""Train for a long time, and watch the memory and the time that saves take.

    python tests/faults/soak.py --epochs=400

Trains configs/digits.py in this process and prints its resident memory at several epochs, and the
share of the time that went into checkpoints. The exit status is 1 if memory grows by more than
5 % after the first tenth of the run, or saves take more than 2 % of it.
"""

import argparse
import functools
import re
import sys
import tempfile
import time
from pathlib import Path

from capsjax.config import load_config
from capsjax.runs import train
from capsjax.runs.pace import SaveClock
from capsjax.runs.single_run import SingleRun

MOST_GROWTH, MOST_SAVING = 1.05, 0.02


def resident_megabytes() -> float:
    """Return the resident memory of this process, as Linux reports it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=400)
    options = parser.parse_args()
    memory: dict[int, float] = {}
    seconds_of_saves: list[float] = []
    plain_end, plain_save = SingleRun.end_epoch, SaveClock.run

    @functools.wraps(plain_end)
    def end_epoch(run: SingleRun) -> bool:
        result = plain_end(run)
        memory[run.step // run.steps_per_epoch] = resident_megabytes()
        return result

    @functools.wraps(plain_save)
    def save(clock: SaveClock, *arguments, **settings) -> None:
        started = time.monotonic()
        plain_save(clock, *arguments, **settings)
        seconds_of_saves.append(time.monotonic() - started)

    SingleRun.end_epoch, SaveClock.run = end_epoch, save
    config = load_config("digits")
    config.train.epochs, config.log.tensorboard = options.epochs, False
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        train.train_and_evaluate(config, Path(folder) / "soak")
    seconds = time.monotonic() - started

    print("| epoch | resident memory, MB |\n| ---: | ---: |")
    shown = sorted({max(1, round(share * options.epochs)) for share in (0, 0.1, 0.25, 0.5, 1)})
    for epoch in shown:
        print(f"| {epoch} | {memory[epoch]:.0f} |")
    tenth = max(1, round(0.1 * options.epochs))
    growth = max(value for epoch, value in memory.items() if epoch >= tenth) / memory[tenth]
    saving = sum(seconds_of_saves) / seconds
    print(
        f"\n{options.epochs} epochs in {seconds:.0f} s; {len(seconds_of_saves)} checkpoints took "
        f"{100 * saving:.2f} % of it; memory grew by {100 * (growth - 1):.1f} % after the first "
        "tenth"
    )
    sys.exit(growth > MOST_GROWTH or saving > MOST_SAVING)


if __name__ == "__main__":
    main()
