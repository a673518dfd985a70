"""Train all trials of a sweep, as many at once as fit, and keep an index of what came out.

    python experiments/sweep.py --config=configs/sweeps/routing_x_reconstruction.py:small \\
        --workdir=runs/table1
    python experiments/report.py --workdir=runs/table1

The same --workdir again resumes, after Ctrl-C or a power cut, and leaves alone what is finished.
Every field of the base config is a flag: --config.base.train.epochs=1; --config.num_seeds=5 adds
seeds to a sweep that is there. Trials that differ in numbers alone (seed, learning rate, weights
and margins of the losses, routing rounds, initial values) are trained as one compiled program.
"""

import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import command_line
import jax
from absl import flags
from ml_collections import ConfigDict, config_flags
from sweeping import folders
from sweeping.index import make_index, seconds_so_far
from sweeping.members import Data, Members, largest_that_fits
from sweeping.progress import SweepProgress
from sweeping.training import PopulationRun
from train import check_config

from capsjax import devices
from capsjax.compilation import keep_compiled_programs
from capsjax.data import load_training
from capsjax.files import write_json
from capsjax.interrupt import Interrupt
from capsjax.progress import format_seconds
from capsjax.registry import look_up
from capsjax.sweeps import Trial, trials_of
from capsjax.training import steps_per_epoch
from capsjax.training.population import FORMS, MOST_IN_TURN, choose_form, structure_of
from capsjax.workdir import (
    describe_environment,
    flatten,
    new_workdir,
    open_workdir,
    program_command,
)

FLAGS = flags.FLAGS


def define_flags() -> None:
    config_flags.DEFINE_config_file(
        "config", None, "Sweep file, with its size after a colon: configs/sweeps/X.py:small."
    )
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
    config = FLAGS.config
    if config is None:
        raise ValueError(
            "--config=FILE is missing, for example "
            "--config=configs/sweeps/routing_x_reconstruction.py:small"
        )
    if "base" not in config:
        raise ValueError("--config is a config of one run, not a sweep: see configs/sweeps/")
    form = FLAGS.form
    if form != "auto":
        look_up(FORMS, form, "form of a population (--form)")
    command_line.start_processes()
    keep_compiled_programs()
    if form == "auto":
        form = choose_form()
    workdir = FLAGS.workdir or devices.on_primary(lambda: str(new_workdir(config.name)))
    overrides = config_flags.get_override_values(FLAGS["config"])
    workdir = Path(workdir).expanduser()
    statuses = run_sweep(config, workdir, overrides, form, FLAGS.population)
    failed = sum(status.name == "failed" for status in statuses)
    if failed:
        raise ValueError(
            f"{failed} of {len(statuses)} trials failed, as said above; mend the cause and start "
            f"the same command with --workdir={workdir} to try them again"
        )


def run_sweep(
    config: ConfigDict,
    workdir: Path,
    overrides: dict[str, Any] | None = None,
    form: str = "map",
    most: int = 0,
) -> list[folders.Status]:
    """Train what is left of a sweep.

    Args:
      config: see `capsjax.sweeps`.
      workdir: folder of the sweep, new or of the same config.
      overrides: fields that were given on the command line, to be recorded.
      form: see `capsjax.training.population.Population`.
      most: trials in a program at most; 0 for as many as memory holds, or MOST_IN_TURN for "map".

    Returns:
      What became of each trial, in the order of `trials_of`.

    Raises:
      ValueError: for a sweep or a folder that does not work; nothing has been trained then.
      SystemExit: after Ctrl-C or SIGTERM, when all is saved.
    """
    trials = trials_of(config)
    for trial in trials:
        check_config(trial.config)
    start = program_command(overrides or {})
    devices.on_primary(lambda: open_workdir(workdir, config, {**start, "form": form}))
    sweep = Sweep(config, workdir, trials, devices.make_mesh("members"), form, most)
    with Interrupt() as interrupt:
        sweep.run(interrupt)
    return sweep.statuses()


class Sweep:
    """A sweep at work; see `run_sweep` for its arguments."""

    def __init__(self, config, workdir: Path, trials: list[Trial], mesh, form: str, most: int):
        self._config, self._workdir, self._trials = config, workdir, trials
        self._mesh, self._form = mesh, form
        self._most = most or (MOST_IN_TURN * mesh.size if form == "map" else len(trials))
        self._data: dict[str, Data] = {}
        self._environment = describe_environment()
        self._started = time.monotonic()
        self._seconds_before = devices.on_primary(lambda: seconds_so_far(workdir))

    def statuses(self) -> list[folders.Status]:
        """What became of each trial."""
        return [folders.read_status(self._workdir, trial) for trial in self._trials]

    def run(self, interrupt: Interrupt) -> None:
        """Populations that were begun first, then the trials that are left."""
        begun, left = devices.on_primary(self._plan)
        by_id = {trial.id: trial for trial in self._trials}
        left = [by_id[name] for name in left]
        print(f"{self._workdir}: {len(left)} of {len(self._trials)} trials to train", flush=True)
        self._progress = SweepProgress(
            len(self._trials), sum(self._steps_of(trial) for trial in left), self._errors()
        )
        try:
            for folder, names in begun:
                left = [trial for trial in left if trial.id not in names]
                self._train([by_id[name] for name in names], interrupt, Path(folder))
            while left:
                structure = self._structure(left[0])
                alike = [trial for trial in left if self._structure(trial) == structure]
                done = self._train(alike, interrupt)
                left = [trial for trial in left if trial not in done]
        finally:
            self._progress.close()
            self._write_index()
        self._say_result()

    def _plan(self) -> tuple[list[tuple[str, list[str]]], list[str]]:
        """Populations that were begun, and the trials that are left; what failed is tried again.

        Read by one process for all: another one would see files that the first makes meanwhile.
        """
        left = [
            trial
            for trial in self._trials
            if not folders.read_status(self._workdir, trial).is_final
        ]
        for trial in left:
            folders.clear_failure(self._workdir, trial)
        begun = folders.unfinished_populations(self._workdir, self._trials)
        return begun, [trial.id for trial in left]

    def _train(
        self, trials: Sequence[Trial], interrupt: Interrupt, folder: Path | None = None
    ) -> Sequence[Trial]:
        """Train trials of one structure, as many as fit, and say which.

        A population that fails is recorded and costs the others nothing.
        """
        # Members of a population that was begun stay together: its checkpoint is of them all.
        most = self._most if folder is None else len(trials)
        try:
            data = self._load(trials[0])
            count = min(most, len(trials))
            self._progress.say(f"compiling for {count} trials: {trials[0].id} ...")
            stored = None if folder is None else folders.forms_at_start(folder)
            form, forms = self._form, None
            if stored is not None:
                # As at the first start, and not as is best on the machine of this one.
                form, forms = stored["population"], stored["forms"]
                if stored["backend"] != jax.default_backend():
                    self._progress.say(
                        f"{folder} began on {stored['backend']} and goes on on "
                        f"{jax.default_backend()}: not bit for bit as without the interruption"
                    )
            members, compiled = largest_that_fits(trials, data, self._mesh, form, most, forms)
            if folder is not None and len(members.trials) < len(trials):
                raise ValueError(
                    f"{folder} was begun with {len(trials)} trials, and the memory here holds "
                    f"{len(members.trials)}: resume on a machine like the first, or start anew"
                )
        except (ValueError, jax.errors.JaxRuntimeError) as error:
            if devices.is_lost_process(error):
                raise
            return self._fail(trials, error)
        if folder is None:
            made = devices.on_primary(
                lambda: str(folders.new_population(self._workdir, members.trials, members.forms))
            )
            folder = Path(made)
        self._run_population(folder, members, compiled, interrupt)
        return members.trials

    def _run_population(self, folder: Path, members: Members, compiled, interrupt) -> None:
        def on_epoch() -> int:
            self._write_index([trial.id for trial in members.trials])
            return sum(status.is_final for status in self.statuses())

        try:
            run = PopulationRun(self._workdir, folder, members, compiled, self._progress)
            run.train(interrupt, on_epoch)
        except jax.errors.JaxRuntimeError as error:
            if devices.is_lost_process(error):
                raise
            self._fail(members.trials, error)

    def _fail(self, trials: Sequence[Trial], error: Exception) -> Sequence[Trial]:
        message = " ".join(str(error).split())[:300]
        for trial in trials:
            devices.on_primary(
                lambda trial=trial: folders.write_failure(self._workdir, trial, "failed", message)
            )
        self._progress.say(f"{len(trials)} trials, {trials[0].id} ..., failed: {message}")
        self._progress.skip(sum(self._steps_of(trial) for trial in trials))
        return trials

    def _structure(self, trial: Trial) -> tuple:
        return structure_of(flatten(trial.config.to_dict()))

    def _load(self, trial: Trial) -> Data:
        fields = trial.config.data
        if repr(fields) not in self._data:
            with devices.primary_first():
                self._data[repr(fields)] = Data(*load_training(**fields))
        return self._data[repr(fields)]

    def _steps_of(self, trial: Trial) -> int:
        """Of its whole training."""
        train, examples = trial.config.train, len(self._load(trial).training)
        return train.epochs * steps_per_epoch(examples, train.batch_size)

    def _errors(self) -> dict[str, float]:
        """Validation errors of the trials that are finished."""
        summaries = {
            trial.id: status.summary
            for trial, status in zip(self._trials, self.statuses(), strict=True)
            if status.summary is not None and status.summary["validation"]
        }
        return {name: summary["validation"]["error"] for name, summary in summaries.items()}

    def _write_index(self, running: Collection[str] = ()) -> None:
        # Alone, without the others: it is written even when they are gone.
        if devices.is_primary():
            index = make_index(
                self._config,
                self._trials,
                self.statuses(),
                running,
                self._environment,
                self._seconds_before + time.monotonic() - self._started,
            )
            write_json(self._workdir / "index.json", index)

    def _say_result(self) -> None:
        statuses = self.statuses()
        seconds = self._seconds_before + time.monotonic() - self._started
        finished = sum(status.name == "finished" for status in statuses)
        print(
            f"{self._workdir}: {finished} of {len(statuses)} trials finished in "
            f"{format_seconds(seconds)}; python experiments/report.py --workdir={self._workdir}"
        )
        for trial, status in zip(self._trials, statuses, strict=True):
            if status.message:
                print(f"{trial.id}: {status.name}: {status.message}")


if __name__ == "__main__":
    command_line.run(main, define_flags)
