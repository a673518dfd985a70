"""Train a network, evaluate it once on the test set, and leave behind all that repeats it.

    python experiments/train.py --config=configs/digits.py
    python experiments/train.py --config=configs/mnist.py:authors --config.train.epochs=5 \\
        --workdir=runs/a

The same --workdir again resumes. Every field of the config is a flag: --config.FIELD=VALUE
(all of them, with comments, in capsjax/config/).

All devices of the machine divide each batch among them. Several machines run the same command,
with the --workdir and the data in reach of each, under Slurm's srun or with

    --coordinator=HOST:PORT --num_processes=N --process_id=0, 1, ..., N-1
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from capsjax.commands import command_line
from capsjax.runs import processes
from capsjax.runs.compilation import keep_compiled_programs
from capsjax.runs.output import outlive_output
from capsjax.runs.train import train_and_evaluate
from capsjax.runs.workdir import new_workdir

FLAGS = flags.FLAGS
CONFIG_OF = "run"


def define_flags() -> None:
    command_line.define_config_flag("configs/mnist.py:authors, digits")
    flags.DEFINE_string(
        "workdir", "", "Folder of the run, runs/NAME-TIME by default. A run that is there resumes."
    )
    command_line.define_process_flags()


def main() -> None:
    config = command_line.config_of_flags("configs/digits.py")
    command_line.start_processes()
    keep_compiled_programs()
    workdir = FLAGS.workdir or processes.on_primary(lambda: str(new_workdir(config.name)))
    workdir = Path(workdir).expanduser()
    outlive_output(workdir)
    train_and_evaluate(config, workdir, config_flags.get_override_values(FLAGS["config"]))
