"""A population on its devices: its programs compiled, its arrays in their places."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from benchmarking.machine import machine_memory
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from capsjax import devices
from capsjax.data import Arrays
from capsjax.sweeps import Trial
from capsjax.training import TrainState
from capsjax.training.build import build
from capsjax.training.population import Population, Sizes, init_member, numbers_of
from capsjax.workdir import flatten

# Of a machine's memory, or a GPU's, that the program of a population may take.
MEMORY_SHARE = 0.6


class Data(NamedTuple):
    """Attributes:
    training, validation: see `capsjax.data.load_training`.
    """

    training: Arrays
    validation: Arrays | None

    @property
    def sizes(self) -> Sizes:
        """What the programs depend on."""
        training = self.training
        return Sizes(training.image_shape, training.num_classes, len(training))


class Members:
    """Trials of one structure that are trained together.

    Where there are more devices than one, each has its share of the members; a few copies of the
    last one, which take no steps, fill up what does not divide.

    Args:
      trials: the members.
      data: what they are trained on.
      mesh: the devices, in one axis.
      form: see `Population`.
      forms: see `build`.

    Raises:
      ValueError: for a config that does not work.
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
        self.numbers = numbers_of([flatten(trial.config.to_dict()) for trial in self._filled])
        self.config = self.trials[0].config
        if forms is None:
            model = build(self.config, *data.sizes).model
            forms = model.chosen_forms(self.config.train.batch_size)
        self.forms = {"backend": jax.default_backend(), "population": form, "forms": dict(forms)}
        self._population = Population(self.config, self.numbers, data.sizes, form, forms)

    @property
    def sharding(self) -> Sharding:
        """Where arrays lie whose first axis is that of the members."""
        if self.mesh.size == 1:
            return SingleDeviceSharding(self.mesh.devices.item())
        return NamedSharding(self.mesh, PartitionSpec(*self.mesh.axis_names))

    def place(self, tree: Any) -> Any:
        """Arrays with the axis of the members first, on their devices."""

        def put(x):
            x = np.asarray(x)
            return jax.make_array_from_callback(x.shape, self.sharding, lambda index: x[index])

        return jax.tree.map(put, tree)

    def fill(self, values: np.ndarray, rest: Any) -> np.ndarray:
        """Values of the trials, and `rest` for the copies behind them."""
        missing = len(self._filled) - len(self.trials)
        return np.concatenate([values, np.full(missing, rest, values.dtype)])

    @property
    def num_rows(self) -> int:
        """Of all arrays: the trials, and the copies behind them."""
        return len(self._filled)

    def refill(self, tree: Any) -> Any:
        """Arrays of the trials and of another number of copies, for the devices that there are."""

        def put(x):
            kept = x[: len(self.trials)]
            missing = self.num_rows - len(kept)
            return np.concatenate([kept, np.repeat(kept[-1:], missing, axis=0)])

        return self.place(jax.tree.map(put, tree))

    def like(self, num_rows: int) -> TrainState:
        """Shapes and types of so many states."""
        one = jax.eval_shape(init_member(self.config, self.data.sizes), np.int32(0))
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((num_rows, *x.shape), x.dtype), one)

    def init(self) -> TrainState:
        """The states before the first step, each as its own config says."""
        programs: dict[tuple, Callable] = {}
        states = []
        for trial in self._filled:
            fields = flatten(trial.config.to_dict())
            initial = tuple(fields[name] for name in sorted(fields) if name.endswith("_init"))
            if initial not in programs:
                programs[initial] = jax.jit(init_member(trial.config, self.data.sizes))
            states.append(jax.device_get(programs[initial](np.int32(trial.config.seed))))
        return self.place(jax.tree.map(lambda *leaves: np.stack(leaves), *states))

    def compile_steps(self):
        """The program (numbers, states, num_steps, images, labels) -> (states, healths)."""
        jitted = jax.jit(self._on_devices(self._population.train_steps, 3), donate_argnums=1)
        num_steps = np.zeros(self.num_rows, np.int32)
        states = self.like(self.num_rows)
        of_members = self._abstract((self.numbers, states, num_steps), self.sharding)
        training = (self.data.training.images, self.data.training.labels)
        of_all = self._abstract(training, devices.everywhere(self.mesh))
        return jitted.lower(*of_members, *of_all).compile()

    def compile_evaluate(self):
        """The program (numbers, variables, images, labels) -> sums, see `Evaluation`."""

        def sums(*arguments):
            return self._population.evaluate(*arguments).sums

        return jax.jit(self._on_devices(sums, 2))

    def learning_rates(self, step: int) -> np.ndarray:
        """The learning rate of each member."""
        return np.asarray(self._population.learning_rates(self.numbers, step))

    @staticmethod
    def _abstract(tree: Any, sharding: Sharding) -> Any:
        def describe(x):
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

        return jax.tree.map(describe, tree)

    def _on_devices(self, function: Callable, by_member: int) -> Callable:
        """The function with its first arguments, and its results, divided over the devices."""
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
    """As many of the trials, from the first on, as the memory holds, and their compiled program.

    Found by compiling and asking the program what it needs, and not by running out of memory.

    Raises:
      ValueError: if there is too little memory for one, or the config does not work.
    """
    count = min(len(trials), most)
    # In whole megabytes, and the least that any process has: all of them take the same decision.
    allowed = MEMORY_SHARE * 1e6 * int(devices.gather([int(_bytes_of_device() / 1e6)]).min())
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
        # A whole number for each device; most of the memory grows with the members.
        count = min(count - 1, int(count * allowed / needed))
        count = max(mesh.size, count - count % mesh.size)


def _bytes_of(compiled) -> int:
    sizes = compiled.memory_analysis()
    if sizes is None:
        return 0
    arrays = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    # States are held once more while a checkpoint or the best parameters are made.
    return sizes.temp_size_in_bytes + arrays + sizes.alias_size_in_bytes


def _bytes_of_device() -> float:
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return limit if limit else machine_memory() / jax.local_device_count()
