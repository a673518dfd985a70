"""Set runs of experiments/train.py side by side, from the files that they left behind.

    python experiments/table.py --workdirs=runs/keras,runs/notebook
    python experiments/table.py --workdirs=runs/a --workdirs=runs/table1/trials/rounds=1,seed=0

Prints a Markdown table: what was called, accuracy and errors on the test part, what the document
behind the config reports, epochs, the time of the training steps, hardware. Runs that differ in
their seed alone share a row; rows of the same command name their folders.
"""

from pathlib import Path

from absl import flags

from capsjax.reports.runs import read_run, runs_table

FLAGS = flags.FLAGS


def define_flags() -> None:
    flags.DEFINE_multi_string("workdirs", [], "Folders of runs, with commas between them.")


def main() -> None:
    if not any(FLAGS.workdirs):
        raise ValueError("--workdirs=RUN,RUN,... is missing: folders of `capsjax train`")
    folders = [folder for text in FLAGS.workdirs if text for folder in split_folders(text)]
    print(runs_table([read_run(folder) for folder in folders]))


def split_folders(text: str) -> list[Path]:
    """Split text at its commas, but for those within the name of a folder that exists.

    The trials of a sweep have such names.
    """
    parts, folders = text.split(","), []
    while parts:
        names = [",".join(parts[:count]) for count in range(1, len(parts) + 1)]
        paths = [Path(name).expanduser() for name in names]
        longest = max((index for index, path in enumerate(paths) if path.is_dir()), default=0)
        folders.append(paths[longest])
        del parts[: longest + 1]
    return folders
