"""A population on its devices: its compiled programs, and the placement of its arrays."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from capsjax.config.tagged import resolved
from capsjax.data import Arrays
from capsjax.kernels.compute import completed_forms
from capsjax.runs import devices, processes
from capsjax.runs.environment import machine_memory
from capsjax.runs.workdir import flatten
from capsjax.sweeps import Trial
from capsjax.tasks import check_labels
from capsjax.training import TrainState
from capsjax.training.build import build
from capsjax.training.compilation import compile_steps
from capsjax.training.nonfinite import find_non_finite
from capsjax.training.population import Population, Sizes, init_member, numbers_of

# Share of a machine's memory, or a GPU's, that the program of a population may take.
MEMORY_SHARE = 0.6


class Data(NamedTuple):
    """The data that trials are trained on.

    Attributes:
      training, validation: see `capsjax.data.load_training`.
    """

    training: Arrays
    validation: Arrays | None

    @property
    def sizes(self) -> Sizes:
        """Sizes that the programs depend on."""
        training = self.training
        return Sizes(training.image_shape, training.num_classes, len(training))


class Members:
    """Trials of one structure that are trained together.

    Where there is more than one device, each has its share of the members; a few copies of the
    last one, which take no steps, fill up a number that does not divide.

    Args:
      trials: the members.
      data: the data that they are trained on.
      mesh: the devices, in one axis.
      form: see `Population`.
      forms: see `build`.

    Raises:
      ValueError: for an unusable config.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        data: Data,
        mesh: Mesh,
        form: str,
        forms: Mapping[str, str] | None = None,
    ):
        self.trials, self.data, self.mesh = list(trials), data, mesh
        missing = -len(self.trials) % mesh.size
        self._filled = self.trials + self.trials[-1:] * missing
        self.numbers = numbers_of([flatten(resolved(trial.config)) for trial in self._filled])
        self.config = self.trials[0].config
        built = build(self.config, *data.sizes)
        self._task = built.objective.task
        check_labels(self._task, data.training.labels.shape, *data.sizes[:2])
        chosen = built.model.chosen_forms(self.config.train.batch_size)
        forms = chosen if forms is None else completed_forms(forms, chosen)
        self.forms = {"backend": jax.default_backend(), "population": form, "forms": forms}
        self._population = Population(self.config, self.numbers, data.sizes, form, forms)

    @property
    def sharding(self) -> Sharding:
        """Placement of arrays whose first axis is that of the members."""
        if self.mesh.size == 1:
            return SingleDeviceSharding(self.mesh.devices.item())
        return NamedSharding(self.mesh, PartitionSpec(*self.mesh.axis_names))

    def place(self, tree: Any) -> Any:
        """Place arrays, whose first axis is that of the members, on the devices."""

        def put(x):
            x = np.asarray(x)
            return jax.make_array_from_callback(x.shape, self.sharding, lambda index: x[index])

        return jax.tree.map(put, tree)

    def fill(self, values: np.ndarray, rest: Any) -> np.ndarray:
        """Return the values of the trials, followed by `rest` for each copy."""
        missing = len(self._filled) - len(self.trials)
        return np.concatenate([values, np.full(missing, rest, values.dtype)])

    @property
    def num_rows(self) -> int:
        """Rows of all arrays: the trials, and the copies after them."""
        return len(self._filled)

    def refill(self, tree: Any) -> Any:
        """Place arrays with another number of copies, to suit the present devices."""

        def put(x):
            kept = x[: len(self.trials)]
            missing = self.num_rows - len(kept)
            return np.concatenate([kept, np.repeat(kept[-1:], missing, axis=0)])

        return self.place(jax.tree.map(put, tree))

    def like(self, num_rows: int) -> TrainState:
        """Return the shapes and types of `num_rows` states."""
        one = jax.eval_shape(init_member(self.config, self.data.sizes), np.uint32(0))
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((num_rows, *x.shape), x.dtype), one)

    def init(self) -> TrainState:
        """Make the states before the first step, each according to its own config."""
        programs: dict[tuple, Callable] = {}
        states = []
        for trial, seed in zip(self._filled, self.numbers["seed"], strict=True):
            fields = flatten(resolved(trial.config))
            initial = tuple(fields[name] for name in sorted(fields) if name.endswith("_init"))
            if initial not in programs:
                programs[initial] = jax.jit(init_member(trial.config, self.data.sizes))
            states.append(jax.device_get(programs[initial](seed)))
        return self.place(jax.tree.map(lambda *leaves: np.stack(leaves), *states))

    def compile_steps(self):
        """Compile the program (numbers, states, num_steps, images, labels) -> (states, healths)."""
        jitted = jax.jit(self._on_devices(self._population.train_steps, 3), donate_argnums=1)
        num_steps = np.zeros(self.num_rows, np.int32)
        states = self.like(self.num_rows)
        of_members = self._abstract((self.numbers, states, num_steps), self.sharding)
        training = (self.data.training.images, self.data.training.labels)
        of_all = self._abstract(training, devices.everywhere(self.mesh))
        return compile_steps(jitted, *of_members, *of_all)

    @functools.cached_property
    def evaluate(self) -> Callable:
        """The program (numbers, variables, images, labels) -> (sums, predictions).

        Sums are those of `Evaluation`. Predictions are classes, (members, n), and None for other
        labels than one class for each image.
        """

        def evaluate(numbers, variables, images, labels):
            sums, scores = self._population.evaluate(numbers, variables, images, labels)
            return sums, jax.vmap(self._task.predictions)(scores) if labels.ndim == 1 else None

        return jax.jit(self._on_devices(evaluate, 2))

    def check_evaluate(self) -> None:
        """Trace the evaluation, which meets errors in its code before there is a step to lose."""
        part = self.data.validation or self.data.training
        variables = self.like(self.num_rows).variables
        jax.eval_shape(self.evaluate, self.numbers, variables, part.images, part.labels)

    def learning_rates(self, step: int) -> np.ndarray:
        """Return the learning rate of each member."""
        return np.asarray(self._population.learning_rates(self.numbers, step))

    def find_non_finite(self, index: int, variables: dict, step: int) -> str:
        """Name the first value that is not finite in a step of a trial."""
        config, training = self.trials[index].config, self.data.training
        built = build(config, *self.data.sizes, self.forms["forms"])
        arrays = (training.images, training.labels)
        return find_non_finite(config, built, variables, step, *arrays)

    @staticmethod
    def _abstract(tree: Any, sharding: Sharding) -> Any:
        def describe(x):
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

        return jax.tree.map(describe, tree)

    def _on_devices(self, function: Callable, by_member: int) -> Callable:
        """Divide a function's first `by_member` arguments, and its results, over the devices."""
        if self.mesh.size == 1:
            return function
        members, all_of_it = PartitionSpec(*self.mesh.axis_names), PartitionSpec()
        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=(*[members] * by_member, all_of_it, all_of_it),
            out_specs=members,
            check_vma=False,
        )


def largest_that_fits(
    trials: Sequence[Trial],
    data: Data,
    mesh: Mesh,
    form: str,
    most: int,
    forms: Mapping[str, str] | None = None,
) -> tuple[Members, Any]:
    """Return as many of the first trials as fit in memory, and their compiled program.

    Found by compiling and asking the program what it needs, not by running out of memory.

    Raises:
      ValueError: if there is too little memory for one trial, or the config is unusable.
    """
    count = min(len(trials), most)
    # In whole megabytes, and the least that any process has, so that all decide the same.
    allowed = MEMORY_SHARE * 1e6 * int(processes.gather([int(_bytes_of_device() / 1e6)]).min())
    while True:
        members = Members(trials[:count], data, mesh, form, forms)
        compiled = members.compile_steps()
        needed = _bytes_of(compiled)
        if needed <= allowed:
            return members, compiled
        if count <= mesh.size:
            raise ValueError(
                f"one trial needs {needed / 1e9:.1f} GB of memory, and {allowed / 1e9:.1f} GB may "
                "be used: make the network or train.batch_size smaller"
            )
        # An equal number for each device; most of the memory grows with the members.
        count = min(count - 1, int(count * allowed / needed))
        count = max(mesh.size, count - count % mesh.size)


def _bytes_of(compiled) -> int:
    sizes = compiled.memory_analysis()
    if sizes is None:
        return 0
    arrays = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    # States take their memory once more while a checkpoint or the best parameters are made.
    return sizes.temp_size_in_bytes + arrays + sizes.alias_size_in_bytes


def _bytes_of_device() -> float:
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return limit if limit else machine_memory() / jax.local_device_count()
