"""What the files of a run or a sweep record of it: settings, data, machines and commands."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from capsjax.reports import wording
from capsjax.reports.page.html import Markup, Section, details, element, facts, join, table
from capsjax.runs.starts import typed_words
from capsjax.runs.workdir import flatten


def settings(fields: Mapping[str, Any]) -> Section:
    """List every field of a config."""
    rows = [(name, _value(value)) for name, value in flatten(fields).items()]
    listed = element("div", table(("field", "value"), rows), class_="texts")
    return Section("settings", "Settings", details(f"{len(rows)} fields of the config", listed))


def data(parts: Mapping[str, Mapping[str, Any]], source: Mapping[str, Any]) -> Section:
    """List the parts of the data by their fingerprints.

    Args:
      parts: see `capsjax.runs.data_record`.
      source: the section `data` of the config.
    """
    where = ", ".join(str(source[name]) for name in ("file", "dir") if source.get(name))
    first = facts({"Data set": source["name"], "Place": where})
    if not parts:
        text = "No fingerprints of the data are recorded; earlier versions made none."
        return Section("data", "Data", join([first, element("p", text)]))
    header = ("part", "examples", "classes", "SHA-256 of images", "SHA-256 of labels")
    rows = [
        (
            part,
            f"{fields['number']:,}",
            str(fields["classes"]),
            str(fields.get("images") or f"recipe {fields.get('recipe', '-')}"),
            str(fields.get("labels", "-")),
        )
        for part, fields in parts.items()
    ]
    names = next((each["class names"] for each in parts.values() if "class names" in each), ())
    listed = element("div", table(header, rows), class_="texts")
    return Section("data", "Data", join([first, facts({"Classes": ", ".join(names)}), listed]))


def environment(starts: Sequence[Mapping[str, Any]]) -> Section:
    """Describe the machine and the software of each start, the last one first."""
    parts = [
        details(_start(number, start), _environment(start), is_open=number == len(starts))
        for number, start in reversed(list(enumerate(starts, 1)))
    ]
    return Section("environment", "Machine and software", join(parts))


def commands(starts: Sequence[Mapping[str, Any]], program: str, others: Sequence[str]) -> Section:
    """List the commands that made a run or a sweep, and those that do more with it.

    Args:
      starts: see `capsjax.runs.starts.read_starts`.
      program: "train" or "sweep".
      others: further commands.
    """
    typed = (shlex.join(typed_words(start["command"], program)) for start in starts)
    made = list(dict.fromkeys(typed))
    blocks = [element("pre", element("code", each)) for each in made]
    more = [element("h3", "More of it"), *(element("pre", element("code", x)) for x in others)]
    return Section("commands", "Commands", join([*blocks, *more]))


def hardware(start: Mapping[str, Any]) -> str:
    """Name the machine of a start."""
    if start["backend"] != "cpu":
        return f"{start.get('device_count', 1)} x {start.get('device', start['backend'])}"
    cores = wording.plural(start["cpu_count"], "core") if start.get("cpu_count") else ""
    return ", ".join(filter(None, [str(start.get("processor") or "CPU"), cores]))


def _start(number: int, start: Mapping[str, Any]) -> str:
    return f"Start {number}: {start.get('time', 'at an unknown time')}, {hardware(start)}"


def _environment(start: Mapping[str, Any]) -> Markup:
    packages = [f"{name} {version}" for name, version in (start.get("packages") or {}).items()]
    forms = [f"{name} {form}" for name, form in (start.get("forms") or {}).items()]
    return facts(
        {
            "Device": f"{start.get('device_count', 1)} x {start.get('device', '?')}",
            "Backend": start["backend"],
            "Processor": str(start.get("processor") or ""),
            "Platform": str(start.get("platform") or ""),
            "Python": str(start.get("python") or ""),
            "Packages": ", ".join(packages),
            "Commit": str(start.get("commit") or ""),
            "Forms that suit it": ", ".join(forms),
        }
    )


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_value, value))})"
    return str(value)
