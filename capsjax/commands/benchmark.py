"""Measure how fast capsjax is, beside PyTorch and beside its own plain forms.

    python experiments/benchmark.py --quick
    python experiments/benchmark.py --json=benchmark.json --figures=figures
    python experiments/benchmark.py --sections=compare,memory
    python experiments/benchmark.py --sections=profile --row="capsjax bfloat16"

Sections: compare (training and inference, capsjax and PyTorch), profile (the operations of a
training step by time), memory (votes held and recomputed, whole steps), scaling (batch size,
routing rounds, image size), population (eight trials in one program), startup (of train.py),
evaluation (10,000 images) and, on a GPU, epoch. --quick measures training alone: on a CPU the
section compare, on a GPU the full network in compare, profile, epoch and evaluation. PyTorch is
measured where it is installed: pip install -e ".[bench]". Ctrl-C, or a signal to end, ends with
what has been measured so far; --json has all sections that were measured, even if it is killed.
"""

import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

# Read when JAX starts, which otherwise takes most of a GPU's memory; PyTorch needs some.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
from absl import flags

from capsjax.benchmarks import compare, evaluation, memory, population, profiling, scaling, startup
from capsjax.benchmarks.jax_cases import device_name
from capsjax.benchmarks.settings import Settings
from capsjax.benchmarks.timing import first_line, median
from capsjax.registry import look_up
from capsjax.runs.environment import describe_environment, machine_memory
from capsjax.runs.files import write_json
from capsjax.runs.interrupt import signals_to_handle

FLAGS = flags.FLAGS


class Section(NamedTuple):
    """A section of the benchmark.

    Attributes:
      run: measures, and fills a dict along the way.
      markdown: formats the dict as Markdown.
    """

    run: Callable[[dict[str, Any], Settings], None]
    markdown: Callable[[dict[str, Any]], str]


SECTIONS = {
    "compare": Section(compare.run, compare.markdown),
    "profile": Section(profiling.run, profiling.markdown),
    "memory": Section(memory.run, memory.markdown),
    "scaling": Section(scaling.run, scaling.markdown),
    "population": Section(population.run, population.markdown),
    "startup": Section(startup.run, startup.markdown),
    "evaluation": Section(evaluation.run, evaluation.markdown),
    "epoch": Section(evaluation.run_epoch, evaluation.markdown),
}
# What --quick measures on a GPU, the most informative first.
QUICK_ON_A_GPU = ["compare", "profile", "epoch", "evaluation"]


def define_flags() -> None:
    flags.DEFINE_bool(
        "quick",
        False,
        "A minute and a half, four on a GPU: training, fewer forms and repeats.",
    )
    flags.DEFINE_string("json", "", "File for all numbers; it must not exist yet.")
    flags.DEFINE_string("figures", "", "Folder for the figures of the section scaling.")
    flags.DEFINE_list("tasks", [], "Of compare: training, inference; both, but with --quick.")
    flags.DEFINE_list("networks", [], "Of compare: full, small; both by default.")
    flags.DEFINE_multi_string(
        "row", [], "A row of capsjax in compare that profile traces; repeatable."
    )
    flags.DEFINE_list("sections", [], f"Which of {', '.join(SECTIONS)}; all by default.")


def main() -> None:
    known = Settings._field_defaults
    for task in FLAGS.tasks:
        look_up(dict.fromkeys(known["tasks"]), task, "task")
    for network in FLAGS.networks:
        look_up(dict.fromkeys(known["networks"]), network, "network")
    profiling.profiled_rows(Settings(device_name(), FLAGS.quick, 0, rows=tuple(FLAGS.row)))
    names = chosen_sections(FLAGS.sections, FLAGS.quick, device_name())
    if FLAGS.figures and "scaling" not in names:
        raise ValueError("--figures draws the section 'scaling', which is not to be measured")
    json_file = Path(FLAGS.json).expanduser() if FLAGS.json else None
    figures = Path(FLAGS.figures).expanduser() if FLAGS.figures else None
    # Checked before an hour of measurements, not after it.
    if json_file is not None:
        if json_file.exists():
            raise ValueError(f"--json={json_file} exists already: name another file")
        json_file.parent.mkdir(parents=True, exist_ok=True)
    if figures is not None:
        figures.mkdir(parents=True, exist_ok=True)

    # They end the measurements, not the program.
    for number in signals_to_handle():
        signal.signal(number, signal.default_int_handler)

    def save(results: dict[str, Any]) -> None:
        if json_file is not None:
            write_json(json_file, results)

    asked = names, FLAGS.quick, FLAGS.tasks, FLAGS.networks, FLAGS.row
    results = measure_sections(*asked, save=save)
    print(markdown(results))
    if json_file is not None:
        print(f"\nwrote {json_file}")
    if figures is not None:
        drawn = scaling.figures(results["sections"].get("scaling", {}), hardware_line(results))
        for name, figure in drawn.items():
            figure.savefig(figures / f"{name}.png", dpi=150)
            print(f"wrote {figures / name}.png")
    if results["interrupted"]:
        raise KeyboardInterrupt
    failed = [name for name, section in results["sections"].items() if "error" in section]
    if failed:
        raise ValueError(f"not all was measured: {', '.join(failed)}")


def chosen_sections(wanted: list[str], quick: bool, device: str) -> list[str]:
    """Choose the sections to measure: those asked for, else all that suit the device.

    Raises:
      ValueError: for an unknown one (the nearest is named), or one that the device cannot do.
    """
    for name in wanted:
        look_up(SECTIONS, name, "section")
    if "epoch" in wanted and device != "cuda":
        raise ValueError(f"the section 'epoch' is for a GPU, and JAX's device here is {device}")
    if wanted:
        return list(dict.fromkeys(wanted))
    if quick:
        return list(QUICK_ON_A_GPU) if device == "cuda" else ["compare"]
    return [name for name in SECTIONS if name != "epoch" or device == "cuda"]


def measure_sections(
    names: list[str],
    quick: bool,
    tasks: Sequence[str] = (),
    networks: Sequence[str] = (),
    rows: Sequence[str] = (),
    save: Callable[[dict[str, Any]], None] = lambda results: None,
) -> dict[str, Any]:
    """Measure until all is done or Ctrl-C; a section that fails does not stop the others.

    The results are saved after each section: of a benchmark that is killed, "interrupted" is true.

    Returns:
      What the JSON file holds: "hardware", "versions", "date", "commit", "command", "interrupted"
      and "sections", each with its rows and their raw seconds.
    """
    environment = describe_environment()
    hardware = {key: environment[key] for key in HARDWARE}
    limit = machine_memory()
    hardware["memory_bytes"] = limit
    if device_name() == "cuda":
        stats = jax.devices()[0].memory_stats() or {}
        limit = hardware["device_memory_bytes"] = stats.get("bytes_limit", limit)
    results = {
        "hardware": hardware,
        "versions": {"python": environment["python"], **environment["packages"], **_torch()},
        "date": environment["time"],
        "commit": environment["commit"],
        "command": shlex.join(sys.argv),
        "interrupted": True,
        "sections": {},
    }
    settings = make_settings(device_name(), quick, limit, tasks, networks, rows)
    try:
        for name in names:
            section = results["sections"][name] = {}
            try:
                SECTIONS[name].run(section, settings)
            except Exception as error:
                traceback.print_exc()
                section["error"] = first_line(error)
            save(results)
        results["interrupted"] = False
    except KeyboardInterrupt:
        pass
    save(results)
    return results


def make_settings(
    device: str,
    quick: bool,
    memory_bytes: int,
    tasks: Sequence[str] = (),
    networks: Sequence[str] = (),
    rows: Sequence[str] = (),
) -> Settings:
    """Make the settings of all sections from what the user asked for."""
    settings = Settings(device, quick, memory_bytes, rows=tuple(rows))
    if quick or tasks:
        settings = settings._replace(tasks=tuple(tasks) or ("training",))
    if networks:
        return settings._replace(networks=tuple(networks))
    # PyTorch's compiler takes long for every network.
    return settings._replace(networks=("full",)) if quick and device == "cuda" else settings


HARDWARE = ("platform", "processor", "cpu_count", "device", "device_count", "backend")


def _torch() -> dict[str, str]:
    try:
        return {"torch": version("torch")}
    except PackageNotFoundError:
        return {}


def hardware_line(results: dict[str, Any]) -> str:
    """Describe the machine in one line."""
    hardware = results["hardware"]
    parts = [f"{hardware['processor']}, {hardware['cpu_count']} cores"]
    if hardware["backend"] != "cpu":
        parts.insert(0, hardware["device"])
    return ", ".join([*parts, f"{hardware['memory_bytes'] / 1e9:.0f} GB"])


def markdown(results: dict[str, Any]) -> str:
    """Format the report: command, machine, versions, and the tables of all sections."""
    known = results["versions"]
    versions = [f"{name} {known[name]}" for name in ("jax", "flax", "torch") if name in known]
    parts = [
        f"`{results['command']}`",
        f"{hardware_line(results)}; Python {known['python']}, {', '.join(versions)}; "
        f"{results['date']}",
    ]
    for name, section in results["sections"].items():
        parts += [f"## {name}", SECTIONS[name].markdown(section)]
        if "error" in section:
            parts.append(f"Not all was measured: {section['error']}")
    parts += routing_share(results["sections"])
    if results["interrupted"]:
        parts.append("Interrupted: what is missing was not measured.")
    return "\n\n".join(parts)


def routing_share(sections: dict[str, Any]) -> list[str]:
    """Report the share of votes and routing in a training step, if both were measured."""
    step = memory_layer = None
    for group in sections.get("compare", {}).get("groups", []):
        if (group["network"], group["task"]) == ("full", "training"):
            step = compare.best_row(group, "capsjax", "float32")
            batch_size = group["batch_size"]
    for group in sections.get("memory", {}).get("layers", []):
        if step is not None and (group["side"], group["batch_size"]) == (28, batch_size):
            memory_layer = min(group["rows"], key=median, default=None)
    if median(step) is None or median(memory_layer) is None:
        return []
    share = median(memory_layer) / median(step)
    return [f"Votes and routing alone take {100 * share:.0f} % of a float32 training step."]
