"""Lookup of names, with helpful errors, and components with settings."""

import dataclasses
import difflib
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class OwnFile(NamedTuple):
    """A file of a user's own that registered an entry.

    Attributes:
      path: the file.
      content: what was in it then.
    """

    path: Path
    content: bytes


# The file that registered each entry that is not the package's, by kind and name. None where there
# was none, as in a notebook.
OWN_FILES: dict[tuple[str, str], OwnFile | None] = {}

# Packages that pass the call of a file on: this one, and the checks of its array types.
NOT_OWN = ("capsjax", "jaxtyping", "beartype")


def suggest(name: str, names: Iterable[str]) -> str:
    """Suggest names in place of an unknown one: the nearest if there is one, and all names.

    >>> suggest("dinamic", ["dynamic", "uniform"])
    "did you mean 'dynamic'? (known: dynamic, uniform)"
    """
    names = sorted(names)
    nearest = difflib.get_close_matches(name, names, n=1)
    known = f"known: {', '.join(names)}"
    return f"did you mean {nearest[0]!r}? ({known})" if nearest else known


def look_up(table: Mapping[str, T], name: str, kind: str) -> T:
    """Return the entry of a given name.

    Raises:
      ValueError: if there is none; the message names the nearest entry.
    """
    if name not in table:
        raise ValueError(f"unknown {kind} {name!r}; {suggest(name, table)}")
    return table[name]


def register(table: dict[str, T], name: str, entry: T, kind: str) -> T:
    """Add an entry under a new name.

    Raises:
      ValueError: for a name that is no identifier, or that another entry has.

    >>> register({}, "mine", 1, "number")
    1
    """
    if not name.isidentifier():
        raise ValueError(f"the name of a {kind} is an identifier, not {name!r}")
    file = _calling_file()
    # A config file may be loaded several times, as modules of several names, and then defines its
    # classes several times.
    again = file is not None and _path_of(file) == _path_of(OWN_FILES.get((kind, name)))
    if name in table and not again and _origin(table[name]) != _origin(entry):
        raise ValueError(f"there is a {kind} {name!r} already: choose another name")
    table[name] = entry
    OWN_FILES[kind, name] = file
    return entry


def register_component(table: dict[str, Callable], name: str, entry: type, kind: str) -> type:
    """Add a component, a dataclass of its settings, under a new name.

    Raises:
      ValueError: as `register`, and for a class that is no dataclass.
    """
    settings_of(entry)
    return register(table, name, entry, kind)


def settings_of(component: Callable) -> dict[str, Any]:
    """Return the settings of a component, a dataclass, and their defaults.

    A field without a default is not a setting of a config, nor is one whose default is None.

    Raises:
      ValueError: if it is no dataclass.
    """
    if not dataclasses.is_dataclass(component):
        raise ValueError(f"{component} has no settings: make it a frozen dataclass")
    return {
        field.name: field.default
        for field in dataclasses.fields(component)
        if field.default is not dataclasses.MISSING and field.default is not None
    }


def make(table: Mapping[str, Callable], kind: str, name: str, settings: Mapping[str, Any]) -> Any:
    """Make the component of a given name with the given settings.

    Raises:
      ValueError: for an unknown name, or a setting that it does not have; the nearest is named.
    """
    component = look_up(table, name, kind)
    known = [field.name for field in dataclasses.fields(component)]
    for setting in settings:
        if setting not in known:
            raise ValueError(
                f"{name!r} {kind} has no setting {setting!r}; {suggest(setting, known)}"
            )
    return component(**settings)


def component_of(name: str) -> str:
    """Return the component that a name in a config means: what precedes a colon.

    >>> component_of("hf:ylecun/mnist"), component_of("dynamic")
    ('hf', 'dynamic')
    """
    return name.partition(":")[0]


def settings_in(
    section: Mapping[str, Any], table: Mapping[str, Any], others: Collection[str] = ()
) -> dict[str, Any]:
    """Return the settings of the component that a section of a config names.

    Args:
      section: a `name`, and a sub-dict for each component.
      table: the known components.
      others: other fields of the section.

    Raises:
      ValueError: for a field that is none of these.

    >>> settings_in({"name": "b", "a": {"x": 1}, "b": {"y": 2}}, {"a": int, "b": int})
    {'y': 2}
    """
    for field in section:
        if field != "name" and field not in table and field not in others:
            raise ValueError(f"no field {field!r} here; {suggest(field, [*table, *others])}")
    return dict(section.get(component_of(section["name"]), {}))


def _calling_file() -> OwnFile | None:
    """Return the file outside of this package whose code is being run."""
    frame = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in NOT_OWN:
        frame = frame.f_back
    path = Path(frame.f_code.co_filename) if frame is not None else None
    if path is None or not path.is_file():
        return None
    return OwnFile(path.absolute(), path.read_bytes())


def _path_of(file: OwnFile | None) -> Path | None:
    return file.path if file else None


def _origin(entry: Any) -> tuple[str, str]:
    return getattr(entry, "__module__", ""), getattr(entry, "__qualname__", repr(entry))
