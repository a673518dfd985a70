"""Kill runs at random moments until they are finished, and compare each with one left alone.

    python tests/faults/kill.py --kills=20

A run of 240 steps gets `kill -9` after a random time, between the start of Python and a
little after the time that the whole run takes, and is started again, until it is finished. Then
its parameters and all numbers of its metrics are compared, bit for bit, with those of a run that
was left alone. The table counts the kills by what the run had reached. The exit status is 1 if a
run differs or does not finish.
"""

import argparse
import collections
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

from tests.run_processes import LONG, assert_same_run, start

# As long as it takes to start, with a checkpoint every few steps.
RUN = {**LONG, "train__epochs": 60}
# What a run had reached when it was killed, and the file that shows it, the latest first.
REACHED = {
    "finished, ending": "summary.json",
    "training, with a checkpoint": "checkpoints/*/manifest.sha256",
    "training, without a checkpoint": "metrics.jsonl",
    "compiling": "config.json",
    "importing": "",
}


def reached(workdir: Path) -> str:
    """Return how far a run has come: a key of `REACHED`."""
    return next(name for name, file in REACHED.items() if not file or any(workdir.glob(file)))


def kill_until_finished(workdir: Path, seconds: float, rng: random.Random) -> list[str]:
    """Kill a run at random moments until one of its starts ends by itself.

    Args:
      workdir: folder of the run.
      seconds: the time that it takes when it is left alone.
      rng: random moments.

    Returns:
      What it had reached at each kill.

    Raises:
      AssertionError: if a start fails.
    """
    kills = []
    while True:
        process = start(workdir, **RUN)
        try:
            output, _ = process.communicate(timeout=rng.uniform(0.0, 1.2 * seconds))
        except subprocess.TimeoutExpired:
            kills.append(reached(workdir))
            process.kill()
            process.communicate()
            continue
        assert process.returncode == 0, output
        return kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="least number of kills")
    parser.add_argument("--seed", type=int, default=0, help="seed of their moments")
    options = parser.parse_args()
    rng, kills, runs, differing = random.Random(options.seed), [], 0, 0
    with (
        tempfile.TemporaryDirectory() as folder,
        tqdm(total=options.kills, desc="killing", unit="kill") as progress,
    ):
        alone = Path(folder) / "alone"
        started = time.monotonic()
        output, _ = start(alone, **RUN).communicate()
        assert (alone / "summary.json").exists(), output
        seconds = time.monotonic() - started
        while len(kills) < options.kills:
            workdir = Path(folder) / str(runs)
            of_run = kill_until_finished(workdir, seconds, rng)
            runs, kills = runs + 1, kills + of_run
            progress.update(len(of_run))
            try:
                assert_same_run(alone, workdir)
            except AssertionError as error:
                differing += 1
                tqdm.write(f"run {runs} differs after kills while {', '.join(of_run)}: {error}")
    print("| killed while | kills |\n| --- | ---: |")
    for name, count in collections.Counter(kills).most_common():
        print(f"| {name} | {count} |")
    print(f"\n{len(kills)} kills of {runs} runs: {differing} runs differ from the one left alone")
    sys.exit(differing > 0)


if __name__ == "__main__":
    main()
