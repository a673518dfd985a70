"""Section "memory": held against recomputed votes, and whole steps."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from capsjax.benchmarks import jax_cases, rows
from capsjax.benchmarks.machine import others_line
from capsjax.benchmarks.settings import Settings
from capsjax.benchmarks.timing import Calls, Case, Effort, Prepared, first_call, measure, median
from capsjax.kernels.compute import Compute
from capsjax.kernels.conv import output_size
from capsjax.layers import DenseCaps
from capsjax.notation import Capsules
from capsjax.ops import safe_norm
from capsjax.reports.tables import gigabytes, number, ratio, table
from capsjax.routing import DynamicRouting
from capsjax.training.build import build

SIDES = (28, 64, 96)
TYPES, LOWER_POSE, CLASSES, UPPER_POSE, ROUNDS = 32, 8, 10, 16, 3
BATCH_SIZES = {28: 128, 64: 128, 96: 64}
WAYS = ("held", "recomputed")
# Share of the machine's memory for the temporary arrays of the plain form.
PART = 0.6
EFFORT = Effort(3, 2.0)


def run(section: dict[str, Any], settings: Settings) -> None:
    """Measure, filling the section on the way, so that an interruption loses nothing."""
    layers, steps = section["layers"], section["steps"] = [], []
    for side in SIDES:
        most = PART * settings.memory_bytes
        batch_size = BATCH_SIZES[side]
        while _layer("held", side, batch_size)[1]["temporary_bytes"] > most and batch_size > 1:
            batch_size //= 2
        group = {"side": side, "lower": lower_capsules(side), "batch_size": batch_size, "rows": []}
        layers.append(group)
        cases = [
            Case(way, functools.partial(_prepare_layer, way, side, batch_size), {"votes": way})
            for way in WAYS
        ]
        measure(cases, group["rows"], EFFORT, f"memory: votes and routing, {side}x{side}")
    _compile_steps(steps)


def lower_capsules(side: int) -> int:
    """Return the number of the full network's primary capsules for images of a given side."""
    return TYPES * output_size(output_size(side, 9, 1), 9, 2) ** 2


def _layer(way: str, side: int, batch_size: int):
    """Return a layer's gradient, the facts of its compiled program and its arguments' shapes."""
    layer = DenseCaps(CLASSES, UPPER_POSE, DynamicRouting(ROUNDS), compute=Compute(votes=way))
    u = jax.ShapeDtypeStruct((batch_size, lower_capsules(side), LOWER_POSE), jnp.float32)

    def of_poses(function, *arguments):
        *others, u = arguments
        return function(*others, Capsules(u, safe_norm(u)))

    params = jax.eval_shape(functools.partial(of_poses, layer.init), jax.random.key(0), u)

    def scalar(params, u):
        above, _ = of_poses(layer.apply, params, u)
        return jnp.sum(jnp.square(above.poses))

    gradient = jax.grad(scalar, argnums=(0, 1))
    _, facts = jax_cases.compile_with_facts(jax.jit(gradient), (params, u))
    return gradient, facts, (params, u)


def _prepare_layer(way: str, side: int, batch_size: int) -> Prepared:
    gradient, facts, shapes = _layer(way, side, batch_size)
    rng = np.random.default_rng(0)
    arguments = jax.tree.map(
        lambda x: jax.device_put(0.1 * rng.standard_normal(x.shape, np.float32)), shapes
    )

    def descend(_, arguments):
        return jax.tree.map(lambda x, dx: x - 1e-6 * dx, arguments, gradient(*arguments))

    # Several times in one program, as in training: on a CPU, a program that starts waits for the
    # system to clear its memory.
    program = jax.jit(lambda count, x: lax.fori_loop(0, count, descend, x), donate_argnums=1)
    compiled = program.lower(np.int32(1), shapes).compile()

    def run(count: int) -> None:
        nonlocal arguments
        arguments = jax.block_until_ready(compiled(np.int32(count), arguments))

    return Prepared(run, first_call(run), facts)


def _compile_steps(steps: list[dict[str, Any]]) -> None:
    """Record what whole training steps of batch 128 need, as their compiled programs report."""
    forms = {"plain": rows.PLAIN, "fast": rows.FAST}
    with Calls("memory: training steps", len(SIDES) * len(forms)) as progress:
        for side in SIDES:
            for form, compute in forms.items():
                progress.start(f"compiling {form}, {side}x{side}")
                config = jax_cases.bench_config("paper", {"dtype": "float32", **compute})
                shape, count = (side, side, 1), config.train.batch_size
                images = jax.ShapeDtypeStruct((count, *shape), jnp.uint8)
                labels = jax.ShapeDtypeStruct((count,), jnp.int32)
                built = build(config, shape, CLASSES, count)
                _, facts = jax_cases.compile_training(config, built, images, labels)
                steps.append({"side": side, "form": form, "batch_size": count, **facts})
                progress.advance(1)


def markdown(section: dict[str, Any]) -> str:
    """Format two tables: the layer, and whole training steps."""
    parts = []
    if section.get("layers"):
        header = [
            "votes and routing",
            "lower capsules",
            "batch",
            *[f"{way}, s" for way in WAYS],
            *[f"{way}, GB" for way in WAYS],
            "time, recomputed / held",
            "memory, held / recomputed",
        ]
        lines = [_layer_line(group) for group in section["layers"]]
        parts += [
            table(header, lines),
            "Forward, and the gradients with respect to u and W: time of many in one program, and "
            "what the program of one needs for temporary arrays.",
            *others_line(row for group in section["layers"] for row in group["rows"]),
        ]
    if section.get("steps"):
        header = ["training step, batch 128", "plain, GB", "fast, GB", "plain / fast"]
        parts += [table(header, _step_lines(section["steps"])), "Compiled, not run."]
    return "\n\n".join(parts)


def _layer_line(group: dict[str, Any]) -> list[str]:
    by_way = {row["votes"]: row for row in group["rows"]}
    held, recomputed = (by_way.get(way, {}) for way in WAYS)
    sizes = [row.get("temporary_bytes") for row in (held, recomputed)]
    return [
        f"{group['side']}x{group['side']}",
        number(group["lower"]),
        number(group["batch_size"]),
        number(median(held)),
        number(median(recomputed)),
        *[gigabytes(size) for size in sizes],
        number(ratio(median(recomputed), median(held))),
        number(ratio(*sizes)),
    ]


def _step_lines(steps: list[dict[str, Any]]) -> list[list[str]]:
    lines = []
    for side in dict.fromkeys(step["side"] for step in steps):
        sizes = {step["form"]: step.get("memory_bytes") for step in steps if step["side"] == side}
        plain, fast = sizes.get("plain"), sizes.get("fast")
        shown = [gigabytes(plain), gigabytes(fast), number(ratio(plain, fast))]
        lines.append([f"{side}x{side}", *shown])
    return lines
