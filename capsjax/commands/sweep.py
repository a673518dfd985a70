"""Train all trials of a sweep, as many at once as fit, and keep an index of what came out.

    python experiments/sweep.py --config=configs/sweeps/routing_x_reconstruction.py:small \\
        --workdir=runs/table1
    python experiments/report.py --workdir=runs/table1

The same --workdir again resumes, after Ctrl-C or a power cut, and leaves alone what is finished.
Every field of the base config is a flag: --config.base.train.epochs=1; --config.num_seeds=5 adds
seeds to a sweep that is there. Trials that differ in numbers alone (seed, learning rate, weights
and margins of the losses, routing rounds, initial values) are trained as one compiled program.
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from capsjax.commands import command_line
from capsjax.registry import look_up
from capsjax.runs import processes
from capsjax.runs.compilation import keep_compiled_programs
from capsjax.runs.output import outlive_output
from capsjax.runs.workdir import new_workdir
from capsjax.sweeps.run import run_sweep
from capsjax.training.population import MEMBER_FORMS, MOST_IN_TURN, choose_member_form

FLAGS = flags.FLAGS
CONFIG_OF = "sweep"


def define_flags() -> None:
    command_line.define_config_flag("configs/sweeps/annealing.py:small, sweeps/digits")
    flags.DEFINE_string(
        "workdir", "", "Folder of the sweep, runs/NAME-TIME by default. One that is there resumes."
    )
    flags.DEFINE_string(
        "form", "auto", "How a program trains its trials: vmap, map or, by the device, auto."
    )
    flags.DEFINE_integer(
        "population",
        0,
        f"Trials in a program at most; 0 for as many as memory holds (form map: {MOST_IN_TURN}).",
        lower_bound=0,
    )
    command_line.define_process_flags()


def main() -> None:
    config = command_line.config_of_flags("configs/sweeps/routing_x_reconstruction.py:small")
    form = FLAGS.form
    if form != "auto":
        look_up(MEMBER_FORMS, form, "form of a population (--form)")
    command_line.start_processes()
    keep_compiled_programs()
    if form == "auto":
        form = choose_member_form()
    workdir = FLAGS.workdir or processes.on_primary(lambda: str(new_workdir(config.name)))
    overrides = config_flags.get_override_values(FLAGS["config"])
    workdir = Path(workdir).expanduser()
    outlive_output(workdir)
    statuses = run_sweep(config, workdir, overrides, form, FLAGS.population)
    failed = sum(status.name == "failed" for status in statuses)
    if failed:
        raise ValueError(
            f"{failed} of {len(statuses)} trials failed, as reported above. The same command with "
            f"--workdir={workdir} tries them again, which helps where the machine was the cause; "
            "where a setting or a file of your own is, correct it and name another --workdir"
        )
