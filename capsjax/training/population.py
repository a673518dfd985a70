"""Many training runs as one compiled program: a population of trials.

Trials whose configs differ in numbers alone share a program, which takes those numbers as data
(`NUMBERS`); initial values matter only before it. A member of a population is the run that its
config describes: the same initial parameters, batches and steps, up to rounding.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int, UInt8
from ml_collections import ConfigDict

from capsjax.config.tagged import traced_numbers
from capsjax.registry import look_up
from capsjax.training.build import Built, build, build_evaluate, build_train_steps
from capsjax.training.steps import TrainState

# Fields of a config that may be data of a compiled program, and their types there. The weights of
# all losses are too, and the named components add those that they list as `TRACED`.
NUMBERS = {
    "seed": np.uint32,
    "augment.brightness": np.float32,
    "augment.contrast": np.float32,
    "augment.elastic": np.float32,
    "augment.flip_horizontal": np.float32,
    "augment.flip_vertical": np.float32,
    "augment.noise": np.float32,
    "augment.rotation": np.float32,
    "augment.scale": np.float32,
    "schedule.learning_rate": np.float32,
    "schedule.floor": np.float32,
    "margin_loss.m_plus": np.float32,
    "margin_loss.m_minus": np.float32,
    "margin_loss.down_weight": np.float32,
    "spread_loss.margin_start": np.float32,
    "spread_loss.margin_end": np.float32,
    "spread_loss.margin_steps": np.int32,
}
OF_PYTHON = {int: np.int32, float: np.float32}


Numbers = Mapping[str, Array | np.ndarray]


class Sizes(NamedTuple):
    """Sizes of the data that a population is trained on.

    Attributes:
      image_shape: (h, w, c).
      num_classes, num_examples: numbers of classes and examples of the training part.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    num_examples: int


def structure_of(fields: Mapping[str, Any]) -> tuple:
    """Return what the compiled program of a config depends on: equal for trials that can share one.

    Args:
      fields: the resolved config, flat: dotted name to value.

    >>> structure_of({"seed": 0, "a": 1}) == structure_of({"seed": 5, "a": 1})
    True
    """
    numbers = numbers_in(fields)

    def is_free(name: str) -> bool:
        return name in numbers or name == "name" or name.endswith("_init")

    return tuple(sorted((name, repr(value)) for name, value in fields.items() if not is_free(name)))


def numbers_in(fields: Mapping[str, Any]) -> dict[str, type]:
    """Return the fields of a config that may be data of a compiled program, and their types.

    Args:
      fields: the resolved config, flat.
    """
    of_components = {name: OF_PYTHON[kind] for name, kind in traced_numbers(fields).items()}
    of_losses = {name: np.float32 for name in fields if name.startswith("loss_weights.")}
    known = {**NUMBERS, **of_losses, **of_components}
    return {name: kind for name, kind in known.items() if name in fields}


def numbers_of(members: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Stack the numbers in which members differ, each as an array (members,), and always `seed`.

    The others stay constants of the program.

    Args:
      members: flat resolved configs of one structure.
    """
    stacked = {
        name: np.array([_bits(name, fields[name]) for fields in members], dtype)
        for name, dtype in numbers_in(members[0]).items()
    }
    return {
        name: values
        for name, values in stacked.items()
        if name == "seed" or (values != values[0]).any()
    }


def _bits(name: str, value: float | int) -> float | int:
    """Return a number as a program takes it: of a seed, the 32 bits that a random key is of."""
    return value % 2**32 if name == "seed" else value


class Population:
    """The programs of a population, as pure functions to be compiled.

    Args:
      config: the config of any member.
      numbers: what `numbers_of` returns.
      sizes: sizes of the training data.
      form: "vmap" applies each operation to all members at once, "map" runs them one after the
        other within the same program; `choose_member_form` returns what suits a device.
      forms: forms of convolutions and votes, see `build`.

    Raises:
      ValueError: for an unknown form, or a config that does not work.
    """

    def __init__(
        self,
        config: ConfigDict,
        numbers: Mapping[str, np.ndarray],
        sizes: Sizes,
        form: str,
        forms: Mapping[str, str] | None = None,
    ):
        self._config, self._sizes, self._forms = config, sizes, forms
        self._over_members, self._steps_over_members = look_up(
            MEMBER_FORMS, form, "form of a population"
        )
        # Where every round is differentiated the loop must have a known length; elsewhere a member
        # computes its own rounds only.
        self._limits = {}
        for name, values in numbers.items():
            section, _, last = name.rpartition(".")
            if last == "num_iterations" and _field(config, f"{section}.gradient") == "full":
                self._limits[f"{section}.max_iterations"] = int(values.max())

    def train_steps(
        self,
        numbers: Numbers,
        states: TrainState,
        num_steps: Int[Array, "members"],
        images: UInt8[Array, "N h w c"],
        labels: Int[Array, "N *label"],
    ) -> tuple:
        """Take `num_steps` steps of each member; 0 freezes a member.

        Returns:
          (states, healths) of all members, see `make_train_steps`.
        """

        def of_member(numbers, state, num_steps):
            member = self._member(numbers)
            steps = build_train_steps(member, self._build(member))
            return steps(state, images, labels, num_steps)

        return self._steps_over_members(of_member)(numbers, states, num_steps)

    def evaluate(self, numbers: Numbers, variables: dict, images: Array, labels: Array):
        """Return the `Evaluation` of each member, on the same images."""

        def of_member(numbers, variables):
            member = self._member(numbers)
            return build_evaluate(member, self._build(member))(variables, images, labels)

        return self._over_members(of_member)(numbers, variables)

    def learning_rates(self, numbers: Numbers, step: int) -> Array:
        """Return the learning rate of each member at a step."""
        return jax.vmap(lambda of: self._build(self._member(of)).schedule(step))(numbers)

    def _build(self, member: ConfigDict) -> Built:
        return build(member, *self._sizes, self._forms)

    def _member(self, numbers: Numbers) -> ConfigDict:
        """Return the config with traced values in it."""
        member = self._config.copy_and_resolve_references()
        with member.unlocked(), member.ignore_type():
            for name, value in {**numbers, **self._limits}.items():
                path, _, last = name.rpartition(".")
                section = _field(member, path) if path else member
                section[last] = value
        return member


def _field(config: ConfigDict, name: str) -> Any:
    """Return the field of that dotted name, or None if it is missing."""
    for part in name.split("."):
        config = config.get(part) if isinstance(config, ConfigDict) else None
    return config


def _map_over_members(function: Callable) -> Callable:
    return lambda *arguments: lax.map(lambda of_member: function(*of_member), arguments)


def _take_turns(function: Callable) -> Callable:
    """Map over members in turn, for (numbers, states, num_steps) -> (states, healths).

    States are replaced in place: `_map_over_members` would hold all of them a second time, in
    memory newly allocated at every call, which cost 0.3 s a call.
    """

    def take(tree: Any, index: Array | int) -> Any:
        return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, index, keepdims=False), tree)

    def put(all_of_them: Any, one: Any, index: Array) -> Any:
        return jax.tree.map(
            lambda x, y: lax.dynamic_update_index_in_dim(x, y, index, 0), all_of_them, one
        )

    def in_turn(numbers, states, num_steps):
        def next_member(index, carry):
            states, healths = carry
            state, health = function(*take((numbers, states, num_steps), index))
            return put(states, state, index), put(healths, health, index)

        _, health = jax.eval_shape(function, *take((numbers, states, num_steps), 0))
        healths = jax.tree.map(lambda x: jnp.zeros((len(num_steps), *x.shape), x.dtype), health)
        return lax.fori_loop(0, len(num_steps), next_member, (states, healths))

    return in_turn


# How a function of one member is mapped over all, and how one that takes steps is.
MEMBER_FORMS = {"vmap": (jax.vmap, jax.vmap), "map": (_map_over_members, _take_turns)}


# The most members of a program of form "map", where more gain nothing: each call of the program
# moves all their states through memory.
MOST_IN_TURN = 8


def choose_member_form() -> str:
    """Choose the form that suits the default device: the one place that decides.

    On a CPU one member's arrays fill the caches, and "vmap" takes a third longer.
    """
    return "map" if jax.default_backend() == "cpu" else "vmap"


def init_member(config: ConfigDict, sizes: Sizes) -> Callable[[Array], TrainState]:
    """Return a function from a seed to a member's state before its first step, to be compiled."""
    return build(config, *sizes).init_state


def keep_better(better: Bool[Array, "members"], variables: dict, best: dict) -> dict:
    """Keep each member's new variables where they are better, else its best so far."""

    def choose(new, old):
        return jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, variables, best)
