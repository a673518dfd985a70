"""Measure the best trained networks of a sweep, and compare them with a control.

    python experiments/measure.py --workdir=runs/routing
    python experiments/measure.py --workdir=runs/routing --tuned=learning_rate \\
        --control=couplings=held

Of each point of the other factors the level of --tuned with the lowest validation error counts. Its
networks are measured on the test part and on affine versions of it: error, calibration, and entropy
of the couplings. Writes WORKDIR/measures.json and WORKDIR/report/measures.md, which it prints;
networks that were measured before are not measured again.
"""

from pathlib import Path
from typing import Any

from absl import flags
from tqdm import tqdm

from capsjax.commands import command_line
from capsjax.reports.index import read_sweep
from capsjax.reports.measured import choose_arms, measured_report
from capsjax.runs.compilation import keep_compiled_programs
from capsjax.runs.files import (
    DamagedFileError,
    read_sealed,
    sealed,
    set_aside,
    write_json,
    write_text,
)
from capsjax.sweeps.measures import measure_runs

FLAGS = flags.FLAGS
FILE = "measures.json"


def define_flags() -> None:
    flags.DEFINE_string("workdir", "", "Folder of the sweep.")
    flags.DEFINE_string("tuned", "learning_rate", "Factor to choose by the validation error.")
    flags.DEFINE_string("control", "couplings=held", "FACTOR=LEVEL that makes a control.")


def main() -> None:
    keep_compiled_programs()
    workdir = command_line.existing_run(FLAGS.workdir)
    print(write_measures(workdir, FLAGS.tuned, FLAGS.control), end="")


def write_measures(workdir: Path, tuned: str, control: str) -> str:
    """Measure the best trials of a sweep, and write what was found.

    Args:
      workdir: folder of the sweep.
      tuned: factor whose level is chosen by the validation error.
      control: "FACTOR=LEVEL" that makes a control.

    Returns:
      The contents of report/measures.md.

    Raises:
      ValueError: if there is no sweep, no such factor or level, or a trial cannot be read.
    """
    sweep = read_sweep(workdir)
    arms = choose_arms(sweep, tuned)
    measures = _read_measures(workdir)
    missing = [t.id for arm in arms for t in arm.trials if t.id not in measures]
    folders = [workdir / "trials" / name for name in missing]
    found = tqdm(measure_runs(folders), "measuring", len(missing), disable=None, leave=False)
    for name, measured in zip(missing, found, strict=True):
        measures[name] = measured
        write_json(workdir / FILE, sealed({"trials": measures}))
    factor, _, level = control.partition("=")
    text = measured_report(sweep, arms, measures, tuned, (factor, level))
    (workdir / "report").mkdir(exist_ok=True)
    write_text(workdir / "report" / "measures.md", text)
    return text


def _read_measures(workdir: Path) -> dict[str, Any]:
    try:
        return read_sealed(workdir / FILE, needed=("trials",))["trials"]
    except FileNotFoundError:
        return {}
    except DamagedFileError as error:
        set_aside(error, "all networks are measured again")
        return {}
