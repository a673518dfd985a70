"""The size of a network: its layers, its parameters, and the cost of a training step."""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from capsjax.training.build import Built, build_train_steps
from capsjax.training.compilation import compile_steps


class Layer(NamedTuple):
    """A layer of a network.

    Attributes:
      name: name, as in its parameters.
      output: shapes of what it returns for one image, without the batch axis.
      num_parameters: number of its parameters.
    """

    name: str
    output: list[tuple[int, ...]]
    num_parameters: int


class StepSize(NamedTuple):
    """The cost of a compiled training step, as the compiler counts it.

    Attributes:
      operations: floating-point operations of a step, 0 where the compiler does not report them. It
        counts one round of each loop, such as one over groups of images.
      state_bytes: parameters and the state of the optimizer.
      data_bytes: the training data on the device.
      working_bytes: what a step needs besides, at its peak.
    """

    operations: float
    state_bytes: int
    data_bytes: int
    working_bytes: int


class CompiledStep(NamedTuple):
    """A compiled training step.

    Attributes:
      program: takes the state, images, labels and a number of steps.
      state, images, labels: shapes of what it takes.
    """

    program: jax.stages.Compiled
    state: Any
    images: jax.ShapeDtypeStruct
    labels: jax.ShapeDtypeStruct


class StepTime(NamedTuple):
    """The time of a training step.

    Attributes:
      seconds: of a step, the best of `ROUNDS` measurements.
      num_steps: number of steps in each measurement.
    """

    seconds: float
    num_steps: int


# Measurements of a step's time, about how long each is, and the most steps in one.
ROUNDS, SECONDS, MOST_STEPS = 3, 2.0, 1000


def layers_of(built: Built) -> list[Layer]:
    """List the layers of the network in the order of the forward pass; nothing is computed."""
    image = jnp.zeros((1, *built.model.image_shape))
    names = []

    def run(key, image):
        _, variables = built.model.init_with_output(key, image, capture_intermediates=True)
        # In the order of their calls, which a pytree does not preserve.
        outputs = variables["intermediates"]
        names.extend(name for name in outputs if isinstance(outputs[name], Mapping))
        return variables

    variables = jax.eval_shape(run, jax.random.key(0), image)
    params, outputs = variables["params"], variables["intermediates"]
    layers = [
        Layer(
            name,
            [leaf.shape[1:] for leaf in jax.tree.leaves(outputs[name]["__call__"])],
            _count(params.get(name, {})),
        )
        for name in names
    ]
    # Arrays of the network itself, or of a layer that was not called by its name.
    others = _count(params) - sum(layer.num_parameters for layer in layers)
    return [*layers, *([Layer("others", [], others)] if others else [])]


def _count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def compile_step(config: ConfigDict, built: Built, num_examples: int) -> CompiledStep:
    """Compile a config's training step for the default device.

    Args:
      config: see `capsjax.config`.
      built: what the config describes.
      num_examples: number of training examples, which are on the device.
    """
    model, task = built.model, built.objective.task
    label = task.shape_of_labels(model.image_shape, model.num_classes)
    inputs = (
        jax.eval_shape(lambda: built.init_state(config.seed)),
        jax.ShapeDtypeStruct((num_examples, *model.image_shape), np.uint8),
        jax.ShapeDtypeStruct((num_examples, *label), np.int32),
    )
    steps = jax.jit(build_train_steps(config, built), donate_argnums=0)
    return CompiledStep(compile_steps(steps, *inputs, np.int32(1)), *inputs)


def size_of_step(step: CompiledStep) -> StepSize:
    """Return what a training step needs, from its compiled program."""
    memory, cost = step.program.memory_analysis(), step.program.cost_analysis()
    return StepSize(
        operations=float((cost or {}).get("flops", 0.0)),
        state_bytes=_bytes_of(step.state),
        data_bytes=_bytes_of((step.images, step.labels)),
        working_bytes=0 if memory is None else memory.temp_size_in_bytes,
    )


def time_step(step: CompiledStep, built: Built) -> StepTime:
    """Measure a training step, with random images, after one that does not count.

    A measurement is one call for at most an epoch.
    """
    rng = np.random.default_rng(0)
    images = jax.device_put(rng.integers(0, 256, step.images.shape, np.uint8))
    # In every task a label of 0 or 1 is one.
    labels = jax.device_put(rng.integers(0, 2, step.labels.shape, np.int32))
    state = jax.block_until_ready(jax.jit(built.init_state)(0))

    def seconds_of(num_steps: int) -> float:
        """Return the seconds of a step in a call for so many."""
        nonlocal state
        # From the start of an epoch, because no call goes beyond its end.
        state = jax.block_until_ready(state._replace(step=jnp.zeros_like(state.step)))
        start = time.perf_counter()
        state, _ = jax.block_until_ready(step.program(state, images, labels, np.int32(num_steps)))
        # A call also ends with a step that is not finite.
        return (time.perf_counter() - start) / max(1, int(state.step))

    seconds_of(1)
    most = min(MOST_STEPS, built.steps_per_epoch)
    num_steps = max(1, min(most, int(SECONDS / seconds_of(1))))
    return StepTime(min(seconds_of(num_steps) for _ in range(ROUNDS)), num_steps)


def _bytes_of(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
