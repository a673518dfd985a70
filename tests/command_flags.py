"""The flags of a command, parsed as its command line is, and seen by that command alone."""

import functools
from types import ModuleType, SimpleNamespace

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
