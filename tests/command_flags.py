"""The flags of a command, parsed as its command line is, and seen by that command alone."""

import functools
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from absl import flags


def give(monkeypatch, command: ModuleType, *arguments: str) -> None:
    """Let a module of `capsjax.commands` have those arguments, for one test."""
    values = flags.FlagValues()
    kinds = [name for name in dir(flags) if name.startswith("DEFINE_")]
    defined = {kind: functools.partial(getattr(flags, kind), flag_values=values) for kind in kinds}
    monkeypatch.setattr(command, "flags", SimpleNamespace(**defined))
    command.define_flags()
    monkeypatch.setattr(command, "FLAGS", values)
    values(["capsjax", *arguments])


def of_trained_run(workdir: Path, **changed: Any) -> SimpleNamespace:
    """Return the flags of a command for the run in a folder: its defaults, but for the changed."""
    common = {"checkpoint": "selected", "data": "", "data_dir": "", "data_file": ""}
    evaluated = {"other_data": False, "part": "test", "mistakes": 10, "crops": None}
    return SimpleNamespace(workdir=str(workdir), **{**common, **evaluated, **changed})
