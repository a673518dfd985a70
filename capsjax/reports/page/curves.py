"""Learning curves, as the lines that curves.js draws."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from capsjax.reports.page.html import Section, element, join

# Panels by the name of their numbers in metrics.jsonl, and whether their axis is logarithmic.
PANELS = {
    "loss": ("loss", True),
    "margin": ("margin loss", True),
    "reconstruction": ("reconstruction loss, unweighted", True),
    "accuracy": ("accuracy, %", False),
    "dice": ("Dice coefficient", False),
    "learning_rate": ("learning rate", True),
}
PERCENT = ("accuracy",)
SPLITS = ("train", "validation")


def panels(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the panels that have numbers, each with a line for training and validation.

    Args:
      records: lines of metrics.jsonl.
    """
    found = []
    for name, (label, is_log) in PANELS.items():
        lines = [{"name": split, "points": _points(records, split, name)} for split in SPLITS]
        lines = [line for line in lines if line["points"]]
        if lines:
            found.append({"label": label, "log": is_log, "lines": lines})
    return found


def curves(records: Sequence[Mapping[str, Any]]) -> Section | None:
    """Make the section that curves.js fills; None without numbers."""
    if not panels(records):
        return None
    keys = [element("span", f"● {split}", class_=f"key-{split}") for split in SPLITS]
    note = element("p", keys[0], " ", keys[1], class_="note")
    hint = "Values at any epoch: point at it, or choose a panel and use the arrow keys."
    parts = [note, element("div", id="panels"), element("p", hint, class_="note")]
    return Section("curves", "Learning curves", join(parts))


def _points(
    records: Sequence[Mapping[str, Any]], split: str, name: str
) -> list[tuple[float, float]]:
    scale = 100.0 if name in PERCENT else 1.0
    return [
        (_short(each["epoch"]), _short(scale * each[name]))
        for each in records
        if each["split"] == split and math.isfinite(each.get(name, math.nan))
    ]


def _short(value: float) -> float:
    return float(f"{value:.6g}")
