"""The files that a population leaves behind for each of its trials."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from capsjax.data import Arrays, load_part, source_of
from capsjax.runs import processes
from capsjax.runs.checkpoint import Checkpoints
from capsjax.runs.data_record import by_settings, check_test, record_data
from capsjax.runs.files import sealed, write_json
from capsjax.runs.selection import TESTED_ALONE
from capsjax.sweeps.folders import trial_folder
from capsjax.sweeps.members import Members
from capsjax.training import TrainState
from capsjax.training.watched import selecting

# Why a trial has no result though all its steps were finite.
NO_BEST = "the validation loss was never finite, so that selection 'best' has nothing to choose"


class Outcome(NamedTuple):
    """The end of a population's training, of all its members.

    Attributes:
      total: number of steps of each.
      states: states after the last step, on the host.
      best: best variables by validation, on the host; None where the last ones count.
      notes: notes on its members in the population's checkpoints.
      test, validation: results of the chosen parameters, by member; validation may be None.
    """

    total: int
    states: TrainState
    best: dict | None
    notes: Mapping[str, Any]
    test: Sequence[Mapping[str, float]]
    validation: Sequence[Mapping[str, float]] | None

    def selected_step(self, index: int) -> int:
        """Return the step whose parameters count."""
        return self.total if self.best is None else self.notes["best_steps"][index]

    def validation_value(self, index: int, metric: str) -> float | None:
        """Return the validation metric of that step; None without validation data."""
        if self.best is not None:
            return self.notes["best_values"][index]
        return selecting(self.validation[index], metric).value if self.validation else None


def load_test(workdir: Path, members: Members, say: Callable[[str], None]) -> Arrays:
    """Load the test part, and record it as that of the sweep and of each member.

    Args:
      workdir: folder of the sweep.
      members: the population.
      say: see `check_test`.
    """
    data = members.config.data
    test = load_part(part="test", **source_of(data))
    found = check_test(test, members.data.training, say)

    def record():
        record_data(workdir, by_settings(found, data))
        for trial in members.trials:
            record_data(trial_folder(workdir, trial), found)

    processes.on_primary(record)
    return test


def write_results(workdir: Path, members: Members, index: int, outcome: Outcome) -> None:
    """Write a trial's checkpoints and summary: its folder is then like one of train.py's."""
    trial, training = members.trials[index], members.data.training
    folder = trial_folder(workdir, trial)
    _keep_parameters(folder / "checkpoints", members, index, outcome)
    summary = {
        "name": trial.config.name,
        "seed": trial.config.seed,
        "selection": trial.config.selection,
        "selection_metric": trial.config.selection_metric,
        "selected_step": outcome.selected_step(index),
        "steps": outcome.total,
        "epochs": trial.config.train.epochs,
        "num_parameters": sum(x[index].size for x in jax.tree.leaves(outcome.states.variables)),
        "num_training_examples": len(training),
        "test": outcome.test[index],
        "validation": outcome.validation[index] if outcome.validation else None,
        "device": jax.devices()[0].device_kind,
        "device_count": members.mesh.size,
        "trained_with": len(members.trials),
        "train_seconds": outcome.notes["train_seconds"][index],
        "forms": members.forms["forms"],
        "backend": members.forms["backend"],
    }
    processes.on_primary(lambda: write_json(folder / "summary.json", sealed(summary)))


def _keep_parameters(folder: Path, members: Members, index: int, outcome: Outcome) -> None:
    """Save the parameters of a trial for evaluate.py and visualize.py."""
    training, metric = members.data.training, members.config.selection_metric
    checkpoints = Checkpoints(folder, 1, metric=metric)
    notes = {
        "train_seconds": outcome.notes["train_seconds"][index],
        "image_shape": training.image_shape,
        "num_classes": training.num_classes,
        **({"class_names": training.class_names} if training.class_names else {}),
        "forms": members.forms["forms"],
        "backend": members.forms["backend"],
    }
    last = jax.tree.map(lambda x: x[index], outcome.states)
    value, selected = outcome.validation_value(index, metric), outcome.selected_step(index)
    if selected < outcome.total:
        statistics = jax.tree.map(lambda x: x[index], outcome.best)
        params = statistics.pop("params")
        chosen = last._replace(step=np.int32(selected), params=params, statistics=statistics)
        # The optimizer's state is that of the last step: nothing can be trained from here.
        checkpoints.save(selected, chosen, {**notes, TESTED_ALONE: True}, value)
        checkpoints.save(outcome.total, last, notes)
    else:
        checkpoints.save(outcome.total, last, notes, value)
