"""A sweep that is stopped between two populations, or whose population fails on its way."""

import json
import signal
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pytest

from capsjax.runs.checkpoint import Checkpoints
from capsjax.runs.files import read_json, sealed, write_json
from capsjax.sweeps import folders, make_sweep, trials_of
from capsjax.sweeps import run as sweep
from capsjax.sweeps.population_run import PopulationRun
from capsjax.sweeps.results import write_results
from tests.tiny import tiny_config

pytestmark = pytest.mark.ci

FAILURE = "INTERNAL: the device is gone"

# A population of one trial, and one of three of which two are not finite.
TRIALS = {
    "short": {"train.epochs": 1},
    "finite": {},
    "diverges": {"schedule.learning_rate": 1e30},
    "diverges too": {"schedule.learning_rate": 1e31},
}
CONFIG = make_sweep(
    "test",
    tiny_config(checkpoint__every_epochs=2, selection="last", model__use_decoder=False),
    {"trial": TRIALS},
    num_seeds=1,
)


class Broken(PopulationRun):
    """A population of three epochs whose device is gone in the last one."""

    def take_steps(self, count):
        if self.step >= 2 * self.steps_per_epoch:
            raise jax.errors.JaxRuntimeError(FAILURE)
        return super().take_steps(count)


def write_and_interrupt(*arguments):
    write_results(*arguments)
    signal.raise_signal(signal.SIGTERM)


INTERRUPTED = "capsjax.sweeps.population_run.write_results", write_and_interrupt


class Watched(sweep.SweepProgress):
    """A progress that keeps the steps that were left after each call."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.total, self.left_after_calls = self.left(), []
        Watched.latest = self

    def show_trials(self, *arguments, **settings):
        self.left_after_calls.append(self.left())


class Start(NamedTuple):
    """A start of the sweep: its exit status, and what it leaves behind.

    Attributes:
      code: the exit status; 0 if the sweep went through all trials.
      statuses: status of each trial, in order.
      rows: statuses in index.json.
      total, left: steps of all remaining trials, and what was left of them after each call.
      checkpoints: steps of the checkpoints of the second population.
    """

    code: Any
    statuses: list
    rows: list
    total: int
    left: list
    checkpoints: list

    @property
    def names(self):
        """Name of each status."""
        return [status.name for status in self.statuses]


def start(workdir: Path, name: str, value: Any) -> Start:
    """Start the sweep, with another value of a name in the code."""
    code = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "SweepProgress", Watched)
        patch.setattr(name, value)
        try:
            sweep.run_sweep(CONFIG, workdir)
        except SystemExit as stopped:
            code = stopped.code
    return Start(
        code,
        [folders.read_status(workdir, trial) for trial in trials_of(CONFIG)],
        [row["status"] for row in json.loads((workdir / "index.json").read_text())["trials"]],
        Watched.latest.total,
        Watched.latest.left_after_calls,
        [path.name for path in (workdir / "populations").glob("001/checkpoints/[0-9]*")],
    )


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """The folder of the sweep, after all its starts."""
    return tmp_path_factory.mktemp("sweeps") / "sweep"


@pytest.fixture(scope="module")
def stopped(workdir):
    """The first start: SIGTERM comes while the first population writes its results."""
    return start(workdir, *INTERRUPTED)


@pytest.fixture(scope="module")
def failed(workdir, stopped):
    """The second start: the second population fails after two epochs."""
    return start(workdir, "capsjax.sweeps.run.PopulationRun", Broken)


@pytest.fixture(scope="module")
def resumed(workdir, failed):
    """The third start, after a record was lost, of a population that began on a GPU.

    SIGTERM comes while the last results are written.
    """
    (folders.trial_folder(workdir, trials_of(CONFIG)[-1]) / "failure.json").unlink()
    forms = workdir / "populations" / "001" / "forms.json"
    fields = {name: value for name, value in read_json(forms).items() if name != "sha256"}
    write_json(forms, sealed({**fields, "backend": "gpu"}))
    return start(workdir, *INTERRUPTED)


def test_a_signal_while_results_are_written_stops_before_the_next_population(stopped):
    assert stopped.code == 128 + signal.SIGTERM
    assert stopped.names == stopped.rows == ["finished", "waiting", "waiting", "waiting"]
    assert stopped.checkpoints == [], "the second population has not begun"


def test_a_population_that_fails_leaves_the_records_of_what_ended_before(failed):
    assert failed.code == 0
    assert failed.names == ["finished", "failed", "non_finite", "non_finite"]
    assert failed.statuses[1].message == FAILURE
    assert "is not finite" in failed.statuses[2].message


def test_every_trial_of_a_population_that_failed_ends_at_the_next_start(failed, resumed):
    assert resumed.code == 0, "the signal came when nothing was left to train"
    assert resumed.names == ["finished", "finished", "non_finite", "non_finite"]
    # The record of the last one was lost, and is made again from the population's checkpoint.
    assert [each.message for each in resumed.statuses[2:]] == [
        each.message for each in failed.statuses[2:]
    ]


def test_a_population_is_saved_at_the_end_of_every_second_epoch(failed):
    assert failed.checkpoints == ["8"]


def test_the_steps_that_are_left_are_those_of_trials_that_still_train(failed, resumed):
    assert failed.total == 3 * 12
    assert failed.left[-1] == 4, "the last epoch of the one that is finite"
    # Two members go on at step 8: one had ended for good, and the record of another was lost.
    assert resumed.total == 2 * 12
    assert (resumed.left[0], resumed.left[-1]) == (3, 0)


def test_a_trial_names_the_backend_that_its_population_began_on(workdir, resumed):
    folder = folders.trial_folder(workdir, trials_of(CONFIG)[1])
    assert resumed.statuses[1].summary["backend"] == "gpu"
    assert Checkpoints(folder / "checkpoints", read_only=True).notes()["backend"] == "gpu"
