"""The size of a network: its layers, its parameters, and the cost of a training step."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from capsjax.training.build import Built, build_train_steps


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
      operations: floating-point operations of a step, 0 where the compiler does not report them.
      state_bytes: parameters and the state of the optimizer.
      data_bytes: the training data on the device.
      working_bytes: what a step needs besides, at its peak.
    """

    operations: float
    state_bytes: int
    data_bytes: int
    working_bytes: int


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
    return [
        Layer(
            name,
            [leaf.shape[1:] for leaf in jax.tree.leaves(outputs[name]["__call__"])],
            sum(leaf.size for leaf in jax.tree.leaves(params.get(name, {}))),
        )
        for name in names
    ]


def size_of_step(config: ConfigDict, built: Built, num_examples: int) -> StepSize:
    """Return the cost of a training step on the default device, from its compiled program.

    Args:
      config: see `capsjax.config`.
      built: what the config describes.
      num_examples: number of training examples, which are on the device.
    """
    state = jax.eval_shape(lambda: built.init_state(config.seed))
    images = jax.ShapeDtypeStruct((num_examples, *built.model.image_shape), np.uint8)
    label = built.objective.task.shape_of_labels(built.model.image_shape, built.model.num_classes)
    labels = jax.ShapeDtypeStruct((num_examples, *label), np.int32)
    steps = jax.jit(build_train_steps(config, built), donate_argnums=0)
    compiled = steps.lower(state, images, labels, np.int32(1)).compile()
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    return StepSize(
        operations=float((cost or {}).get("flops", 0.0)),
        state_bytes=_bytes_of(state),
        data_bytes=_bytes_of((images, labels)),
        working_bytes=0 if memory is None else memory.temp_size_in_bytes,
    )


def _bytes_of(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
