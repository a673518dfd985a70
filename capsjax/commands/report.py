"""Report a run or a sweep as a page: one file for a browser, without a server or a network.

    python experiments/report.py --workdir=runs/digits
    python experiments/report.py --workdir=runs/table1
    python experiments/report.py --workdir=runs/table1 --reference="rounds=3,reconstruction=0.0005"

Writes WORKDIR/report.html. The page of a run has its curves, the confusion matrix, mistakes,
reconstructions and a pose study with sliders, of the test images, which evaluate.py reads too; that
of an unfinished run is made from its files alone. The report of a sweep, finished or not, is made
from its files, and is in WORKDIR/report/ too: report.md, which it prints, trials.csv, points.csv
and error.png.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from matplotlib.figure import Figure

from capsjax.commands import command_line
from capsjax.data import DataError
from capsjax.plots import sweeps as sweep_figures
from capsjax.reports.analysis import Analysis, analyse, errors_of_grid
from capsjax.reports.csv_tables import points_csv, trials_csv
from capsjax.reports.facts import epochs
from capsjax.reports.index import Sweep, parse_point, read_sweep
from capsjax.reports.markdown import report
from capsjax.reports.page.run import read_record, run_page
from capsjax.reports.page.sweep import PAGE, sweep_page
from capsjax.reports.page.tested import Tested
from capsjax.reports.wording import percent, plural
from capsjax.runs.checkpoint import CheckpointError
from capsjax.runs.compilation import keep_compiled_programs
from capsjax.runs.files import naming, warn, write_text
from capsjax.runs.predictor import load_predictor
from capsjax.runs.trained_data import load_data
from capsjax.runs.workdir import is_sweep

FLAGS = flags.FLAGS
FIGURE = "error.png"
# Flags of one kind of folder.
OF_RUN = ("checkpoint", "data_dir", "data_file", "other_data")
OF_SWEEP = ("reference", "confidence", "metric")


def define_flags() -> None:
    command_line.define_trained_run_flags()
    flags.DEFINE_string(
        "reference",
        "",
        "For a sweep: point that the others are compared with, as factor=level,factor=level; "
        "if not given, the sweep's own or else its first.",
    )
    flags.DEFINE_float("confidence", 0.95, "For a sweep: of the intervals, between 0 and 1.")
    flags.DEFINE_enum(
        "metric", "test", ["test", "validation"], "For a sweep: part whose error is reported."
    )


def main() -> None:
    keep_compiled_programs()
    workdir = command_line.existing_run(FLAGS.workdir)
    if is_run(workdir):
        _refuse(OF_SWEEP, f"a sweep, and {workdir} has a run")
        path = write_run_page(workdir, **{name: FLAGS[name].value for name in OF_RUN})
        print(_describe(path))
        return
    _refuse(OF_RUN, f"a run, and {workdir} has none")
    print(write_report(workdir, FLAGS.reference, FLAGS.confidence, FLAGS.metric), end="")
    print(_describe(workdir / PAGE), file=sys.stderr)


def is_run(workdir: Path) -> bool:
    """Return whether a folder has a run; False if it has a sweep.

    Raises:
      ValueError: if it has neither.
    """
    if (workdir / "index.json").exists():
        return False
    if not (workdir / "config.json").exists():
        raise ValueError(
            f"no run or sweep in {workdir} (it has no config.json and no index.json): give the "
            "--workdir of `capsjax train` or `capsjax sweep`"
        )
    return not is_sweep(workdir)


def _refuse(names: Sequence[str], others: str) -> None:
    """Raise ValueError for flags that a folder has no use for."""
    for name in names:
        if FLAGS[name].present:
            raise ValueError(f"--{name} is a flag for {others}")


def _describe(path: Path) -> str:
    return f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB): open it in a browser"


def write_run_page(
    workdir: Path,
    checkpoint: str = "selected",
    data_dir: str = "",
    data_file: str = "",
    other_data: bool = False,
) -> Path:
    """Write the page of a run, with its test images where they are at hand.

    An unfinished run has not read its test set, and its page does not either.

    Args:
      workdir: folder of the run.
      checkpoint: see `capsjax.runs.predictor.load_predictor`.
      data_dir, data_file: where the data are, if not where they were in training.
      other_data: whether to take data that are not the run's own.

    Returns:
      Its path: WORKDIR/report.html, or for other data than the run's own one beside it.

    Raises:
      ValueError: for arguments that name what is not there, or data that are not the run's own.
    """
    record = read_record(workdir)
    tested, missing, path = None, "", workdir / PAGE
    chosen = checkpoint != "selected" or data_dir or data_file or other_data
    if record.summary is None:
        if chosen:
            raise ValueError(
                f"{workdir} is not finished, and its page is made from its files alone: leave out "
                f"{', '.join(f'--{name}' for name in OF_RUN)}, or let it finish"
            )
        missing = (
            "There are no test images on this page: a run reads its test set once it is finished."
        )
    else:
        try:
            tested, path = _test(workdir, checkpoint, data_dir, data_file, other_data)
        except (CheckpointError, DataError) as error:
            if chosen:
                raise
            missing = f"There are no test images on this page: {error}."
            warn(missing)
    write_text(path, run_page(record, tested, missing))
    return path


def _test(
    workdir: Path, checkpoint: str, data_dir: str, data_file: str, other_data: bool
) -> tuple[Tested, Path]:
    """Let the network of a run predict its test images; return that, and the path of the page."""
    predictor = load_predictor(workdir, checkpoint)
    folder = (workdir / PAGE).with_suffix("")
    test, folder = load_data(
        predictor, workdir, folder, dir=data_dir, file=data_file, other=other_data
    )
    prediction = predictor.predict(test.images, predictor.config.evaluate.batch_size)
    return Tested(predictor, test, prediction), folder.with_suffix(".html")


def write_report(
    workdir: Path, reference: str = "", confidence: float = 0.95, part: str = "test"
) -> str:
    """Write WORKDIR/report/ and WORKDIR/report.html from WORKDIR/index.json.

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
    figure = (folder / FIGURE).read_bytes()
    write_text(workdir / PAGE, sweep_page(workdir, sweep, analysis, figure))
    return text


def draw(sweep: Sweep, analysis: Analysis) -> Figure:
    """Draw the figure that suits the number of factors."""
    title = f"{sweep.name}: {epochs(sweep)}, {plural(sweep.num_seeds, 'seed')}"
    if analysis.num_results < sweep.planned:
        title += f", {analysis.num_results} of {sweep.planned} trials"
    label = f"{analysis.part} error, %"
    caption = f"mean with its {percent(analysis.confidence)} interval; small dots: single seeds"
    errors = errors_of_grid(sweep, analysis)
    published = {
        row.point: row.published[0].error_percent for row in analysis.rows if row.published
    }
    lines = sweep_figures.suits_lines(sweep.factors)
    plot = sweep_figures.lines if lines else sweep_figures.dots
    return plot(sweep.factors, errors, published, title, label, caption)
