"""Section "profile": the operations of a training step by time, from JAX's profiler."""

import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from capsjax.benchmarks import jax_cases, rows
from capsjax.benchmarks.settings import Settings
from capsjax.registry import look_up
from capsjax.reports.tables import number, percent, table

IMAGE_SHAPE, BATCH_SIZE = (28, 28, 1), 128
STEPS, MOST_OPERATIONS = 20, 40
# Their time is that of the operations in their bodies, which may run in other threads.
CONTROL_FLOW = ("while", "conditional")


class Event(NamedTuple):
    """One run of an operation.

    Attributes:
      name: name of the operation, or of its kernel on a GPU.
      hlo: the operation in XLA's program, "" where the trace does not name it.
      start: start in nanoseconds.
      end: end in nanoseconds.
      own: nanoseconds between the two, less those of events inside this one.
    """

    name: str
    hlo: str
    start: float
    end: float
    own: float


class Instruction(NamedTuple):
    """An instruction of a compiled program.

    Attributes:
      opcode: such as "fusion" or "while".
      source: the operation in JAX that it comes from (its "op_name"); "" where XLA added it.
    """

    opcode: str
    source: str


def run(section: dict[str, Any], settings: Settings) -> None:
    """Trace training steps of the full network, for each row of the settings."""
    section["profiles"] = []
    for row in profiled_rows(settings):
        fields = {"train.batch_size": BATCH_SIZE}
        config = jax_cases.bench_config("paper", row.compute, fields)
        profile = profile_training(config, IMAGE_SHAPE)
        section["profiles"].append({"name": row.name, "batch_size": BATCH_SIZE, **profile})


def profiled_rows(settings: Settings) -> list[rows.CapsjaxRow]:
    """Return the rows of capsjax that the settings name, else the device's default.

    Raises:
      ValueError: for an unknown name; the message names the nearest one.
    """
    known = {row.name: row for row in rows.capsjax_rows(settings.device)}
    named = [look_up(known, name, "row of capsjax") for name in settings.rows]
    return named or [rows.default_row(settings.device)]


def profile_training(
    config: ConfigDict,
    image_shape: tuple[int, int, int],
    steps: int = STEPS,
) -> dict[str, Any]:
    """Profile the operations of training steps by time.

    Returns:
      "steps" (number traced), "step_microseconds" (of a step when nothing is traced) and what
      `summarize` returns.
    """
    prepared = jax_cases.prepare_training(config, image_shape, jax_cases.States(), in_order=True)
    steps = min(steps, prepared.most)
    started = time.perf_counter()
    prepared.run(steps)
    untraced = time.perf_counter() - started
    program = instructions(prepared.program())
    with tempfile.TemporaryDirectory() as folder:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # Python's calls would slow the steps down
        with jax.profiler.trace(folder, profiler_options=options):
            prepared.run(steps)
        events = device_events(read_trace(Path(folder)).planes)
    return {
        "steps": steps,
        "step_microseconds": 1e6 * untraced / steps,
        **summarize(events, program, steps),
    }


def read_trace(folder: Path) -> jax.profiler.ProfileData:
    """Read the newest trace in a folder of JAX's profiler."""
    files = sorted(folder.rglob("*.xplane.pb"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise OSError(f"JAX's profiler left no trace in {folder}")
    return jax.profiler.ProfileData.from_file(str(files[-1]))


def device_events(planes: Iterable[Any]) -> list[Event]:
    """Return the events of the device, each run of an operation once.

    The plane of a GPU has a line of kernels for each stream, and may have others that repeat them
    by operation, module or step: those are left out. A TPU has only the operations. A CPU has no
    plane of its own: there the events that name an operation of XLA's are taken from all threads
    of the host.

    Args:
      planes: the planes of `jax.profiler.ProfileData`.

    Raises:
      RuntimeError: if there are no events.
    """
    events, host = [], []
    for plane in planes:
        if not plane.name.startswith("/device:"):
            host += plane.lines if plane.name.startswith("/host:") else ()
            continue
        lines = list(plane.lines)
        streams = [line for line in lines if line.name.startswith("Stream")]
        for line in streams:
            # Events of a stream may overlap in a CUDA graph: none encloses another.
            events += _events(line)
        if not streams:
            for line in lines:
                events += _nested(_events(line)) if line.name == "XLA Ops" else ()
    if not events:
        for line in host:
            events += _nested([event for event in _events(line) if event.hlo])
    if not events:
        raise RuntimeError("the trace holds no operations of the device")
    return events


def _events(line: Any) -> list[Event]:
    found = []
    for event in line.events:
        hlo = str(dict(event.stats).get("hlo_op", ""))
        end = event.start_ns + event.duration_ns
        found.append(Event(event.name, hlo, event.start_ns, end, event.duration_ns))
    return found


def _nested(events: list[Event]) -> list[Event]:
    """Return the events of one thread, each without the time of those that it encloses."""
    events = sorted(events, key=lambda event: (event.start, -event.end))
    own, enclosing = [event.own for event in events], []
    for index, event in enumerate(events):
        while enclosing and events[enclosing[-1]].end <= event.start:
            enclosing.pop()
        if enclosing and event.end <= events[enclosing[-1]].end:
            own[enclosing[-1]] -= event.end - event.start
        enclosing.append(index)
    return [event._replace(own=max(0.0, each)) for event, each in zip(events, own, strict=True)]


# The name of an instruction, its type, which may be a tuple, and its opcode.
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = .*?\s([a-z][\w\-]*)\(")
SOURCE = re.compile(r'op_name="([^"]*)"')


def instructions(program: str) -> dict[str, Instruction]:
    """Return the instructions in the text of a compiled program, by name."""
    found = {}
    for line in program.splitlines():
        match = INSTRUCTION.match(line)
        if match:
            source = SOURCE.search(line)
            found[match[1]] = Instruction(match[2], source[1] if source else "")
    return found


def summarize(
    events: Sequence[Event], program: Mapping[str, Instruction], steps: int
) -> dict[str, Any]:
    """Summarize where the time of a step goes.

    Args:
      events: the events of `steps` steps.
      program: its instructions by name.
      steps: number of steps.

    Returns:
      For one step: "busy_microseconds" (in which at least one operation ran), "span_microseconds"
      (from the start of the first operation to the end of the last), "total_microseconds" (of all
      operations; more than the busy time where they run side by side), "count" of operations, and
      "operations", those that take most first: for each "name", "hlo", "source", "times",
      "microseconds" and "share" of the total.
    """
    by_kernel = {re.sub(r"\W", "_", name): name for name in program}
    grouped = defaultdict(list)
    for event in events:
        known = program.get(event.name)
        if known is not None and known.opcode in CONTROL_FLOW:
            continue
        # In a CUDA graph, "hlo_op" names the graph. Kernels that XLA made are named after their
        # operation, with characters that C does not allow replaced.
        hlo = event.name if known is not None else by_kernel.get(event.name, event.hlo)
        grouped[event.name, hlo].append(event)
    kept = [event for group in grouped.values() for event in group]
    total = sum(event.own for event in kept)
    operations = []
    for (name, hlo), group in grouped.items():
        own = sum(event.own for event in group)
        operations.append(
            {
                "name": name,
                "hlo": hlo,
                "source": program[hlo].source if hlo in program else "",
                "times": len(group) / steps,
                "microseconds": own / 1e3 / steps,
                "share": own / total if total else 0.0,
            }
        )
    operations.sort(key=lambda operation: -operation["microseconds"])
    span = max(event.end for event in kept) - min(event.start for event in kept) if kept else 0.0
    return {
        "busy_microseconds": _union(kept) / 1e3 / steps,
        "span_microseconds": span / 1e3 / steps,
        "total_microseconds": total / 1e3 / steps,
        "count": len(kept) / steps,
        "operations": operations[:MOST_OPERATIONS],
    }


def _union(events: Iterable[Event]) -> float:
    """Return the nanoseconds in which at least one of the events ran."""
    busy, until = 0.0, float("-inf")
    for start, end in sorted((event.start, event.end) for event in events):
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy


NOTE = """\
Times are traced, which may slow a step down. Operations that run side by side each count in full,
so shares are of their sum, not of the step."""


def markdown(section: dict[str, Any]) -> str:
    """Format a table for each profile."""
    profiles = section.get("profiles", [])
    return "\n\n".join([*[_profile_markdown(profile) for profile in profiles], NOTE])


def _profile_markdown(profile: dict[str, Any]) -> str:
    said = (
        f"{profile['name']}, batch {profile['batch_size']}: a step takes "
        f"{number(profile['step_microseconds'])} µs untraced. Traced ({profile['steps']} steps), "
        f"it spans {number(profile['span_microseconds'])} µs, of which the device is busy for "
        f"{number(profile['busy_microseconds'])}, with {number(profile['count'])} operations of "
        f"{number(profile['total_microseconds'])} µs together."
    )
    header = ["operation", "times a step", "µs a step", "share", "HLO", "source"]
    lines = [
        [
            _code(operation["name"]),
            number(operation["times"]),
            number(operation["microseconds"]),
            percent(operation["share"], 1.0),
            _code(operation["hlo"]) if operation["hlo"] != operation["name"] else "-",
            _code(_last_part(operation["source"])),
        ]
        for operation in profile["operations"]
    ]
    listed = sum(operation["share"] for operation in profile["operations"])
    rest = f"These {len(lines)} operations are {percent(listed, 1.0)} of all."
    return "\n\n".join([said, table(header, lines), rest])


def _code(text: str, most: int = 70) -> str:
    """Quote a name so that Markdown leaves it as it is, shortened in the middle if it is long."""
    if len(text) > most:
        text = f"{text[: most // 2]}...{text[3 - most // 2 :]}"
    return f"`{text.replace('|', '/').replace('`', '')}`" if text else "-"


def _last_part(source: str) -> str:
    """Return the name of an operation in JAX without the loop over steps that contains them all."""
    return source.split("/while/body/", 1)[-1]
