"""Timing of many cases in turn, so that noise on the machine affects all of them equally.

A B C A B C ..., and not A A B B C C: a minute of other work on the machine then slows down one
round of everything, and the median over rounds is the same with and without it.
"""

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from capsjax.benchmarks.machine import OtherWork
from capsjax.runs.progress import Progress, format_seconds


class Skipped(Exception):
    """A case that cannot be measured here; the message states the reason."""


class Prepared(NamedTuple):
    """A case that is ready to be timed.

    Attributes:
      run: does the work a given number of times and returns when all of it is done.
      once: seconds that the first call took, roughly; the timing starts from it.
      facts: facts known before the timing, such as "compile_seconds" and "memory_bytes".
      most: the largest number that `run` can be called with.
      program: returns the text of the compiled program, where there is one.
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
      name: name for people.
      prepare: compiles, does the work once and returns how to do it again.
      facts: what the record of the case contains besides its times.
      may_fail: whether an error of `prepare` becomes a note in the record instead of ending all.
    """

    name: str
    prepare: Callable[[], Prepared]
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    may_fail: bool = False


class Effort(NamedTuple):
    """The extent of a measurement.

    Attributes:
      repeats: rounds over all cases.
      seconds: duration that one timed call of a case should have.
      least: fewest times that a timed call does the work.
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
      records: filled as the measurement goes on, so that an interruption loses nothing: for each
        case its facts, "name", "count" (times that a timed call does the work), "seconds" (of
        doing it once: a list over the rounds) and "others" (see `OtherWork`), or a "note" on why
        it was skipped.
      effort: how long to measure.
      title: title of the progress.
      clock: clock in seconds.
    """
    ready = []
    with Calls(title, len(cases) * (1 + effort.repeats)) as progress:
        for case in cases:
            progress.start(f"preparing {case.name}")
            record = {"name": case.name, **case.facts, "seconds": [], "others": []}
            records.append(record)
            prepared = _prepare(case, record)
            if prepared is None:
                progress.advance(1 + effort.repeats)
                continue
            once = _warm_up(prepared, effort, clock)
            wanted = max(effort.least, round(effort.seconds / max(once, 1e-9)))
            record |= {**prepared.facts, "count": min(wanted, prepared.most)}
            ready.append((record, prepared.run))
            progress.advance(1)
        for number in range(1, effort.repeats + 1):
            for record, run in ready:
                progress.start(f"round {number} of {effort.repeats}: {record['name']}")
                others = OtherWork()
                record["seconds"].append(_timed(run, record["count"], clock))
                record["others"].append(others.share())
                progress.advance(1)


def first_call(run: Callable[[int], None]) -> float:
    """Return the seconds of doing the work for the first time."""
    return _timed(run, 1, time.perf_counter)


def _prepare(case: Case, record: dict[str, Any]) -> Prepared | None:
    """Prepare a case; return None, with a note in its record, if it is skipped."""
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
    """Warm up, and return the seconds that the work takes, roughly."""
    once = prepared.once
    for _ in range(effort.warmups):
        once = _timed(prepared.run, 1, clock)
    if once < 0.05 * effort.seconds:
        # The cost of a call would hide the time of such short work.
        once = _timed(prepared.run, min(10, prepared.most), clock)
    return once


def _timed(run: Callable[[int], None], count: int, clock: Callable[[], float]) -> float:
    started = clock()
    run(count)
    return (clock() - started) / count


def first_line(error: Exception) -> str:
    """Return the first line of an error, short enough for a table."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


def median(record: dict[str, Any] | None) -> float | None:
    """Return the median seconds of a record, None if it has none."""
    if record is None or not record.get("seconds"):
        return None
    return statistics.median(record["seconds"])


class Calls(Progress):
    """Progress of a measurement, and the remaining time.

    Bar and lines go to standard error: standard output is the report.
    """

    def __init__(self, title: str, total: int):
        super().__init__(total, unit="call", stream=sys.stderr)
        self._title = title
        self.show(left=title)

    def __enter__(self) -> "Calls":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def start(self, what: str) -> None:
        """Show what comes next."""
        self.show(right=what)
        if not self.has_bar:
            eta = f", ETA {format_seconds(self.eta())}" if self._done else ""
            self.say(f"{self._title} {self._done}/{self._total}: {what}{eta}")
