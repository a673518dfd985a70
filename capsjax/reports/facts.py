"""What was run, on what, for how long, and which trials have no result."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from capsjax.reports import wording
from capsjax.reports.analysis import Analysis
from capsjax.reports.index import Sweep, Trial

# How a trial ended, or why it has not, in the words of the report.
STATUS = {"non_finite": "stopped at a loss that is not finite"}


def facts(sweep: Sweep, analysis: Analysis) -> dict[str, str]:
    """Return what was run, on what, for how long; facts that the file lacks are left out."""
    command = sweep.fields.get("command")
    lines = {
        "Sweep": _size(sweep, analysis),
        "Command": command and f"`{command}`",
        "Training": _training(sweep),
        "Hardware": _hardware(sweep.fields),
        "Software": _software(sweep.fields),
        "Time": _time(sweep),
    }
    return {name: fact for name, fact in lines.items() if fact}


def epochs(sweep: Sweep) -> str:
    """Format the number of epochs as "2 epochs", or list all different numbers."""
    values = sweep.values_of("epochs")
    if len(values) == 1:
        return wording.plural(values[0], "epoch")
    return f"{', '.join(map(str, values)) or 'unknown'} epochs"


def without_result(sweep: Sweep, part: str) -> str:
    """List the trials that ended without a result and why, and those that have not ended."""
    trials = [trial for trial in sweep.trials if trial.result(part) is None]
    ended = [trial for trial in trials if trial.status not in ("running", "waiting")]
    parts = []
    if ended:
        lines = [f"- `{t.id}`: {_status(t)}{_because(t)}" for t in ended]
        parts.append("\n".join(lines))
    for status in ("running", "waiting"):
        names = [f"`{trial.id}`" for trial in trials if trial.status == status]
        if names:
            parts.append(f"{status.capitalize()}: {'; '.join(names)}.")
    if unlisted := sweep.planned - len(sweep.trials):
        parts.append(f"Not listed in index.json: {wording.plural(unlisted, 'trial')}.")
    return "\n\n".join(parts)


def _size(sweep: Sweep, analysis: Analysis) -> str:
    levels = " x ".join(str(len(levels)) for levels in sweep.factors.values())
    finished = f"{analysis.num_results} of {sweep.planned} trials have a result"
    missing = sweep.planned - analysis.num_results
    if missing:
        finished = (
            f"**{finished}, {missing} are missing** ({_missing(sweep, analysis.part)}): the "
            "numbers are those of the others alone"
        )
    seeds = wording.plural(sweep.num_seeds, "seed")
    points = f"{levels} points"
    if len(sweep.points) < math.prod(map(len, sweep.factors.values())):
        points = f"{len(sweep.points)} of {points} (the others are no trials of their own)"
    return f"`{sweep.name}`, {points}, {seeds} each; {finished}"


def _training(sweep: Sweep) -> str:
    tested = ", ".join(map(str, sweep.values_of("selection"))) or "unknown"
    line = f"{epochs(sweep)}; parameters tested: {tested}"
    if sizes := sweep.values_of("num_parameters"):
        bounds = dict.fromkeys((min(sizes), max(sizes)))
        line += f"; {' to '.join(f'{size:,}' for size in bounds)} parameters"
    return line


def _hardware(fields: Mapping[str, Any]) -> str:
    parts = [fields.get("device"), fields.get("processor")]
    if fields.get("cpu_count"):
        parts.append(wording.plural(fields["cpu_count"], "core"))
    return ", ".join(str(part) for part in parts if part)


def _software(fields: Mapping[str, Any]) -> str:
    parts = [f"{name} {version}" for name, version in (fields.get("versions") or {}).items()]
    if fields.get("commit"):
        parts.insert(0, f"commit {fields['commit']}")
    return ", ".join(parts)


def _time(sweep: Sweep) -> str:
    trained = [trial.train_seconds for trial in sweep.trials if trial.train_seconds is not None]
    line = (
        f"{wording.duration(sum(trained))} of training, summed over "
        f"{wording.plural(len(trained), 'trial')}"
    )
    if sweep.fields.get("seconds") is None:
        return line
    return f"{wording.duration(sweep.fields['seconds'])} for the sweep, {line}"


def _missing(sweep: Sweep, part: str) -> str:
    counts = Counter(_status(t) for t in sweep.trials if t.result(part) is None)
    counts["not listed"] = sweep.planned - len(sweep.trials)
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count)


def _status(trial: Trial) -> str:
    if trial.status == "finished":  # but without a result, or it would not be listed
        return "finished without a result"
    return STATUS.get(trial.status, trial.status)


def _because(trial: Trial) -> str:
    message = " ".join(trial.message.split())
    return f": {message}" if message else ", without a message"
