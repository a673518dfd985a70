"""Sections of a config that name a component and hold the settings of every component.

`model.routing.name = "dynamic"` chooses an algorithm, with the settings `model.routing.dynamic`;
those of every other registered algorithm stand beside it, so that a flag or a sweep can switch the
name. A run is described by its *resolved* config, which has the settings of the named component
alone: a component that is added later changes no run.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ml_collections import ConfigDict

from capsjax.data import COMPONENTS
from capsjax.layers.pooling import POOLINGS
from capsjax.registry import component_of, settings_of
from capsjax.routing import ROUTING
from capsjax.tasks import TASKS

# The components that a section may name, by the path of the section.
TAGGED: dict[str, Mapping[str, Callable]] = {
    "model.routing": ROUTING,
    "model.pool": POOLINGS,
    "task": TASKS,
    "data": COMPONENTS,
}

# Settings that a network has once, for all of its capsules.
SHARED = {"model.routing": ("eps", "eps_at", "squash")}


def add_components(section: ConfigDict, path: str, name: str) -> None:
    """Give a section its name, and a sub-dict for each component that has settings.

    Args:
      section: the section, which may have other fields.
      path: its key in `TAGGED`.
      name: the component that it names by default.
    """
    section.name = name
    for known in sorted(TAGGED[path]):
        settings = component_fields(path, known)
        if settings:
            section[known] = ConfigDict(settings)


def component_fields(path: str, name: str) -> dict[str, Any]:
    """Return the fields of a component's sub-dict, and their defaults.

    >>> component_fields("task", "multilabel")
    {'count': 0, 'threshold': 0.5}
    """
    settings = settings_of(TAGGED[path][name])
    shared: Collection[str] = SHARED.get(path, ())
    return {field: value for field, value in settings.items() if field not in shared}


def resolve(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Remove from a config's fields the settings of components that it does not name.

    Args:
      fields: nested fields of a run, or of a sweep, whose runs are under "base".

    >>> resolve({"task": {"name": "classification", "multilabel": {"count": 2}}})
    {'task': {'name': 'classification'}}
    """
    if isinstance(fields.get("base"), Mapping):
        levels = [level for _, levels in fields.get("factors", ()) for _, level in levels]
        set_by_levels = [(field, value) for level in levels for field, value in level]
        return {**fields, "base": _resolve_all(fields["base"], set_by_levels)}
    return _resolve_all(fields, ())


def resolved(config: ConfigDict) -> dict[str, Any]:
    """Return the resolved fields of a config, see `resolve`."""
    return resolve(config.to_dict())


def traced_numbers(fields: Mapping[str, Any]) -> dict[str, type]:
    """Return the named components' settings that may be data of a compiled program, with types.

    Args:
      fields: a resolved config, flat: dotted name to value.

    >>> traced_numbers({"model.routing.name": "dynamic"})
    {'model.routing.dynamic.num_iterations': <class 'int'>}
    """
    found = {}
    for path, components in TAGGED.items():
        name = fields.get(f"{path}.name")
        component = components.get(name)
        for setting in getattr(component, "TRACED", ()):
            found[f"{path}.{name}.{setting}"] = type(settings_of(component)[setting])
    return found


def _resolve_all(
    fields: Mapping[str, Any], set_by_levels: Collection[tuple[str, Any]]
) -> dict[str, Any]:
    """Resolve the fields of a run; keep components that the levels of a sweep name or set."""
    fields = dict(fields)
    for path, components in TAGGED.items():
        used = {
            name
            for name in components
            if any(
                field.startswith(f"{path}.{name}.")
                or (field == f"{path}.name" and component_of(value) == name)
                for field, value in set_by_levels
            )
        }
        fields = _resolve_section(fields, path.split("."), set(components) - used)
    return fields


def _resolve_section(fields: Mapping, path: list[str], unused: Collection[str]) -> dict[str, Any]:
    first, *rest = path
    section = fields.get(first)
    if not isinstance(section, Mapping):
        return dict(fields)
    if rest:
        return {**fields, first: _resolve_section(section, rest, unused)}
    named = component_of(section.get("name") or "")
    kept = {key: value for key, value in section.items() if key == named or key not in unused}
    return {**fields, first: kept}
