"""Looking a name up in a dict of names, with a helpful error."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


def suggest(name: str, names: Iterable[str]) -> str:
    """What to say after 'unknown name': the nearest name if there is one, and all names.

    >>> suggest("dinamic", ["dynamic", "uniform"])
    "did you mean 'dynamic'? (known: dynamic, uniform)"
    """
    names = sorted(names)
    nearest = difflib.get_close_matches(name, names, n=1)
    known = f"known: {', '.join(names)}"
    return f"did you mean {nearest[0]!r}? ({known})" if nearest else known


def look_up(table: Mapping[str, T], name: str, kind: str) -> T:
    """The entry of that name.

    Raises:
      ValueError: if there is none; it names the nearest entry.
    """
    if name not in table:
        raise ValueError(f"unknown {kind} {name!r}; {suggest(name, table)}")
    return table[name]
