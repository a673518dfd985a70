"""The report of a sweep: its tables with their notes, and all of it as Markdown."""

from typing import NamedTuple

from capsjax.analysis.statistics import MOST_FLIPPED, Comparison
from capsjax.reports import wording
from capsjax.reports.analysis import OTHER_PART, Analysis, Row, errors_of_grid
from capsjax.reports.facts import facts, without_result
from capsjax.reports.index import Sweep
from capsjax.reports.tables import table


class Tabulated(NamedTuple):
    """A table and what is to be known of it.

    Attributes:
      header, rows: cells as text.
      notes: paragraphs below it.
    """

    header: list[str]
    rows: list[list[str]]
    notes: list[str]


def report(sweep: Sweep, analysis: Analysis, figure: str) -> str:
    """Write the whole report.

    Args:
      sweep: the sweep.
      analysis: its numbers.
      figure: file name of the figure beside the report.
    """
    sections = [f"# {sweep.title}", _facts(sweep, analysis), "## Points"]
    sections += [_markdown(points(sweep, analysis))]
    if len(sweep.factors) == 2:
        grid = _markdown(grid_form(sweep, analysis))
        sections += [f"The same {analysis.part} error, %, as a grid:\n\n{grid}"]
    sections += [
        f"![{analysis.part} error of every point]({figure})",
        f"## Compared with {sweep.describe(analysis.reference)}",
        _markdown(comparisons(sweep, analysis)),
        "## Main effects",
        _markdown(effects(sweep, analysis)),
    ]
    if without := without_result(sweep, analysis.part):
        sections += ["## Trials without a result", without]
    return "\n\n".join(sections) + "\n"


def _facts(sweep: Sweep, analysis: Analysis) -> str:
    return "\n".join(f"- {name}: {fact}" for name, fact in facts(sweep, analysis).items())


def _markdown(tabulated: Tabulated) -> str:
    header, *rows = [list(map(wording.cell, row)) for row in (tabulated.header, *tabulated.rows)]
    return "\n\n".join([table(header, rows)] * bool(rows) + tabulated.notes)


def points(sweep: Sweep, analysis: Analysis) -> Tabulated:
    """Tabulate the error of every point."""
    part, other = analysis.part, OTHER_PART[analysis.part]
    decimals = wording.decimals_of(sweep.num_examples(part))
    other_decimals = wording.decimals_of(sweep.num_examples(other))
    shown = [published for row in analysis.rows for published in row.published]
    sources = list(dict.fromkeys(published.source for published in shown))
    header = [
        *sweep.factors,
        "n",
        f"{part} error, %",
        f"{wording.percent(analysis.confidence)} interval",
        "errors, mean (each seed)",
        f"{other} error, %",
        "training",
    ] + ["published, %"] * bool(sources)
    rows = [
        [
            *row.point,
            f"{len(row.error.values)} of {sweep.num_seeds}",
            wording.mean_and_deviation(row.error, decimals),
            wording.interval(row.error, decimals),
            _counts(row, part),
            wording.mean_and_deviation(row.other_error, other_decimals),
            wording.duration(row.seconds.mean),
        ]
        + [_published(row, sources)] * bool(sources)
        for row in analysis.rows
    ]
    notes = [
        "n: trials with a result; ±: sample standard deviation over seeds; interval: of the mean, "
        "by Student's t; training: mean time of a trial."
    ]
    if sources:
        named = [f"[{number}] {source}" for number, source in enumerate(sources, start=1)]
        notes.append(f"Published: {'; '.join(named)}.")
    outside = [p for p in sweep.published if p.point not in sweep.points]
    if outside:
        named = [f"{sweep.describe(p.point)}: {p.error_percent:g} ({p.source})" for p in outside]
        notes.append(f"Published for settings that are no trials here: {'; '.join(named)}.")
    return Tabulated(header, rows, notes)


def grid_form(sweep: Sweep, analysis: Analysis) -> Tabulated:
    """Tabulate the error of two factors, a row for each level of the first."""
    decimals = wording.decimals_of(sweep.num_examples(analysis.part))
    (down, across), (levels, columns) = sweep.factors, sweep.factors.values()
    by_point = errors_of_grid(sweep, analysis)
    rows = [
        [
            level,
            *(wording.mean_and_deviation(by_point[level, column], decimals) for column in columns),
        ]
        for level in levels
    ]
    return Tabulated([down, *(f"{across}={column}" for column in columns)], rows, [])


def comparisons(sweep: Sweep, analysis: Analysis) -> Tabulated:
    """Tabulate the difference of every other point to the reference."""
    compared = {
        sweep.describe(row.point): row.comparison for row in analysis.rows if row.comparison
    }
    if not compared:
        return Tabulated([], [], ["There is no other point to compare with."])
    decimals = wording.decimals_of(sweep.num_examples(analysis.part))
    header = [
        "point",
        *_difference_header(analysis.confidence),
        "t test p",
        "Holm p",
        "sign-flip p",
        "shown",
    ]
    rows = [
        [
            name,
            *_difference(each, decimals),
            wording.probability(each.p_value),
            wording.probability(each.holm_p),
            wording.probability(each.sign_flip_p),
            wording.conclusion(each, analysis.confidence),
        ]
        for name, each in compared.items()
    ]
    tests = sum(each.p_value is not None for each in compared.values())
    notes = [
        "Differences in percentage points of error, this point minus the reference, in pairs that "
        f"share the seed. Holm p corrects the paired t test for {wording.plural(tests, 'test')}; "
        "the sign-flip test is exact and assumes no distribution.",
        _could_have_shown(list(compared.values()), decimals, analysis.confidence),
    ]
    return Tabulated(header, rows, [" ".join(note for note in notes if note)])


def _could_have_shown(compared: list[Comparison], decimals: int, confidence: float) -> str:
    """State how large a difference must be, with so few seeds, before it shows."""
    tested = [each.difference for each in compared if each.difference.half_width is not None]
    if not tested:
        return "No comparison has two pairs that differ, so nothing can be shown yet."
    widths = [difference.half_width for difference in tested]
    low, high = (wording.fixed(width, decimals) for width in (min(widths), max(widths)))
    sentence = (
        "A mean difference shows only where it exceeds the half width of its "
        f"{wording.percent(confidence)} interval: here {low}"
        f"{'' if low == high else f' to {high}'} percentage points."
    )
    pairs = max(len(difference.values) for difference in tested)
    least = 2 / 2**pairs
    if pairs <= MOST_FLIPPED and least > 1 - confidence:
        sentence += (
            f" With {pairs} pairs the sign-flip test cannot give less than {least:.3g}: it cannot "
            f"show a difference at the level of {wording.percent(1 - confidence)}, however large."
        )
    return sentence


def effects(sweep: Sweep, analysis: Analysis) -> Tabulated:
    """Tabulate the effect of moving each factor from its first level to another."""
    if not analysis.effects:
        return Tabulated([], [], ["Every factor has one level."])
    decimals = wording.decimals_of(sweep.num_examples(analysis.part))
    header = ["factor", "from", "to", *_difference_header(analysis.confidence), "p", "shown"]
    rows = [
        [
            effect.factor,
            effect.first,
            effect.other,
            *_difference(effect.comparison, decimals),
            wording.probability(effect.comparison.p_value),
            wording.conclusion(effect.comparison, analysis.confidence),
        ]
        for effect in analysis.effects
    ]
    note = (
        "Differences in percentage points of error over all trials that differ in that factor "
        "alone. The pairs share seeds and settings and p is not corrected for the number of rows, "
        "so p is a guide and no proof."
    )
    return Tabulated(header, rows, [note])


def _difference_header(confidence: float) -> list[str]:
    return ["pairs", "difference", f"{wording.percent(confidence)} interval", "half width"]


def _difference(comparison: Comparison, decimals: int) -> list[str]:
    difference = comparison.difference
    width = difference.half_width
    return [
        str(len(difference.values)),
        "-" if difference.mean is None else wording.fixed(difference.mean, decimals, "+"),
        wording.interval(difference, decimals, "+"),
        "-" if width is None else wording.fixed(width, decimals),
    ]


def _counts(row: Row, part: str) -> str:
    """Format errors as "34.7 (31, 36, -)", with a dash for a trial that has no count."""
    if row.num_errors.mean is None:
        return "-"
    results = [trial.result(part) for trial in row.trials]
    each = [str(r.num_errors) if r and r.num_errors is not None else "-" for r in results]
    return f"{row.num_errors.mean:,.1f} ({', '.join(each)})"


def _published(row: Row, sources: list[str]) -> str:
    values = [
        f"{p.error_percent:g}"
        + (f" ± {p.deviation:g}" if p.deviation is not None else "")
        + f" [{sources.index(p.source) + 1}]"
        for p in row.published
    ]
    return ", ".join(values) or "-"
