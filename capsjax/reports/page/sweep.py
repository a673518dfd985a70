"""The page of a sweep: its points, its comparisons, its figure, every trial, its records."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from capsjax.reports import wording
from capsjax.reports.analysis import OTHER_PART, Analysis
from capsjax.reports.facts import STATUS, facts
from capsjax.reports.index import Sweep, Trial
from capsjax.reports.markdown import Tabulated, comparisons, effects, grid_form, points
from capsjax.reports.page import records
from capsjax.reports.page.html import (
    Markup,
    Section,
    element,
    image,
    join,
    marked,
    page,
    paragraph,
    table,
)
from capsjax.reports.page.html import facts as list_facts
from capsjax.reports.page.pictures import address_of
from capsjax.runs.data_record import read_data
from capsjax.runs.files import DamagedFileError, read_json, warn
from capsjax.runs.starts import read_starts

PAGE = "report.html"


def sweep_page(workdir: Path, sweep: Sweep, analysis: Analysis, figure: bytes) -> str:
    """Make the page of a sweep.

    Args:
      workdir: its folder.
      sweep: the sweep.
      analysis: its numbers.
      figure: the error of every point, as a PNG.

    Returns:
      The whole file.
    """
    described = {name: marked(fact) for name, fact in facts(sweep, analysis).items()}
    alternative = f"{analysis.part} error of every point, as in the table of points"
    sections = [
        Section("sweep", "The sweep", list_facts(described)),
        Section("points", "Points", _points(sweep, analysis)),
        Section("figure", "Figure", image(address_of(figure), alternative, class_="drawn")),
        Section(
            "comparisons",
            f"Compared with {sweep.describe(analysis.reference)}",
            _shown(comparisons(sweep, analysis)),
        ),
        Section("effects", "Main effects", _shown(effects(sweep, analysis))),
        Section("trials", "Trials", _trials(workdir, sweep, analysis)),
        *_records(workdir),
    ]
    return page(sweep.title, result_line(sweep, analysis), sections, {})


def result_line(sweep: Sweep, analysis: Analysis) -> str:
    """State the result of a sweep in one line: how far it is, and its lowest mean error."""
    done = f"{analysis.num_results} of {sweep.planned} trials have a result"
    with_results = [row for row in analysis.rows if row.error.mean is not None]
    if not with_results:
        return f"{done}."
    best = min(with_results, key=lambda row: row.error.mean)
    decimals = wording.decimals_of(sweep.num_examples(analysis.part))
    error = wording.mean_and_deviation(best.error, decimals)
    seeds = wording.plural(len(best.error.values), "seed")
    return (
        f"{done}. The lowest mean {analysis.part} error is **{error} %** ({seeds}), at "
        f"`{sweep.describe(best.point)}`; whether it differs from others is shown below."
    )


def _points(sweep: Sweep, analysis: Analysis) -> Markup:
    parts = [_shown(points(sweep, analysis))]
    if len(sweep.factors) == 2:
        heading = f"The same {analysis.part} error, %, as a grid"
        parts += [element("h3", heading), _shown(grid_form(sweep, analysis))]
    return join(parts)


def _shown(tabulated: Tabulated) -> Markup:
    parts = [table(tabulated.header, tabulated.rows)] * bool(tabulated.rows)
    return join([*parts, *(paragraph(note, class_="note") for note in tabulated.notes)])


def _trials(workdir: Path, sweep: Sweep, analysis: Analysis) -> Markup:
    part, other = analysis.part, OTHER_PART[analysis.part]
    header = ["trial", *sweep.factors, "seed", "status", f"{part} error, %", "errors"]
    header += [f"{other} error, %", "epochs", "training", "message"]
    rows = [
        [
            _named(workdir, trial),
            *trial.point,
            str(trial.seed),
            STATUS.get(trial.status, trial.status),
            _error(sweep, trial, part),
            _errors(trial, part),
            _error(sweep, trial, other),
            str(trial.fields.get("epochs") or "-"),
            wording.duration(trial.train_seconds),
            trial.message or "-",
        ]
        for trial in sweep.trials
    ]
    unlisted = sweep.planned - len(sweep.trials)
    notes = [f"{wording.plural(unlisted, 'trial')} not listed yet."] * bool(unlisted)
    return join([table(header, rows), *(paragraph(note, class_="note") for note in notes)])


def _named(workdir: Path, trial: Trial) -> str:
    """Name a trial, with a link to its own page if it has one."""
    if not (workdir / "trials" / trial.id / PAGE).exists():
        return trial.id
    return element("a", trial.id, href=f"trials/{quote(trial.id)}/{PAGE}")


def _error(sweep: Sweep, trial: Trial, part: str) -> str:
    result = trial.result(part)
    decimals = wording.decimals_of(sweep.num_examples(part))
    return "-" if result is None else wording.fixed(result.error_percent, decimals)


def _errors(trial: Trial, part: str) -> str:
    result = trial.result(part)
    return "-" if result is None or result.num_errors is None else f"{result.num_errors:,}"


def _records(workdir: Path) -> Iterator[Section]:
    """Yield what other files of the folder record; a damaged one is named and left out."""
    readers = {
        "config.json": lambda: read_json(workdir / "config.json"),
        "data.json": lambda: read_data(workdir),
        "env.json": lambda: read_starts(workdir),
    }
    found: dict[str, Any] = {}
    for name, read in readers.items():
        try:
            found[name] = read() if (workdir / name).exists() else None
        except DamagedFileError as error:
            warn(f"{error}; the page is without it")
            found[name] = None
    config, starts = found["config.json"], found["env.json"]
    if config and "base" in config:
        yield records.data(found["data.json"] or {}, config["base"]["data"])
    if starts:
        yield records.environment(starts)
        yield records.commands(starts, "sweep", [f"capsjax report --workdir={workdir}"])
    if config:
        yield records.settings(config)
