"""Many training runs as one compiled program: a population of trials.

Trials whose configs differ in numbers alone share a program, which takes those numbers as data
(`NUMBERS`); initial values matter before it only. A member of a population is the run that its
config describes: the same initial parameters, batches and steps, equal but for rounding.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int, UInt8
from ml_collections import ConfigDict

from capsjax.registry import look_up
from capsjax.training.build import Built, build, build_evaluate, build_train_steps
from capsjax.training.steps import TrainState

# Fields of a config that may be data of a compiled program, and their types there.
NUMBERS = {
    "seed": np.int32,
    "schedule.learning_rate": np.float32,
    "schedule.floor": np.float32,
    "loss_weights.margin": np.float32,
    "loss_weights.reconstruction": np.float32,
    "margin_loss.m_plus": np.float32,
    "margin_loss.m_minus": np.float32,
    "margin_loss.down_weight": np.float32,
    "model.routing.num_iterations": np.int32,
    "model.pool.temperature": np.float32,
}


Numbers = Mapping[str, Array | np.ndarray]


class Sizes(NamedTuple):
    """Of the data that a population is trained on.

    Attributes:
      image_shape: (h, w, c).
      num_classes, num_examples: of the training part.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    num_examples: int


def structure_of(fields: Mapping[str, Any]) -> tuple:
    """What the compiled program of a config depends on: equal for trials that can share one.

    Args:
      fields: the config, flat: dotted name to value.

    >>> structure_of({"seed": 0, "a": 1}) == structure_of({"seed": 5, "a": 1})
    True
    """
    return tuple(
        sorted((name, repr(value)) for name, value in fields.items() if not _is_free(name))
    )


def _is_free(name: str) -> bool:
    return name in NUMBERS or name == "name" or name.endswith("_init")


def numbers_of(members: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The numbers in which members differ, each as an array (members,).

    The others stay constants of the program. `seed` is always among them.

    Args:
      members: flat configs of one structure.
    """
    stacked = {
        name: np.array([fields[name] for fields in members], dtype)
        for name, dtype in NUMBERS.items()
        if name in members[0]
    }
    return {
        name: values
        for name, values in stacked.items()
        if name == "seed" or (values != values[0]).any()
    }


class Population:
    """The programs of a population, as pure functions to be compiled.

    Args:
      config: of any of the members.
      numbers: as from `numbers_of`.
      sizes: of the training data.
      form: "vmap" makes each operation work on all members at once, "map" works them off one
        after the other within the same program: `choose_form` says which suits a device.

      forms: of convolutions and votes, see `build`.

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
        self._over_members, self._steps_over_members = look_up(FORMS, form, "form of a population")
        rounds = numbers.get("model.routing.num_iterations")
        if rounds is not None and config.model.routing.gradient == "full":
            # The loop must have a known length then; without it a member makes its own rounds only.
            self._max_iterations = int(rounds.max())
        else:
            self._max_iterations = None

    def train_steps(
        self,
        numbers: Numbers,
        states: TrainState,
        num_steps: Int[Array, "members"],
        images: UInt8[Array, "N h w c"],
        labels: Int[Array, "N"],
    ) -> tuple:
        """As many steps of each member as `num_steps` says: none freezes a member.

        Returns:
          (states, healths) of all members, see `make_train_steps`.
        """

        def of_member(numbers, state, num_steps):
            member = self._member(numbers)
            steps = build_train_steps(member, self._build(member))
            return steps(state, images, labels, num_steps)

        return self._steps_over_members(of_member)(numbers, states, num_steps)

    def evaluate(self, numbers: Numbers, variables: dict, images: Array, labels: Array):
        """The `Evaluation` of each member, on the same images."""

        def of_member(numbers, variables):
            member = self._member(numbers)
            return build_evaluate(member, self._build(member))(variables, images, labels)

        return self._over_members(of_member)(numbers, variables)

    def learning_rates(self, numbers: Numbers, step: int) -> Array:
        """The learning rate of each member at a step."""
        return jax.vmap(lambda of: self._build(self._member(of)).schedule(step))(numbers)

    def _build(self, member: ConfigDict) -> Built:
        return build(member, *self._sizes, self._forms)

    def _member(self, numbers: Numbers) -> ConfigDict:
        """The config with traced values in it."""
        member = self._config.copy_and_resolve_references()
        with member.unlocked(), member.ignore_type():
            for name, value in numbers.items():
                *path, last = name.split(".")
                section = member
                for part in path:
                    section = section[part]
                section[last] = value
            if self._max_iterations is not None:
                member.model.routing.max_iterations = self._max_iterations
        return member


def _map_over_members(function: Callable) -> Callable:
    return lambda *arguments: lax.map(lambda of_member: function(*of_member), arguments)


def _take_turns(function: Callable) -> Callable:
    """As `_map_over_members`, for (numbers, states, num_steps) -> (states, healths).

    States are exchanged in place: `lax.map` would hold all of them once more, in memory that is new
    in each call, which cost a call 0.3 s.
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


# How a function of one member becomes one of all, and how one that takes steps does.
FORMS = {"vmap": (jax.vmap, jax.vmap), "map": (_map_over_members, _take_turns)}


# Members of a program in the form "map", where more at once gain nothing: each call of the program
# moves all their states through the memory.
MOST_IN_TURN = 8


def choose_form() -> str:
    """The form that suits the default device: the one place that decides.

    On a CPU one member's arrays fill the caches, and "vmap" takes a third longer.
    """
    return "map" if jax.default_backend() == "cpu" else "vmap"


def init_member(config: ConfigDict, sizes: Sizes) -> Callable[[Array], TrainState]:
    """The state of a member before its first step, as a function of its seed, to be compiled."""
    return build(config, *sizes).init_state


def keep_better(better: Bool[Array, "members"], variables: dict, best: dict) -> dict:
    """Of each member the new variables where they are better, else the best so far."""

    def choose(new, old):
        return jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, variables, best)
