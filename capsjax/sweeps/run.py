"""A whole sweep: populations of trials that share a program, one after the other."""

import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from capsjax.config.tagged import resolved
from capsjax.data import load_training
from capsjax.runs import devices, processes
from capsjax.runs.checkpoint import CheckpointError
from capsjax.runs.choices import with_choices_of_run
from capsjax.runs.data_record import by_settings, check_processes, fingerprints, record_data
from capsjax.runs.files import sealed, write_json
from capsjax.runs.interrupt import Interrupt
from capsjax.runs.lock import hold
from capsjax.runs.progress import format_seconds, waiting
from capsjax.runs.starts import program_command
from capsjax.runs.train import check_config, train_and_evaluate
from capsjax.runs.workdir import flatten, open_workdir, summary_or_set_aside
from capsjax.runs.writers import describe_board
from capsjax.sweeps import folders
from capsjax.sweeps.failures import describe_failure, find_failing
from capsjax.sweeps.grid import Trial, check_for_sweep, trials_of
from capsjax.sweeps.hparams import write_trials
from capsjax.sweeps.index import as_begun, describe_start, make_index, read_earlier
from capsjax.sweeps.members import Data, Members, largest_that_fits
from capsjax.sweeps.population_run import PopulationRun
from capsjax.sweeps.progress import SweepProgress
from capsjax.training.build import build
from capsjax.training.fitting import describe_misfits, fit_to_data
from capsjax.training.population import MOST_IN_TURN, structure_of
from capsjax.training.steps import steps_per_epoch


def run_sweep(
    config: ConfigDict,
    workdir: Path,
    overrides: dict[str, Any] | None = None,
    form: str = "map",
    most: int = 0,
) -> list[folders.Status]:
    """Train the remaining trials of a sweep.

    Args:
      config: see `capsjax.sweeps`.
      workdir: folder of the sweep, new or of the same config.
      overrides: fields given on the command line, to be recorded.
      form: see `capsjax.training.population.Population`.
      most: most trials in a program; 0 for as many as fit in memory, or for "map" MOST_IN_TURN on
        each device.

    Returns:
      The status of each trial, in the order of `trials_of`.

    Raises:
      ValueError: for an unusable sweep or folder; nothing has been trained then.
      SystemExit: after one of the signals of `Interrupt`, once all is saved.
    """
    config = with_choices_of_run(workdir, config)
    trials = trials_of(config)
    for trial in trials:
        check_config(trial.config)
        check_for_sweep(trial.config)
    start = program_command(overrides or {})
    with hold(workdir):
        begun = as_begun(workdir, config)
        processes.on_primary(lambda: open_workdir(workdir, begun, {**start, "form": form}))
        sweep = Sweep(config, workdir, trials, devices.make_mesh("members"), form, most)
        sweep.run()
    return sweep.statuses()


class Sweep:
    """A sweep in progress; see `run_sweep` for its arguments."""

    def __init__(self, config, workdir: Path, trials: list[Trial], mesh, form: str, most: int):
        self._config, self._workdir, self._trials = config, workdir, trials
        self._mesh, self._form = mesh, form
        self._most = most or (MOST_IN_TURN * mesh.size if form == "map" else len(trials))
        self._data: dict[str, Data] = {}
        self._start = describe_start()
        self._started = time.monotonic()
        self._signal = 0
        self._earlier = processes.on_primary(lambda: read_earlier(workdir))
        self._seconds_before = self._earlier.pop("seconds", 0.0)

    def statuses(self) -> list[folders.Status]:
        """Return the status of each trial."""
        return [folders.read_status(self._workdir, trial) for trial in self._trials]

    def run(self) -> None:
        """Train first the populations already started, then the remaining trials."""
        # Other data than before are refused, even if nothing is left to do.
        self._trials = [self._fitted(trial) for trial in self._trials]
        begun, left, ended = processes.on_primary(self._plan)
        by_id = {trial.id: trial for trial in self._trials}
        left += [name for name in ended if not self._evaluate_again(by_id[name])]
        left = [by_id[name] for name in left]
        failing = find_failing(left, lambda trial: self._load(trial).sizes)
        failed = {trial.id for trials, _ in failing for trial in trials}
        begun = [each for each in begun if failed.isdisjoint(each[1])]
        left = [trial for trial in left if trial.id not in failed]
        if not left:
            # The report names the machine and the command that the results are of.
            self._start |= self._earlier
        print(f"{self._workdir}: {len(left)} of {len(self._trials)} trials to train", flush=True)
        if left and any(trial.config.log.tensorboard for trial in left):
            print(describe_board(self._workdir), flush=True)
        # Also of trials that ended just before a kill.
        self._write_board(self._trials)
        self._progress = SweepProgress(
            len(self._trials), {trial.id: self._steps_of(trial) for trial in left}, self._errors()
        )
        try:
            for trials, error in failing:
                self._fail(trials, error)
            for folder, names in begun:
                left = [trial for trial in left if trial.id not in names]
                self._train([by_id[name] for name in names], Path(folder))
                self._stop_at_signal(left)
            while left:
                structure = self._structure(left[0])
                alike = [trial for trial in left if self._structure(trial) == structure]
                done = self._train(alike)
                left = [trial for trial in left if trial not in done]
                self._stop_at_signal(left)
        finally:
            self._progress.close()
            self._write_index()
        self._say_result()

    def _stop_at_signal(self, left: Sequence[Trial]) -> None:
        """Stop before the next population if a signal came after the last call of this one."""
        if self._signal and left:
            self._progress.say(
                "stopped before the next population; the same command with "
                f"--workdir={self._workdir} resumes"
            )
            raise SystemExit(128 + self._signal)

    def _plan(self) -> tuple[list[tuple[str, list[str]]], list[str], list[str]]:
        """List started populations, remaining trials, and trials that lost only their results.

        Failed trials are tried again. Called by one process for all: another would read files that
        the first makes meanwhile.
        """
        left = [
            trial
            for trial in self._trials
            if not folders.read_status(self._workdir, trial).is_final
        ]
        for trial in left:
            summary_or_set_aside(folders.trial_folder(self._workdir, trial))
            folders.clear_failure(self._workdir, trial)
        begun = folders.unfinished_populations(self._workdir, self._trials)
        resumed = {name for _, names in begun for name in names}
        ended = {
            trial.id
            for trial in left
            if trial.id not in resumed and folders.has_parameters(self._workdir, trial)
        }
        ids = [trial.id for trial in left]
        return begun, [name for name in ids if name not in ended], sorted(ended)

    def _evaluate_again(self, trial: Trial) -> bool:
        """Make a trial's results from its own checkpoints; return whether they could be read.

        Where it cannot be done here, as on devices that do not divide its batch, the trial has
        failed in this start: its parameters are left to the next one.
        """
        try:
            train_and_evaluate(trial.config, folders.trial_folder(self._workdir, trial))
        except CheckpointError as error:
            print(f"{error}. {trial.id} is trained anew", flush=True)
            processes.on_primary(lambda: folders.set_parameters_aside(self._workdir, trial))
            return False
        except ValueError as error:
            if processes.is_lost_process(error):
                raise
            failure = "failed", f"lost results cannot be made again: {describe_failure(error)}"
            processes.on_primary(
                lambda: folders.write_first_failure(self._workdir, trial, *failure)
            )
        return True

    def _train(self, trials: Sequence[Trial], folder: Path | None = None) -> Sequence[Trial]:
        """Train as many trials of one structure as fit, and return them.

        A population that fails is recorded and does not affect the others.
        """
        # Members of a started population stay together: its checkpoint is of them all.
        most = self._most if folder is None else len(trials)
        try:
            data = self._load(trials[0])
            count, config = min(most, len(trials)), trials[0].config
            for line in describe_misfits(config, build(config, *data.sizes).model):
                self._progress.say(line)
            stored = None if folder is None else folders.forms_at_start(folder)
            form, forms = self._form, None
            if stored is not None:
                # The forms of the first start, not those that are best on the present machine.
                form, forms = stored["population"], stored["forms"]
                if stored["backend"] != jax.default_backend():
                    self._progress.say(
                        f"{folder} began on {stored['backend']} and goes on on "
                        f"{jax.default_backend()}: not bit for bit as without the interruption"
                    )
            with waiting(f"compiling for {count} trials: {trials[0].id}"):
                members, compiled = largest_that_fits(trials, data, self._mesh, form, most, forms)
                members.check_evaluate()
            if stored is not None:
                # Results name the backend of the first start, as those of a single run do.
                members.forms["backend"] = stored["backend"]
            if folder is not None and len(members.trials) < len(trials):
                raise ValueError(
                    f"{folder} was begun with {len(trials)} trials, and the memory here holds "
                    f"{len(members.trials)}: resume on a machine like the first, or start anew"
                )
        except Exception as error:  # of any type: the code may be a user's own
            if processes.is_lost_process(error):
                raise
            return self._fail(trials, error)
        if folder is None:
            made = processes.on_primary(
                lambda: str(folders.new_population(self._workdir, members.trials, members.forms))
            )
            folder = Path(made)
        elif stored is None:
            ids = [trial.id for trial in trials]
            processes.on_primary(lambda: folders.write_forms(folder, members.forms, ids))
        self._run_population(folder, members, compiled)
        return members.trials

    def _run_population(self, folder: Path, members: Members, compiled) -> None:
        def on_epoch() -> int:
            self._write_index([trial.id for trial in members.trials])
            return sum(status.is_final for status in self.statuses())

        interrupt = Interrupt()
        try:
            run = PopulationRun(self._workdir, folder, members, compiled, self._progress)
            # Not around the compilation, when there is nothing to save.
            with interrupt:
                run.train(interrupt, lambda: self._write_board(members.trials), on_epoch)
                self._write_board(members.trials)
        except jax.errors.JaxRuntimeError as error:
            if processes.is_lost_process(error):
                raise
            self._fail(members.trials, error)
        self._signal = int(processes.gather([interrupt.signal or 0]).max())

    def _fail(self, trials: Sequence[Trial], error: Exception) -> Sequence[Trial]:
        message = describe_failure(error)

        def record() -> int:
            fields = "failed", message
            return sum(folders.write_first_failure(self._workdir, each, *fields) for each in trials)

        count = processes.on_primary(record)
        self._write_board(trials)
        self._progress.say(f"{count} trials, {trials[0].id} ..., failed: {message}")
        for trial in trials:
            self._progress.end(trial.id)
        return trials

    def _structure(self, trial: Trial) -> tuple:
        return structure_of(flatten(resolved(trial.config)))

    def _load(self, trial: Trial) -> Data:
        fields = trial.config.data
        if repr(fields) not in self._data:
            with processes.primary_first():
                data = Data(*load_training(**fields))
            found = fingerprints(training=data.training, validation=data.validation)
            check_processes(found)
            processes.on_primary(lambda: record_data(self._workdir, by_settings(found, fields)))
            self._data[repr(fields)] = data
        return self._data[repr(fields)]

    def _fitted(self, trial: Trial) -> Trial:
        """Return a trial whose config has what its data decide."""
        return trial._replace(config=fit_to_data(trial.config, self._load(trial).training))

    def _steps_of(self, trial: Trial) -> int:
        """Return the number of steps of a trial's whole training."""
        train, examples = trial.config.train, len(self._load(trial).training)
        return train.epochs * steps_per_epoch(examples, train.batch_size)

    def _errors(self) -> dict[str, float]:
        """Return the validation errors of the finished trials."""
        summaries = {
            trial.id: status.summary
            for trial, status in zip(self._trials, self.statuses(), strict=True)
            if status.summary is not None and status.summary["validation"]
        }
        return {name: summary["validation"]["error"] for name, summary in summaries.items()}

    def _write_index(self, running: Collection[str] = ()) -> None:
        # Without the other processes: it is written even when they are gone.
        if processes.is_primary():
            index = make_index(
                self._config,
                self._trials,
                self.statuses(),
                running,
                self._start,
                self._seconds_before + time.monotonic() - self._started,
            )
            write_json(self._workdir / "index.json", sealed(index))

    def _write_board(self, trials: Sequence[Trial]) -> None:
        processes.on_primary(lambda: write_trials(self._workdir, self._config, trials))

    def _say_result(self) -> None:
        statuses = self.statuses()
        seconds = self._seconds_before + time.monotonic() - self._started
        finished = sum(status.name == "finished" for status in statuses)
        print(
            f"{self._workdir}: {finished} of {len(statuses)} trials finished in "
            f"{format_seconds(seconds)}; capsjax report --workdir={self._workdir}"
        )
        for trial, status in zip(self._trials, statuses, strict=True):
            if status.message:
                print(f"{trial.id}: {status.name}: {status.message}")
