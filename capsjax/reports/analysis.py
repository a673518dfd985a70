"""All numbers of the report, computed once for the text, the tables and the figure."""

from typing import NamedTuple

import pandas as pd

from capsjax.analysis.statistics import (
    Comparison,
    Effect,
    Point,
    Summary,
    compare_with_reference,
    grid,
    main_effects,
    summarize,
    values_at,
)
from capsjax.registry import suggest
from capsjax.reports.index import Published, Sweep, Trial

OTHER_PART = {"test": "validation", "validation": "test"}


class Row(NamedTuple):
    """A point of the grid.

    Attributes:
      point: its levels.
      trials: the trials listed for it, in the order of their seeds.
      error: error on the part that is reported, in percent.
      other_error: error on the other part.
      num_errors: number of errors on the reported part, where the counts are known.
      seconds: seconds of training.
      comparison: comparison with the reference; None for the reference.
      published: published results for it; empty unless the test set is reported.
    """

    point: Point
    trials: tuple[Trial, ...]
    error: Summary
    other_error: Summary
    num_errors: Summary
    seconds: Summary
    comparison: Comparison | None
    published: tuple[Published, ...]


class Analysis(NamedTuple):
    """A row for each point that has trials, and the main effects of the factors."""

    part: str
    confidence: float
    reference: Point
    rows: tuple[Row, ...]
    effects: tuple[Effect, ...]

    @property
    def num_results(self) -> int:
        """Number of trials that have a result."""
        return sum(len(row.error.values) for row in self.rows)


def analyse(
    sweep: Sweep, part: str = "test", confidence: float = 0.95, reference: Point | None = None
) -> Analysis:
    """Analyse a sweep, finished or not: trials without a result count only in "n".

    Args:
      sweep: the sweep.
      part: "test" or "validation", whose error is reported.
      confidence: confidence of all intervals.
      reference: point that others are compared with; None for the sweep's own, else its first.

    Raises:
      ValueError: if the confidence is not between 0 and 1, or the reference has no trial of its
        own.
    """
    points = sweep.points
    reference = reference or sweep.reference or points[0]
    if reference not in points:
        # Its trials are those of another point: nothing could be compared with it.
        point = sweep.describe(reference)
        known = suggest(point, map(sweep.describe, points))
        raise ValueError(f"reference {point} has no trial of its own; {known}")
    values = _values(sweep, part)
    comparisons = compare_with_reference(values["error"], points, reference, confidence)
    rows = tuple(
        Row(
            point,
            tuple(sorted((t for t in sweep.trials if t.point == point), key=lambda t: t.seed)),
            *(summarize(values_at(values[name], point), confidence) for name in values),
            comparisons.get(point),
            tuple(p for p in sweep.published if p.point == point and part == "test"),
        )
        for point in points
    )
    effects = tuple(main_effects(values["error"], sweep.factors, confidence))
    return Analysis(part, confidence, reference, rows, effects)


def errors_of_grid(sweep: Sweep, analysis: Analysis) -> dict[Point, Summary]:
    """Return the error of each point of the whole grid; without a value where there is no trial."""
    none = summarize([], analysis.confidence)
    of_points = {row.point: row.error for row in analysis.rows}
    return {point: of_points.get(point, none) for point in grid(sweep.factors)}


def _values(sweep: Sweep, part: str) -> pd.DataFrame:
    """Tabulate the numbers of all trials by levels and seed, NaN where there is none."""
    results = [trial.result(part) for trial in sweep.trials]
    others = [trial.result(OTHER_PART[part]) for trial in sweep.trials]
    columns = {
        "error": [result and result.error_percent for result in results],
        "other_error": [other and other.error_percent for other in others],
        "num_errors": [result and result.num_errors for result in results],
        "seconds": [t.train_seconds if t.result(part) else None for t in sweep.trials],
    }
    names = [*sweep.factors, None]
    listed = pd.MultiIndex.from_tuples([(*t.point, t.seed) for t in sweep.trials], names=names)
    # A sweep that lists no trial has points too.
    seeds = sorted({trial.seed for trial in sweep.trials} or {0})
    planned = pd.MultiIndex.from_product([*sweep.factors.values(), seeds], names=names)
    return pd.DataFrame(columns, listed, dtype=float).reindex(planned)
