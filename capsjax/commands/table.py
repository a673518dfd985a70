"""Set runs of experiments/train.py side by side, from the files that they left behind.

    python experiments/table.py --workdirs=runs/keras,runs/notebook

Prints a Markdown table: what was called, accuracy and errors on the test part, what the document
behind the config reports, epochs, the time of the training steps, hardware. Runs that differ in
their seed alone share a row.
"""

from pathlib import Path

from absl import flags

from capsjax.reports.runs import read_run, runs_table

FLAGS = flags.FLAGS


def define_flags() -> None:
    flags.DEFINE_list("workdirs", [], "Folders of runs, with commas between them.")


def main() -> None:
    if not FLAGS.workdirs:
        raise ValueError("--workdirs=RUN,RUN,... is missing: folders of experiments/train.py")
    print(runs_table([read_run(Path(path).expanduser()) for path in FLAGS.workdirs]))
