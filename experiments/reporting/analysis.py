"""All that the report says in numbers, computed once for the text, the tables and the figure."""

from typing import NamedTuple

from capsjax.statistics import (
    Comparison,
    Effect,
    Point,
    Summary,
    compare_with_reference,
    main_effects,
    summarize,
    values_at,
)
from reporting.index import Published, Sweep, Trial

OTHER_PART = {"test": "validation", "validation": "test"}


class Row(NamedTuple):
    """A point of the grid.

    Attributes:
      point: its levels.
      trials: the trials listed for it, in the order of their seeds.
      error: of the part that is reported, in percent.
      other_error: of the other part.
      num_errors: of the reported part, where the counts are known.
      seconds: of training.
      comparison: with the reference; None for the reference.
      published: what others report for it; nothing where not the test set is reported.
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
    """The rows of the grid, and the main effects of the factors."""

    part: str
    confidence: float
    reference: Point
    rows: tuple[Row, ...]
    effects: tuple[Effect, ...]

    @property
    def num_results(self) -> int:
        """Trials that have a result."""
        return sum(len(row.error.values) for row in self.rows)


def analyse(
    sweep: Sweep, part: str = "test", confidence: float = 0.95, reference: Point | None = None
) -> Analysis:
    """Analyse a sweep, finished or not: trials without a result are in no number but "n".

    Args:
      sweep: the sweep.
      part: "test" or "validation", whose error is reported.
      confidence: of all intervals.
      reference: what other points are compared with; None: the sweep's own, else its first.

    Raises:
      ValueError: if the confidence is not between 0 and 1.
    """
    points = sweep.points
    reference = reference or sweep.reference or points[0]
    measured, other, counts, seconds = {}, {}, {}, {}
    for trial in sweep.trials:
        key = (trial.point, trial.seed)
        if result := trial.result(part):
            measured[key] = result.error_percent
            if result.num_errors is not None:
                counts[key] = float(result.num_errors)
            if trial.train_seconds is not None:
                seconds[key] = trial.train_seconds
        if result := trial.result(OTHER_PART[part]):
            other[key] = result.error_percent
    comparisons = compare_with_reference(measured, points, reference, confidence)
    rows = tuple(
        Row(
            point,
            tuple(sorted((t for t in sweep.trials if t.point == point), key=lambda t: t.seed)),
            *(
                summarize(values_at(each, point), confidence)
                for each in (measured, other, counts, seconds)
            ),
            comparisons.get(point),
            tuple(p for p in sweep.published if p.point == point and part == "test"),
        )
        for point in points
    )
    effects = tuple(main_effects(measured, sweep.factors, confidence))
    return Analysis(part, confidence, reference, rows, effects)
