"""The index.json in the folder of a sweep: read, checked, and made into plain records."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from capsjax.analysis.statistics import Point, grid
from capsjax.registry import look_up, suggest
from capsjax.runs.files import DamagedFileError, read_sealed

REMEDY = "start `capsjax sweep` with the same --workdir again, which writes it anew"


class Result(NamedTuple):
    """The errors of a trial on a part of the data; the counts are None if they are not known."""

    error_percent: float
    num_errors: int | None
    num_examples: int | None


class Trial(NamedTuple):
    """One training run of the sweep, finished or not. `fields` is its whole entry in the file."""

    id: str
    point: Point
    seed: int
    status: str
    message: str
    results: dict[str, Result | None]
    train_seconds: float | None
    fields: Mapping[str, Any]

    def result(self, part: str) -> Result | None:
        """Return the result that counts: unfinished trials have none."""
        return self.results[part] if self.status == "finished" else None


class Published(NamedTuple):
    """A published result for a point."""

    point: Point
    error_percent: float
    deviation: float | None
    source: str


class Sweep(NamedTuple):
    """A sweep over all combinations of the factors' levels. `fields` is the whole file.

    `num_trials` is the number of its trials, listed or not; None where an earlier version wrote it.
    """

    name: str
    title: str
    factors: dict[str, tuple[str, ...]]
    num_seeds: int
    published: tuple[Published, ...]
    num_trials: int | None
    trials: tuple[Trial, ...]
    fields: Mapping[str, Any]

    @property
    def reference(self) -> Point | None:
        """The sweep's own point to compare with; None if it has none.

        Raises:
          ValueError: if it does not name one level of every factor.
        """
        levels = self.fields.get("reference")
        try:
            return _point(self.factors, levels) if levels else None
        except ValueError as error:
            raise ValueError(
                f"reference of the sweep: {error}. Give another with --reference, or correct it in "
                f"the file of the sweep and {REMEDY}"
            ) from None

    @property
    def points(self) -> list[Point]:
        """The whole grid, without points that are the same trials as others, and not listed."""
        points = grid(self.factors)
        if len(self.trials) != self.num_trials:
            return points
        listed = {trial.point for trial in self.trials}
        return [point for point in points if point in listed]

    @property
    def planned(self) -> int:
        """Number of trials of the whole sweep, also those that the file does not list yet."""
        of_grid = len(self.points) * self.num_seeds
        return max(len(self.trials), of_grid if self.num_trials is None else self.num_trials)

    def describe(self, point: Point) -> str:
        """Format a point as --reference takes it: "rounds=3,reconstruction=0.0005"."""
        return ",".join(f"{name}={level}" for name, level in zip(self.factors, point, strict=True))

    def num_examples(self, part: str) -> int | None:
        """Return the number of examples behind the results of a part."""
        results = [trial.result(part) for trial in self.trials]
        return max((r.num_examples for r in results if r and r.num_examples), default=None)

    def values_of(self, field: str) -> list[Any]:
        """Return the distinct values of a field of the trials, where it has one."""
        found = [trial.fields.get(field) for trial in self.trials]
        return list(dict.fromkeys(value for value in found if value is not None))


def read_sweep(workdir: Path) -> Sweep:
    """Read a sweep's index.json.

    Raises:
      ValueError: if there is none or it is damaged; the message names the remedy.
    """
    path = workdir / "index.json"
    try:
        fields = read_sealed(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"no sweep in {workdir} (it has no index.json): give the --workdir of `capsjax sweep`"
        ) from None
    except DamagedFileError as error:
        raise ValueError(f"{path} is damaged ({error.reason}): {REMEDY}") from None
    try:
        return _sweep(fields, workdir.name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"no field {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} is damaged ({what}): {REMEDY}") from None


def parse_point(sweep: Sweep, text: str) -> Point:
    """Parse a point such as "rounds=3,reconstruction=0.0005".

    Raises:
      ValueError: if it does not name one level of every factor.
    """
    # A comma inside a level, as in "hidden=(512,1024)", is not followed by a name and "=".
    parts = re.split(r",(?=[^,=]+=)", text)
    levels = dict(tuple(map(str.strip, part.partition("=")[::2])) for part in parts)
    return _point(sweep.factors, levels)


def _sweep(fields: Mapping[str, Any], folder: str) -> Sweep:
    factors = {
        str(factor["name"]): tuple(str(level) for level in factor["levels"])
        for factor in fields["factors"]
    }
    if not factors or not all(factors.values()):
        raise ValueError("a sweep has factors, and each factor has levels")
    name = str(fields.get("name") or folder)
    trials = tuple(_trial(factors, trial) for trial in fields["trials"])
    twice = [key for key, n in Counter((t.point, t.seed) for t in trials).items() if n > 1]
    if twice:
        raise ValueError(f"several trials of {twice[0]}")
    published = tuple(
        Published(
            # Also settings outside the grid: the report names them.
            tuple(str(entry["levels"].get(factor, "?")) for factor in factors),
            float(entry["error_percent"]),
            _number(entry.get("deviation")),
            str(entry.get("source") or "source not named"),
        )
        for entry in fields.get("published") or ()
    )
    return Sweep(
        name=name,
        title=str(fields.get("title") or name),
        factors=factors,
        num_seeds=int(fields.get("num_seeds") or len({trial.seed for trial in trials})),
        published=published,
        num_trials=int(fields["num_trials"]) if "num_trials" in fields else None,
        trials=trials,
        fields=fields,
    )


def _trial(factors: Mapping[str, tuple[str, ...]], fields: Mapping[str, Any]) -> Trial:
    point, seed = _point(factors, fields["levels"]), int(fields["seed"])
    return Trial(
        id=str(fields.get("id") or f"{','.join(point)},seed={seed}"),
        point=point,
        seed=seed,
        status=str(fields["status"]),
        message=str(fields.get("message") or ""),
        results={part: _result(fields.get(part)) for part in ("test", "validation")},
        train_seconds=_number(fields.get("train_seconds")),
        fields=fields,
    )


def _point(factors: Mapping[str, tuple[str, ...]], levels: Mapping[str, Any]) -> Point:
    for name in levels:
        look_up(factors, name, "factor")
    missing = [name for name in factors if name not in levels]
    if missing:
        raise ValueError(f"no level of {', '.join(missing)}; a point has a level of every factor")
    point = tuple(str(levels[name]) for name in factors)
    for (name, allowed), level in zip(factors.items(), point, strict=True):
        if level not in allowed:
            raise ValueError(f"unknown level {level!r} of {name}; {suggest(level, allowed)}")
    return point


def _result(fields: Mapping[str, Any] | None) -> Result | None:
    fields = fields or {}
    errors, examples = fields.get("num_errors"), fields.get("num_examples")
    if "dice" in fields:
        errors = None  # earlier versions counted wrong pixels as if they were images
    if errors is not None and examples:
        # The quotient of the counts: a float32 fraction is not exact.
        return Result(100.0 * int(errors) / int(examples), int(errors), int(examples))
    if fields.get("error") is None:
        return None
    return Result(100.0 * float(fields["error"]), errors, examples)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
