"""Damage the files of a run in many ways, and see what programs make of it.

    python tests/faults/inject.py                          # all of them, with a table
    python tests/faults/inject.py --only="checkpoint" --every=5

Each fault is a moment of a run (early, late, finished), one of its files, and a kind of damage. In
a copy of the folder the damage is done; then a predictor is loaded and the training is started
again. Each of the two may end in three ways:

    whole     what it gives is bit for bit what it gives without the damage
    told      it refuses with one line that names the file or the checkpoint, or goes on from
              what is whole, sets the rest aside and tells what that costs
    LOST      anything else: other numbers without a word, another error, a traceback

The last column counts faults after which the training did not end with the numbers of an
undamaged run: it refused, and they are there once its remedy is followed. The exit status is 1 if
anything is LOST.
"""

import argparse
import collections
import contextlib
import dataclasses
import functools
import io
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from capsjax.data import load_part
from capsjax.runs import train
from capsjax.runs.predictor import load_predictor
from capsjax.runs.single_run import SingleRun
from capsjax.runs.workdir import read_summary
from tests.tiny import tiny_config

EPOCHS = 3
# Moments: the epoch after which the run gets SIGTERM; 0 for never.
MOMENTS = {"early": 1, "late": 2, "finished": 0}


def flip(place: float) -> Callable[[bytes], bytes]:
    """Return the damage of one flipped bit, at a share of the file."""

    def damage(content: bytes) -> bytes:
        index = min(int(place * len(content)), len(content) - 1)
        return content[:index] + bytes([content[index] ^ 4]) + content[index + 1 :]

    return damage


# What happens to the content of a file; None deletes it.
KINDS: dict[str, Callable[[bytes], bytes] | None] = {
    "deleted": None,
    "emptied": lambda content: b"",
    "cut in half": lambda content: content[: len(content) // 2],
    "last byte cut": lambda content: content[:-1],
    "zeros": lambda content: bytes(len(content)),
    "garbage behind": lambda content: content + b"\xff\x00garbage",
    "bit flipped at the start": flip(0.0),
    "bit flipped in the middle": flip(0.5),
    "bit flipped at the end": flip(1.0),
}


@dataclasses.dataclass(frozen=True)
class Fault:
    """A damage: the moment of the run, the file in its folder, and the kind."""

    moment: str
    file: str
    kind: str

    @property
    def type(self) -> str:
        """The type of the file: those with the same role in all checkpoints are one."""
        parts = Path(self.file).parts
        if parts[0] != "checkpoints":
            return self.file
        return "checkpoint: " + ("arrays" if "d" in parts[2:] else "/".join(parts[2:]))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How the predictor and the training ended, and the line that they gave, if any."""

    predicted: str
    trained: str
    finished: bool
    line: str

    @property
    def is_lost(self) -> bool:
        return "LOST" in (self.predicted, self.trained)


class Laboratory:
    """Runs stopped at each moment, in a folder, and what they give undamaged."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._images = load_part("digits", "test").images
        self._expected_scores: dict[str, np.ndarray] = {}
        for moment, epoch in MOMENTS.items():
            with _quiet(), _stopped_after(epoch):
                train.train_and_evaluate(_config(), folder / moment)
            self._expected_scores[moment] = self._scores(folder / moment)
        self._expected = _results(folder / "finished")

    def faults(self) -> list[Fault]:
        """List a fault of every kind for every file of the run at every moment."""
        return [
            Fault(moment, path.relative_to(self._folder / moment).as_posix(), kind)
            for moment in MOMENTS
            for path in sorted((self._folder / moment).rglob("*"))
            if path.is_file() and path.stat().st_size
            for kind in KINDS
        ]

    def inject(self, fault: Fault) -> Outcome:
        """Do the damage in a copy, and use the copy."""
        with tempfile.TemporaryDirectory() as temporary:
            workdir = Path(temporary) / "run"
            shutil.copytree(self._folder / fault.moment, workdir)
            path, damage = workdir / fault.file, KINDS[fault.kind]
            if damage is None:
                path.unlink()
            else:
                path.write_bytes(damage(path.read_bytes()))
            predicted, line = self._predict(workdir, fault)
            trained, finished, said = self._train(workdir, fault)
            return Outcome(predicted, trained, finished, said or line)

    def _predict(self, workdir: Path, fault: Fault) -> tuple[str, str]:
        try:
            with _quiet():
                scores = self._scores(workdir)
        except ValueError as error:
            return _judged(str(error), fault), str(error)
        except Exception as error:
            return "LOST", f"{type(error).__name__}: {error}"
        same = np.array_equal(scores, self._expected_scores[fault.moment])
        return ("whole", "") if same else ("LOST", "other predictions without a word")

    def _train(self, workdir: Path, fault: Fault) -> tuple[str, bool, str]:
        try:
            with _quiet() as lines:
                train.train_and_evaluate(_config(), workdir)
        except ValueError as error:
            return _judged(str(error), fault), False, str(error)
        except Exception as error:
            return "LOST", False, f"{type(error).__name__}: {error}"
        if _results(workdir) != self._expected:
            return "LOST", False, "other results"
        told = [line for line in lines if "damaged" in line or "missing" in line]
        return ("told", True, told[0]) if told else ("whole", True, "")

    def _scores(self, workdir: Path) -> np.ndarray:
        return load_predictor(workdir).predict(self._images[:32]).scores


def _config():
    return tiny_config(train__epochs=EPOCHS, checkpoint__keep=2, selection="last")


def _results(workdir: Path) -> tuple[Any, ...]:
    """What counts of a finished run; the losses tell every bit of its parameters."""
    summary = read_summary(workdir)
    return summary["selected_step"], summary["test"], summary["validation"]


def _judged(message: str, fault: Fault) -> str:
    """Return "told" if a refusal is a line that names what is damaged."""
    parts = Path(fault.file).parts
    name = f"step {parts[1]}" if parts[0] == "checkpoints" else parts[-1]
    return "told" if name in message and "\n" not in message else "LOST"


@contextlib.contextmanager
def _stopped_after(epoch: int) -> Iterator[None]:
    """Send this process SIGTERM at the end of an epoch of the run in the block."""
    plain = SingleRun.end_epoch

    @functools.wraps(plain)
    def end_epoch(run: SingleRun) -> bool:
        if run.step == epoch * run.steps_per_epoch:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(run)

    SingleRun.end_epoch = end_epoch
    try:
        yield
    except SystemExit:
        pass
    finally:
        SingleRun.end_epoch = plain


@contextlib.contextmanager
def _quiet() -> Iterator[list[str]]:
    """Keep everything that the block prints to itself, and yield the list of its warnings."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("absl")
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield lines
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def table(outcomes: dict[Fault, Outcome]) -> str:
    """Make a Markdown table of outcomes, a row for each type of file and kind of damage."""
    rows: dict[tuple[str, str], list[Outcome]] = collections.defaultdict(list)
    for fault, outcome in outcomes.items():
        rows[fault.type, fault.kind].append(outcome)
    lines = [
        "| file | damage | faults | predictor | training | to be started anew |",
        "| --- | --- | ---: | --- | --- | ---: |",
    ]
    for (file, kind), of_row in sorted(rows.items()):
        predicted, trained = (
            ", ".join(f"{count} {name}" for name, count in collections.Counter(each).items())
            for each in zip(
                *((outcome.predicted, outcome.trained) for outcome in of_row), strict=True
            )
        )
        refused = sum(not outcome.finished for outcome in of_row)
        lines.append(f"| {file} | {kind} | {len(of_row)} | {predicted} | {trained} | {refused} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="only files whose path contains this")
    parser.add_argument("--every", type=int, default=1, help="only every N-th fault")
    parser.add_argument("--verbose", action="store_true", help="print the line of every fault")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        laboratory = Laboratory(Path(folder))
        faults = [each for each in laboratory.faults() if options.only in each.file]
        outcomes = {}
        for fault in tqdm(faults[:: options.every], "injecting", unit="fault"):
            outcome = outcomes[fault] = laboratory.inject(fault)
            if outcome.is_lost or options.verbose:
                tqdm.write(
                    f"{fault.moment}, {fault.file}, {fault.kind}: {outcome.predicted}, "
                    f"{outcome.trained}: {outcome.line}"
                )
    print(table(outcomes))
    lost = sum(outcome.is_lost for outcome in outcomes.values())
    types = {(fault.type, fault.kind) for fault in outcomes}
    print(f"\n{len(outcomes)} faults of {len(types)} kinds: {lost} lost")
    sys.exit(lost > 0)


if __name__ == "__main__":
    main()
