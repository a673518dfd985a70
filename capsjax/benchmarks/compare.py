"""Section "compare": capsjax against PyTorch, in a training step and in inference."""

import functools
from typing import Any

from capsjax.benchmarks import jax_cases, rows
from capsjax.benchmarks.machine import others_line
from capsjax.benchmarks.operations import step_operations
from capsjax.benchmarks.settings import Settings
from capsjax.benchmarks.timing import Case, Effort, Skipped, measure, median
from capsjax.reports.tables import gigabytes, number, percent, ratio, seconds_range, table

IMAGE_SHAPE, BATCH_SIZE = (28, 28, 1), 128
NETWORKS = {"full": "paper", "small": "paper,small"}
PRECISIONS = ("float32", "tf32", "bfloat16")
TITLES = {"float32": "float32", "tf32": "TF32", "bfloat16": "bfloat16"}


def run(section: dict[str, Any], settings: Settings) -> None:
    """Measure, filling the section on the way, so that an interruption loses nothing."""
    section["notes"] = []
    torch_cases = torch_here(section["notes"], settings.device)
    effort = effort_for(settings)
    groups = section["groups"] = []
    for network in settings.networks:
        preset = NETWORKS[network]
        for task in settings.tasks:
            config = jax_cases.bench_config(preset, {})
            group = {
                "network": network,
                "task": task,
                "batch_size": BATCH_SIZE,
                "operations": step_operations(
                    config.model, IMAGE_SHAPE, jax_cases.NUM_CLASSES, BATCH_SIZE, task == "training"
                ),
                "rows": [],
            }
            groups.append(group)
            cases = products(settings.device, torch_cases)
            cases += _capsjax_cases(preset, task, settings)
            if torch_cases is not None:
                torch_cases.reset()
                cases += _torch_cases(torch_cases, preset, task, settings)
            measure(cases, group["rows"], effort, f"compare: {task}, {network} network")


def effort_for(settings: Settings) -> Effort:
    """Choose how long to measure.

    A call of train.py takes three seconds. The first step of a call is slower than the others, in
    both libraries, so no call has only one step. A GPU takes hundreds of steps in a second.
    """
    if settings.device == "cuda":
        return Effort(3, 0.5, 10) if settings.quick else Effort(5, 1.0, 10)
    return Effort(2, 0.5, 2, warmups=0) if settings.quick else Effort(5, 3.0, 2)


def torch_here(notes: list[str], device: str):
    """Return the module `torch_cases`; None, and a note, where PyTorch cannot be measured."""
    try:
        from capsjax.benchmarks import torch_cases

        torch_cases.check_device(device)
    except Skipped as reason:
        notes.append(str(reason))
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        notes.append(rows.INSTALL)
    else:
        return torch_cases
    return None


def products(device: str, torch_cases) -> list[Case]:
    """Make cases of matrix products, which show the rate that a machine can reach."""
    # On a GPU a small product would measure how fast it is launched.
    size = 8192 if device == "cuda" else 2048
    float32, tf32 = ("highest", "tensorfloat32") if device == "cuda" else (None, None)
    wanted = [("float32", "float32", float32), ("bfloat16", "bfloat16", None)]
    if device == "cuda":
        wanted.insert(1, ("tf32", "float32", tf32))
    facts = {"kind": "product", "operations": 2 * size**3}
    cases = [
        Case(
            f"JAX {TITLES[name]} product",
            functools.partial(jax_cases.prepare_product, size, dtype, exact),
            {**facts, "library": "JAX", "precision": name},
        )
        for name, dtype, exact in wanted
    ]
    if torch_cases is not None:
        cases += [
            Case(
                f"PyTorch {TITLES[name]} product",
                functools.partial(torch_cases.prepare_product, size, name, device),
                {**facts, "library": "PyTorch", "precision": name},
            )
            for name, _, _ in wanted
            if name != "bfloat16"
        ]
    return cases


def _capsjax_cases(preset: str, task: str, settings: Settings) -> list[Case]:
    states, cases = jax_cases.States(), []
    for row in rows.capsjax_rows(settings.device, settings.quick):
        config = jax_cases.bench_config(preset, row.compute, {"train.batch_size": BATCH_SIZE})
        if task == "training":
            prepare = functools.partial(jax_cases.prepare_training, states=states)
        else:
            prepare = functools.partial(jax_cases.prepare_inference, batch_size=BATCH_SIZE)
        prepare = functools.partial(prepare, config, IMAGE_SHAPE)
        facts = {"kind": "row", "library": "capsjax", "precision": row.precision}
        cases.append(Case(row.name, prepare, facts))
    return cases


def _torch_cases(torch_cases, preset: str, task: str, settings: Settings) -> list[Case]:
    config = jax_cases.bench_config(preset, {}, {"train.batch_size": BATCH_SIZE})
    cases = []
    for row in rows.torch_rows(settings.device, settings.quick):
        if task == "training":
            prepare = torch_cases.prepare_training
        else:
            prepare = functools.partial(torch_cases.prepare_inference, batch_size=BATCH_SIZE)
        prepare = functools.partial(prepare, config, IMAGE_SHAPE, row=row, device=settings.device)
        facts = {"kind": "row", "library": "PyTorch", "precision": row.precision}
        facts["layout"] = row.layout
        cases.append(Case(row.name, prepare, facts, may_fail=row.compiled))
    return cases


NOTE = """\
Medians; all rows of a table, and the products of matrices, were timed in turn. Operations are
nominal: those of the direct network, whatever is really done. "of product" compares with the
fastest product of matrices in the same run. capsjax takes uint8 images, shuffles and shifts them
and counts its metrics within the step; PyTorch gets its batch ready-made as float numbers, which
favours it. Memory: of capsjax what the compiled program says it needs, training images included;
of PyTorch the peak, where a GPU tells it."""


def markdown(section: dict[str, Any]) -> str:
    """Format the tables, each with its lines of ratios."""
    parts = [_group_markdown(group) for group in section.get("groups", [])]
    return "\n\n".join([*parts, *section.get("notes", []), NOTE])


def _group_markdown(group: dict[str, Any]) -> str:
    flop, batch = group["operations"], group["batch_size"]
    rates = {precision: _rate_of_products(group, precision) for precision in PRECISIONS}
    against = _reference_precision(group)
    reference = median(best_row(group, "PyTorch", against))
    lines = []
    for row in group["rows"]:
        seconds = median(row)
        product = row["kind"] == "product"
        rate = ratio(row["operations"] if product else flop, seconds)
        lines.append(
            [
                row["name"],
                "-" if product else number(ratio(batch, seconds)),
                number(seconds),
                seconds_range(row["seconds"]),
                number(ratio(rate, 1e9)),
                percent(rate, rates["float32"]),
                percent(rate, rates["bfloat16"]) if row["precision"] == "bfloat16" else "-",
                "-" if product else number(ratio(reference, seconds)),
                "-" if product else gigabytes(row.get("memory_bytes")),
                "-" if product else number(row.get("compile_seconds")),
            ]
        )
    header = [
        f"{group['task']}, {group['network']} network, batch {batch}",
        "images/s",
        "s",
        "min to max",
        "GFLOP/s",
        "of float32 product",
        "of bfloat16 product",
        f"x best PyTorch {TITLES[against]}",
        "memory, GB",
        "compilation, s",
    ]
    skipped = [f"{row['name']}: {row['note']}." for row in group["rows"] if "note" in row]
    said = [*skipped, *others_line(group["rows"]), *_ratio_lines(group, rates)]
    return "\n\n".join([table(header, lines), *said])


def best_row(group: dict[str, Any], library: str, precision: str) -> dict[str, Any] | None:
    """Return the fastest measured row of a library in a precision."""
    found = [
        row
        for row in group["rows"]
        if (row["kind"], row["library"], row["precision"]) == ("row", library, precision)
        and row["seconds"]
    ]
    return min(found, key=median, default=None)


def _reference_precision(group: dict[str, Any]) -> str:
    """Return the most exact precision that PyTorch was measured in; float32 without PyTorch."""
    measured = [each for each in PRECISIONS if best_row(group, "PyTorch", each) is not None]
    return measured[0] if measured else "float32"


def _rate_of_products(group: dict[str, Any], precision: str) -> float | None:
    """Return operations per second of the fastest product of matrices in a precision."""
    rates = [
        row["operations"] / median(row)
        for row in group["rows"]
        if row["kind"] == "product" and row["precision"] == precision and row["seconds"]
    ]
    return max(rates, default=None)


def _ratio_lines(group: dict[str, Any], rates: dict[str, float | None]) -> list[str]:
    """Summarize the table: a line for each precision of capsjax."""
    lines = []
    for precision in PRECISIONS:
        row = best_row(group, "capsjax", precision)
        if row is None:
            continue
        beside, shares = [], []
        # Against PyTorch in that precision, and in all that are more exact.
        for other in PRECISIONS[: PRECISIONS.index(precision) + 1]:
            best = best_row(group, "PyTorch", other)
            if best is not None:
                times = number(median(best) / median(row))
                name = f"{TITLES[other]}{' autocast' if other == 'bfloat16' else ''}"
                beside.append(f"{times} x the best PyTorch {name} ({best['layout']})")
            if rates[other]:
                share = percent(group["operations"] / median(row), rates[other])
                shares.append(f"{share} of the {TITLES[other]} matrix-product rate")
        said = "; ".join(", ".join(each) for each in (beside, shares) if each)
        lines.append(
            f"{group['task']}, {group['network']} network, {TITLES[precision]}: {said} "
            "(nominal operations)"
        )
    return lines
