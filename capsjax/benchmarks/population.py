"""Section "population": eight small networks in one program, against eight separate runs."""

import functools
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from capsjax.benchmarks import jax_cases, rows
from capsjax.benchmarks.machine import others_line
from capsjax.benchmarks.settings import Settings
from capsjax.benchmarks.timing import Case, Effort, Prepared, first_call, measure, median
from capsjax.reports.tables import gigabytes, number, ratio, table
from capsjax.runs.workdir import flatten
from capsjax.training.compilation import compile_steps
from capsjax.training.population import MEMBER_FORMS, Population, Sizes, init_member, numbers_of

IMAGE_SHAPE, BATCH_SIZE, TRIALS, NETWORK = (28, 28, 1), 128, 8, "paper,small"
TITLES = {"single": "runs of their own", "map": "one program, in turn", "vmap": "one program, vmap"}


def run(section: dict[str, Any], settings: Settings) -> None:
    """Measure, filling the section on the way, so that an interruption loses nothing."""
    section |= {"trials": TRIALS, "batch_size": BATCH_SIZE, "rows": []}
    compute = rows.default_row(settings.device).compute
    config = jax_cases.bench_config(NETWORK, compute, {"train.batch_size": BATCH_SIZE})
    prepares = {
        # One stands for all eight: a separate run does not depend on the others.
        "single": functools.partial(
            jax_cases.prepare_training, config, IMAGE_SHAPE, jax_cases.States()
        ),
        **{
            form: functools.partial(prepare_trials, config, IMAGE_SHAPE, form)
            for form in MEMBER_FORMS
        },
    }
    cases = [Case(TITLES[form], prepares[form], {"form": form}) for form in TITLES]
    # Calls as long as those of sweep.py.
    effort = Effort(2, 0.5) if settings.quick else Effort(3, 10.0)
    measure(cases, section["rows"], effort, "population")


def prepare_trials(config: ConfigDict, image_shape: tuple[int, int, int], form: str) -> Prepared:
    """Prepare training steps of all trials, as experiments/sweep.py takes them."""
    batch_size = config.train.batch_size
    images, labels = jax_cases.random_data(image_shape, jax_cases.examples_for(batch_size))
    sizes = Sizes(image_shape, jax_cases.NUM_CLASSES, len(labels))
    members = [{**flatten(config.to_dict()), "seed": seed} for seed in range(TRIALS)]
    numbers = numbers_of(members)
    states = jax.jit(jax.vmap(init_member(config, sizes)))(numbers["seed"])
    program = jax.jit(Population(config, numbers, sizes, form).train_steps, donate_argnums=1)
    count = np.ones(TRIALS, np.int32)
    compiled, facts = jax_cases.compile_with_facts(
        program, (numbers, states, count, images, labels), compile_it=compile_steps
    )

    def run(count: int) -> None:
        nonlocal states
        # From the first step on: a call ends with the epoch.
        states = states._replace(step=np.zeros(TRIALS, np.int32))
        steps = np.full(TRIALS, count, np.int32)
        states, _ = jax.block_until_ready(compiled(numbers, states, steps, images, labels))
        if states.step.tolist() != steps.tolist():
            raise RuntimeError(f"steps {states.step.tolist()} instead of {count}")

    return Prepared(run, first_call(run), facts, most=len(labels) // batch_size)


def markdown(section: dict[str, Any]) -> str:
    """Format a table: time, compilation and memory of all trials together."""
    rows = section.get("rows", [])
    single = next((median(row) for row in rows if row["form"] == "single"), None)
    header = [
        f"{TRIALS} small networks, batch {BATCH_SIZE}",
        "s a step of all",
        "images/s of all",
        "x runs of their own",
        "compilation of all, s",
        "memory, GB",
    ]
    lines = []
    for row in rows:
        times = TRIALS if row["form"] == "single" else 1
        of_all, of_single = _times(median(row), times), _times(single, TRIALS)
        lines.append(
            [
                row["name"],
                number(of_all),
                number(ratio(TRIALS * BATCH_SIZE, of_all)),
                number(ratio(of_single, of_all)),
                number(_times(row.get("compile_seconds"), times)),
                gigabytes(row.get("memory_bytes")),
            ]
        )
    notes = (
        "Training steps; of the runs of their own one was measured, and time and compilation are "
        "eight times its."
    )
    return "\n\n".join([table(header, lines), notes, *others_line(rows)])


def _times(value: float | None, count: int) -> float | None:
    return None if value is None else count * value
