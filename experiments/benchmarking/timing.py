"""Timing of many cases in turn, so that noise on the machine hits all of them alike.

A B C A B C ..., and not A A B B C C: what else the machine does for a minute then slows one
round of everything down, and the median over rounds is the same with and without it.
"""

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tqdm import tqdm

from benchmarking.machine import OtherWork
from capsjax.progress import format_seconds


class Skipped(Exception):
    """A case that cannot be measured here; the message says why."""


class Prepared(NamedTuple):
    """Attributes:
    run: does the work that many times and returns when all of it is done.
    once: seconds that the first call took, roughly; the timing starts from it.
    facts: what is known before the timing, such as "compile_seconds" and "memory_bytes".
    most: the largest number that `run` can be called with.
    program: gives the text of the compiled program, where there is one.
    """

    run: Callable[[int], None]
    once: float
    facts: dict[str, Any]
    most: int = 1_000_000
    program: Callable[[], str] | None = None


@dataclasses.dataclass(frozen=True)
class Case:
    """Something to be timed.

    Attributes:
      name: for people.
      prepare: compiles, does the work once and says how to do it again.
      facts: what the record of the case holds besides its times.
      may_fail: an error of `prepare` becomes a note in the record instead of the end of all.
    """

    name: str
    prepare: Callable[[], Prepared]
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    may_fail: bool = False


class Effort(NamedTuple):
    """How long to measure.

    Attributes:
      repeats: rounds over all cases.
      seconds: that one timed call of a case should take.
      least: times that the work is done in a timed call, at least.
      warmups: times that it is done before, besides the one time in `Case.prepare`.
    """

    repeats: int
    seconds: float
    least: int = 1
    warmups: int = 1


def measure(
    cases: Sequence[Case],
    records: list[dict[str, Any]],
    effort: Effort,
    title: str,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Prepare all cases, then time them in turn.

    Args:
      cases: what to measure.
      records: filled as the measurement goes on, so that an interrupted one leaves what it has:
        for each case its facts, "name", "count" (times that a timed call does the work) and
        "seconds" (of doing it once: a list over the rounds) and "others" (see `OtherWork`), or
        a "note" on why it was skipped.
      effort: how long to measure.
      title: of the progress.
      clock: in seconds.
    """
    ready = []
    with Progress(title, len(cases) * (1 + effort.repeats)) as progress:
        for case in cases:
            progress.start(f"preparing {case.name}")
            record = {"name": case.name, **case.facts, "seconds": [], "others": []}
            records.append(record)
            prepared = _prepare(case, record)
            if prepared is None:
                progress.done(1 + effort.repeats)
                continue
            once = _warm_up(prepared, effort, clock)
            wanted = max(effort.least, round(effort.seconds / max(once, 1e-9)))
            record |= {**prepared.facts, "count": min(wanted, prepared.most)}
            ready.append((record, prepared.run))
            progress.done()
        for number in range(1, effort.repeats + 1):
            for record, run in ready:
                progress.start(f"round {number} of {effort.repeats}: {record['name']}")
                others = OtherWork()
                record["seconds"].append(_timed(run, record["count"], clock))
                record["others"].append(others.share())
                progress.done()


def first_call(run: Callable[[int], None]) -> float:
    """Seconds of doing the work for the first time."""
    return _timed(run, 1, time.perf_counter)


def _prepare(case: Case, record: dict[str, Any]) -> Prepared | None:
    """What the case prepares; None, and a note in its record, if it is skipped."""
    try:
        return case.prepare()
    except Skipped as reason:
        record["note"] = str(reason)
    except Exception as error:
        if not case.may_fail:
            raise
        record["note"] = f"failed: {first_line(error)}"
    return None


def _warm_up(prepared: Prepared, effort: Effort, clock: Callable[[], float]) -> float:
    """Seconds that the work takes, roughly."""
    once = prepared.once
    for _ in range(effort.warmups):
        once = _timed(prepared.run, 1, clock)
    if once < 0.05 * effort.seconds:
        # What a call costs would hide what such short work takes.
        once = _timed(prepared.run, min(10, prepared.most), clock)
    return once


def _timed(run: Callable[[int], None], count: int, clock: Callable[[], float]) -> float:
    started = clock()
    run(count)
    return (clock() - started) / count


def first_line(error: Exception) -> str:
    """What an error says, short enough for a table."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


def median(record: dict[str, Any] | None) -> float | None:
    """Median seconds of a record, None if it has none."""
    if record is None or not record.get("seconds"):
        return None
    return statistics.median(record["seconds"])


class Progress:
    """What is being measured, and when all of it will be done: a bar on a terminal, else lines.

    Both go to standard error: standard output is the report.
    """

    def __init__(self, title: str, total: int):
        self._title, self._total, self._count = title, total, 0
        self._started = time.perf_counter()
        self._bar = tqdm(
            total=total, desc=title, unit="call", disable=None, dynamic_ncols=True, leave=False
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def start(self, what: str) -> None:
        """Say what comes next."""
        if not self._bar.disable:
            self._bar.set_postfix_str(what)
            return
        eta = ""
        if self._count:
            elapsed = time.perf_counter() - self._started
            rest = elapsed * (self._total - self._count) / self._count
            eta = f", ETA {format_seconds(rest)}"
        print(
            f"{self._title} {self._count}/{self._total}: {what}{eta}", file=sys.stderr, flush=True
        )

    def done(self, count: int = 1) -> None:
        """That many calls are over."""
        self._count += count
        self._bar.update(count)
