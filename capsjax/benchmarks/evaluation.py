"""Sections "evaluation" and "epoch": whole passes over data in one call each."""

import functools
from typing import Any

from capsjax.benchmarks import jax_cases, rows
from capsjax.benchmarks.machine import others_line
from capsjax.benchmarks.settings import Settings
from capsjax.benchmarks.timing import Case, Effort, Prepared, measure, median
from capsjax.reports.tables import gigabytes, number, ratio, seconds_range, table

IMAGE_SHAPE, TEST_IMAGES = (28, 28, 1), 10_000
STEPS, BATCH_SIZE = 468, 128


def run(section: dict[str, Any], settings: Settings) -> None:
    """Evaluate as many images as MNIST has for testing."""
    what = f"evaluation of {TEST_IMAGES:,} images"
    section |= {"images": TEST_IMAGES, "what": what, "rows": []}
    cases = []
    small = settings.quick and settings.device == "cuda"
    measured = (rows.automatic_rows if small else rows.capsjax_rows)(settings.device)
    for row in measured:
        config = jax_cases.bench_config("paper", row.compute)
        prepare = functools.partial(jax_cases.prepare_evaluation, config, IMAGE_SHAPE, TEST_IMAGES)
        cases.append(Case(row.name, prepare))
    effort = Effort(2 if settings.quick else 3, 0.5, warmups=0)
    measure(cases, section["rows"], effort, "evaluation")


def run_epoch(section: dict[str, Any], settings: Settings) -> None:
    """Train on as many images as MNIST has, with augmentation, in bfloat16, on a GPU.

    Raises:
      ValueError: without a GPU, where it would take an hour.
    """
    if settings.device != "cuda":
        raise ValueError("the section 'epoch' is for a GPU")
    images = STEPS * BATCH_SIZE
    section |= {
        "images": images,
        "what": f"training, {STEPS} steps of {BATCH_SIZE} images",
        "rows": [],
    }
    row = rows.default_row("cuda")
    config = jax_cases.bench_config("paper", row.compute, {"train.batch_size": BATCH_SIZE})

    def prepare() -> Prepared:
        steps = jax_cases.prepare_training(config, IMAGE_SHAPE, jax_cases.States())
        # The work whose time is `once` is the whole epoch, in one call.
        whole = functools.partial(_epochs, steps.run)
        return Prepared(whole, steps.once * STEPS, steps.facts, most=1)

    effort = Effort(2, 0.5) if settings.quick else Effort(3, 1.0)
    measure([Case(row.name, prepare)], section["rows"], effort, "epoch")


def _epochs(run_steps, count: int) -> None:
    for _ in range(count):
        run_steps(STEPS)


def markdown(section: dict[str, Any]) -> str:
    """Format a table of seconds and rates."""
    lines = [
        [
            row["name"],
            number(median(row)),
            seconds_range(row["seconds"]),
            number(ratio(section["images"], median(row))),
            gigabytes(row.get("memory_bytes")),
            number(row.get("compile_seconds")),
        ]
        for row in section.get("rows", [])
    ]
    header = [section.get("what", "-"), "s", "min to max", "images/s", "memory, GB"]
    measured = table([*header, "compilation, s"], lines)
    return "\n\n".join([measured, *others_line(section.get("rows", []))])
