"""Section "scaling": images a second against batch size, routing rounds and image size."""

import copy
import functools
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, NullLocator

from capsjax.benchmarks import jax_cases, rows
from capsjax.benchmarks.compare import torch_here
from capsjax.benchmarks.machine import others_line
from capsjax.benchmarks.settings import Settings
from capsjax.benchmarks.timing import Case, Effort, measure, median
from capsjax.plots.figures import INK
from capsjax.reports.tables import number, ratio, table

# Share of the machine's memory for the temporary arrays of a step.
PART = 0.5


class Sweep(NamedTuple):
    """A series of measurements in which one number varies.

    Attributes:
      title, axis_label: texts for people.
      values: values of what varies.
      field: its field of the config, or "side" for the images.
      batch_size: batch size of a step; None where it is what varies.
      torch: whether PyTorch is measured too.
    """

    title: str
    axis_label: str
    values: tuple[int, ...]
    field: str
    batch_size: int | None
    torch: bool


SWEEPS = {
    "batch": Sweep(
        "Training, against batch size",
        "images in a batch",
        tuple(2**power for power in range(10)),
        "train.batch_size",
        None,
        True,
    ),
    "rounds": Sweep(
        "Training, against routing rounds",
        "rounds of routing",
        (1, 2, 3, 4, 5),
        "model.routing.dynamic.num_iterations",
        128,
        True,
    ),
    "size": Sweep(
        "Training, against image size",
        "rows and columns of an image",
        (28, 36, 44, 52, 64),
        "side",
        32,
        False,
    ),
}
COMPUTES = {"capsjax, fast": rows.FAST, "capsjax, plain": rows.PLAIN}
TORCH_FORM = "PyTorch, default layout"
COLORS = {"capsjax, fast": "#2166ac", "capsjax, plain": "#92c5de", TORCH_FORM: "#d6604d"}


def run(section: dict[str, Any], settings: Settings) -> None:
    """Measure, filling the section on the way, so that an interruption loses nothing."""
    section["notes"] = []
    torch_cases = None
    if not settings.quick:
        torch_cases = torch_here(section["notes"], settings.device)
    section["sweeps"] = {}
    for name, sweep in SWEEPS.items():
        points = section["sweeps"][name] = []
        cases = _capsjax_cases(sweep, settings)
        if torch_cases is not None and sweep.torch:
            cases += _torch_cases(sweep, torch_cases, settings.device)
        effort = Effort(2, 0.5, warmups=0) if settings.quick else Effort(3, 1.0)
        measure(cases, points, effort, f"scaling: {name}")


def _capsjax_cases(sweep: Sweep, settings: Settings) -> list[Case]:
    states, cases = jax_cases.States(), []
    for value in sweep.values:
        for form, compute in COMPUTES.items():
            config, image_shape = _config(sweep, value, {"dtype": "float32", **compute})
            prepare = functools.partial(
                jax_cases.prepare_training,
                config,
                image_shape,
                states,
                most_bytes=PART * settings.memory_bytes,
            )
            cases.append(_case(form, sweep, value, config, prepare))
    return cases


def _torch_cases(sweep: Sweep, torch_cases, device: str) -> list[Case]:
    row = rows.TorchRow("float32")
    cases, network = [], None
    for value in sweep.values:
        config, image_shape = _config(sweep, value, {})
        network = network or torch_cases.make_network(config, image_shape, row, device)
        # The same parameters in every case; only the number of rounds differs.
        view = copy.copy(network)
        view.num_iterations = config.model.routing.dynamic.num_iterations
        prepare = functools.partial(
            torch_cases.prepare_training, config, image_shape, row, device, view
        )
        cases.append(_case(TORCH_FORM, sweep, value, config, prepare))
    return cases


def _case(form: str, sweep: Sweep, value: int, config, prepare) -> Case:
    facts = {"form": form, "value": value, "batch_size": config.train.batch_size}
    return Case(f"{form}, {value} {sweep.axis_label}", prepare, facts)


def _config(sweep: Sweep, value: int, compute: dict[str, str]):
    """Return the config and the image shape of a point."""
    fields = {} if sweep.batch_size is None else {"train.batch_size": sweep.batch_size}
    if sweep.field != "side":
        fields[sweep.field] = value
    side = value if sweep.field == "side" else 28
    return jax_cases.bench_config("paper", compute, fields), (side, side, 1)


def markdown(section: dict[str, Any]) -> str:
    """Format a table for each sweep."""
    parts = []
    for name, points in section.get("sweeps", {}).items():
        sweep = SWEEPS[name]
        forms = list(dict.fromkeys(point["form"] for point in points))
        by_place = {(point["value"], point["form"]): point for point in points}
        lines = [
            [str(value), *[number(images_per_second(by_place.get((value, f)))) for f in forms]]
            for value in dict.fromkeys(point["value"] for point in points)
        ]
        header = [f"{sweep.axis_label}{_batch_of(sweep)}", *[f"{f}, images/s" for f in forms]]
        skipped = [f"{point['name']}: {point['note']}." for point in points if "note" in point]
        parts += [table(header, lines), *skipped, *others_line(points)]
    parts += section.get("notes", [])
    parts.append("Training steps of the full network in float32, medians.")
    return "\n\n".join(parts)


def images_per_second(point: dict[str, Any] | None) -> float | None:
    """Return the median rate of a point, None if it was not measured."""
    return ratio(None if point is None else point["batch_size"], median(point))


def figures(section: dict[str, Any], hardware: str) -> dict[str, Figure]:
    """Draw a figure for each sweep, by the name of its file."""
    return {
        f"scaling-{name}": draw(SWEEPS[name], points, hardware)
        for name, points in section.get("sweeps", {}).items()
        if any(point["seconds"] for point in points)
    }


def draw(sweep: Sweep, points: list[dict[str, Any]], hardware: str) -> Figure:
    """Draw images a second of each form over what varies: medians, and slowest to fastest."""
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    title = f"{sweep.title}{_batch_of(sweep)}: the full network in float32"
    figure.suptitle(f"{title}\n{hardware}", color=INK, fontsize=11)
    axis = figure.subplots()
    for form, color in COLORS.items():
        measured = [each for each in points if each["form"] == form and each["seconds"]]
        if measured:
            values = [each["value"] for each in measured]
            rates = np.array([images_per_second(each) for each in measured])
            axis.plot(values, rates, color=color, label=form, marker="o", ms=4)
            slowest, fastest = (
                [each["batch_size"] / of(each["seconds"]) for each in measured] for of in (max, min)
            )
            axis.fill_between(values, slowest, fastest, color=color, alpha=0.15, lw=0)
    if sweep.field == "train.batch_size":
        axis.set_xscale("log", base=2)
    if sweep.field != "model.routing.dynamic.num_iterations":
        axis.set_yscale("log")
        for ticks in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            ticks(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.8)))
    else:
        axis.set_ylim(bottom=0)
    axis.set_xticks(sweep.values, labels=[str(value) for value in sweep.values])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel(sweep.axis_label)
    axis.set_ylabel("training, images per second")
    axis.grid(alpha=0.3, which="both")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return figure


def _batch_of(sweep: Sweep) -> str:
    return "" if sweep.batch_size is None else f", batch {sweep.batch_size}"
