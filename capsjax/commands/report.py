"""Report a sweep of experiments/sweep.py, finished or not, from its files alone.

    python experiments/report.py --workdir=runs/table1
    python experiments/report.py --workdir=runs/table1 --reference="rounds=3,reconstruction=0.0005"

Writes WORKDIR/report/: report.md, which it prints, trials.csv, points.csv and error.png.
"""

from pathlib import Path

from absl import flags
from matplotlib.figure import Figure

from capsjax.commands import command_line
from capsjax.plots import sweeps as sweep_figures
from capsjax.reports.analysis import Analysis, analyse
from capsjax.reports.csv_tables import points_csv, trials_csv
from capsjax.reports.facts import epochs
from capsjax.reports.index import Sweep, parse_point, read_sweep
from capsjax.reports.markdown import report
from capsjax.reports.wording import percent, plural
from capsjax.runs.files import naming, write_text

FLAGS = flags.FLAGS
FIGURE = "error.png"


def define_flags() -> None:
    flags.DEFINE_string("workdir", "", "Folder of the sweep.")
    flags.DEFINE_string(
        "reference",
        "",
        "Point that the others are compared with, as factor=level,factor=level; "
        "if not given, the sweep's own or else its first.",
    )
    flags.DEFINE_float("confidence", 0.95, "Of the intervals, between 0 and 1.")
    flags.DEFINE_enum("metric", "test", ["test", "validation"], "Part whose error is reported.")


def main() -> None:
    workdir = command_line.existing_run(FLAGS.workdir)
    print(write_report(workdir, FLAGS.reference, FLAGS.confidence, FLAGS.metric), end="")


def write_report(
    workdir: Path, reference: str = "", confidence: float = 0.95, part: str = "test"
) -> str:
    """Write WORKDIR/report/ from WORKDIR/index.json.

    Args:
      workdir: folder of the sweep.
      reference: point to compare with, such as "rounds=3,reconstruction=0.0005"; if empty, the
        sweep's own, or else its first.
      confidence: confidence of the intervals.
      part: part whose error is reported, "test" or "validation".

    Returns:
      The contents of report.md.

    Raises:
      ValueError: if there is no sweep or no such reference in it, or the confidence is invalid.
    """
    sweep = read_sweep(workdir)
    point = parse_point(sweep, reference) if reference else None
    analysis = analyse(sweep, part, confidence, point)
    text = report(sweep, analysis, FIGURE)
    folder = workdir / "report"
    folder.mkdir(exist_ok=True)
    write_text(folder / "trials.csv", trials_csv(sweep))
    write_text(folder / "points.csv", points_csv(sweep, analysis))
    with naming(folder / FIGURE):
        draw(sweep, analysis).savefig(folder / FIGURE, dpi=150)
    write_text(folder / "report.md", text)
    return text


def draw(sweep: Sweep, analysis: Analysis) -> Figure:
    """Draw the figure that suits the number of factors."""
    title = f"{sweep.name}: {epochs(sweep)}, {plural(sweep.num_seeds, 'seed')}"
    if analysis.num_results < sweep.planned:
        title += f", {analysis.num_results} of {sweep.planned} trials"
    label = f"{analysis.part} error, %"
    caption = f"mean with its {percent(analysis.confidence)} interval; small dots: single seeds"
    errors = {row.point: row.error for row in analysis.rows}
    published = {
        row.point: row.published[0].error_percent for row in analysis.rows if row.published
    }
    plot = sweep_figures.lines if len(sweep.factors) == 2 else sweep_figures.dots
    return plot(sweep.factors, errors, published, title, label, caption)
