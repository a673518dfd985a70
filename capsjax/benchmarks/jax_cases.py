"""Cases of capsjax: training steps, inference, evaluation, and products of matrices."""

import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from capsjax.benchmarks.timing import Prepared, Skipped, first_call
from capsjax.config import make_config
from capsjax.data.augment import to_float
from capsjax.training.build import build, build_evaluate, build_train_steps
from capsjax.training.compilation import compile_steps

NUM_CLASSES = 10
# An epoch of MNIST; less where the batch is small, or the images are large.
EXAMPLES, STEPS_OF_AN_EPOCH = 60_000, 468


def bench_config(
    preset: str, compute: Mapping[str, str], fields: Mapping[str, Any] | None = None
) -> ConfigDict:
    """Make the config of a preset with fields of `model.compute`, and others by dotted name."""
    config = make_config(preset)
    config.update_from_flattened_dict({f"model.compute.{key}": compute[key] for key in compute})
    config.update_from_flattened_dict(dict(fields or {}))
    return config


def device_name() -> str:
    """Return PyTorch's name of JAX's default device: "cpu", "cuda" or, for others, JAX's name."""
    backend = jax.default_backend()
    return {"gpu": "cuda"}.get(backend, backend)


@functools.lru_cache(maxsize=2)
def random_data(image_shape: tuple[int, int, int], count: int) -> tuple[jax.Array, jax.Array]:
    """Make random uint8 images (count, h, w, c) and labels (count,), on the device."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *image_shape), np.uint8)
    labels = rng.integers(0, NUM_CLASSES, count, np.int32)
    return jax.device_put(images), jax.device_put(labels)


def examples_for(batch_size: int) -> int:
    """Return the number of training examples: enough steps in an epoch, and no more than MNIST."""
    return max(batch_size, min(EXAMPLES, STEPS_OF_AN_EPOCH * batch_size))


class States:
    """Training states by network, each carried from step to step by all forms of its network.

    All forms share a state, because each state takes hundreds of megabytes.
    """

    def __init__(self):
        self._states = {}

    def take(self, built, key: Any):
        """Take out the state under a key; it is made the first time."""
        if key not in self._states:
            self._states[key] = jax.jit(lambda: built.init_state(0))()
        return self._states.pop(key)

    def __len__(self) -> int:
        return len(self._states)

    def put(self, key: Any, state) -> None:
        self._states[key] = state


def prepare_training(
    config: ConfigDict,
    image_shape: tuple[int, int, int],
    states: States,
    most_bytes: float | int = math.inf,
    in_order: bool = False,
) -> Prepared:
    """Prepare training steps as experiments/train.py takes them: several in one call.

    If `in_order`, their operations run one after the other, for a profile.

    Raises:
      Skipped: if the compiled program needs more than `most_bytes` of temporary memory.
    """
    batch_size = config.train.batch_size
    data = random_data(image_shape, examples_for(batch_size))
    built = build(config, image_shape, NUM_CLASSES, len(data[1]))
    compiled, facts = compile_training(config, built, *data, in_order=in_order)
    check_memory(facts, most_bytes)
    # Two forms of a network share a state as long as their parameters have the same shapes.
    like = jax.eval_shape(lambda: built.init_state(0))
    key = str(jax.tree.map(lambda x: (x.shape, x.dtype), like))
    states.put(key, states.take(built, key))  # made before the first call is timed

    def run(count: int) -> None:
        # From the first step on: a call ends with the epoch, whatever count it was given.
        state = states.take(built, key)._replace(step=jnp.zeros((), jnp.int32))
        state, health = jax.block_until_ready(compiled(state, *data, np.int32(count)))
        states.put(key, state)
        if int(state.step) != count:
            raise RuntimeError(f"{int(state.step)} steps instead of {count}: {health}")

    return Prepared(run, first_call(run), facts, built.steps_per_epoch, compiled.as_text)


def compile_training(config, built, images, labels, in_order: bool = False):
    """Compile the training steps of a config, and return them with their facts."""
    train_steps = build_train_steps(config, built)
    like = jax.eval_shape(lambda: built.init_state(0))
    arguments = (like, images, labels, np.int32(1))
    jitted = jax.jit(train_steps, donate_argnums=0)
    compile_it = compile_plainly if in_order else compile_steps
    return compile_with_facts(jitted, arguments, compile_it=compile_it)


def prepare_inference(
    config: ConfigDict,
    image_shape: tuple[int, int, int],
    batch_size: int,
) -> Prepared:
    """Prepare inference: lengths and the longest capsule's reconstruction, a batch in each call."""
    images, labels = random_data(image_shape, examples_for(batch_size))
    built = build(config, image_shape, NUM_CLASSES, len(labels))
    variables = jax.jit(lambda: built.init_state(0).variables)()

    def forward(variables, images):
        output = built.model.apply(variables, to_float(images))
        return output.scores, output.reconstruction

    arguments = (variables, images[:batch_size])
    compiled, facts = compile_with_facts(jax.jit(built.compute.in_precision(forward)), arguments)
    run = calls_of(lambda: compiled(*arguments))
    return Prepared(run, first_call(run), facts)


def prepare_evaluation(
    config: ConfigDict,
    image_shape: tuple[int, int, int],
    count: int,
) -> Prepared:
    """Prepare one evaluation of `count` images, in one call."""
    images, labels = random_data(image_shape, count)
    built = build(config, image_shape, NUM_CLASSES, count)
    variables = jax.jit(lambda: built.init_state(0).variables)()
    evaluate = build_evaluate(config, built)
    arguments = (variables, images, labels)
    compiled, facts = compile_with_facts(jax.jit(evaluate), arguments)
    run = calls_of(lambda: compiled(*arguments))
    return Prepared(run, first_call(run), facts)


def prepare_product(size: int, dtype: str, matmul_precision: str | None = None) -> Prepared:
    """Prepare the product of two square matrices, summed in float32."""
    left, right = jax.random.normal(jax.random.key(0), (2, size, size)).astype(dtype)

    def product(left, right):
        return jnp.matmul(left, right, preferred_element_type=jnp.float32)

    arguments = (left, right)
    compiled, facts = compile_with_facts(jax.jit(product), arguments, matmul_precision)
    run = calls_of(lambda: compiled(*arguments))
    return Prepared(run, first_call(run), facts)


def calls_of(call):
    """Make a function that calls `call` a number of times and waits until all is done.

    A GPU processes a queue of calls one after the other. A CPU would start them side by side.
    """
    each = jax.default_backend() == "cpu"

    def run(count: int) -> None:
        for _ in range(count):
            result = call()
            if each:
                jax.block_until_ready(result)
        jax.block_until_ready(result)

    return run


def compile_plainly(jitted, *arguments):
    """Compile a jitted function as JAX does when it is called."""
    return jitted.lower(*arguments).compile()


def compile_with_facts(
    jitted,
    arguments,
    matmul_precision: str | None = None,
    compile_it: Callable = compile_plainly,
):
    """Compile a program, and return it with the seconds that took and the bytes that it needs."""
    with jax.default_matmul_precision(matmul_precision):
        started = time.perf_counter()
        compiled = compile_it(jitted, *arguments)
        facts = {"compile_seconds": time.perf_counter() - started}
    sizes = compiled.memory_analysis()
    if sizes is not None:
        facts["temporary_bytes"] = sizes.temp_size_in_bytes
        # A donated argument and the result that takes its place share their memory.
        facts["memory_bytes"] = (
            sizes.temp_size_in_bytes
            + sizes.argument_size_in_bytes
            + sizes.output_size_in_bytes
            - sizes.alias_size_in_bytes
        )
    return compiled, facts


def check_memory(facts: Mapping[str, Any], most_bytes: float | int) -> None:
    """Raise Skipped if a program needs more than `most_bytes` of temporary memory."""
    needed = facts.get("temporary_bytes", 0)
    if needed > most_bytes:
        raise Skipped(
            f"needs {needed / 1e9:.1f} GB of temporary memory, of {most_bytes / 1e9:.1f} GB allowed"
        )
