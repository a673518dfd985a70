"""Fields of earlier versions: their present names, and how an old config.json is read."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from capsjax.config.capsnet import make_paper
from capsjax.config.em_capsules import make_em_capsules
from capsjax.config.tagged import TAGGED, component_fields
from capsjax.data import split_before

# Fields that configs of earlier versions lack, and the values at which a run does what it did
# without them.
ADDED_FIELDS: dict[str, Any] = {
    "augment.brightness": 0.0,
    "augment.contrast": 0.0,
    "augment.elastic": 0.0,
    "augment.elastic_sigma": 4.0,
    "augment.flip_horizontal": 0.0,
    "augment.flip_vertical": 0.0,
    "augment.hue": 0.0,
    "augment.noise": 0.0,
    "augment.rotation": 0.0,
    "augment.saturation": 0.0,
    "augment.scale": 0.0,
    "class_weights": "none",
    "init_from": "",
    "model.input.crops": 1,
    "optimizer.arguments": "",
    "optimizer.clip_norm": 0.0,
    "optimizer.momentum": 0.9,
    "optimizer.name": "adam",
    "optimizer.weight_decay": 0.0,
    "schedule.anneal_epochs": 0,
    "schedule.plateau": {"factor": 0.05, "patience": 5, "min_improvement": 1e-4, "decay": 0.0},
    "selection_metric": "loss",
    "task": {"name": "classification"},
    "train.patience": 0,
}

# Fields of earlier versions that belonged to a component without its name in their path.
MOVED = {
    "model.routing": ("num_iterations", "gradient", "leaky", "use_bias", "bias_init"),
    "model.pool": ("num_steps", "temperature", "num_capsules", "eps", "upsample"),
}
# The component that they belong to, where the config names none.
OWNER = {"model.routing": "dynamic", "model.pool": "capsule"}
RENAMED = {"model.pool.pooling": "model.pool.name"}


def new_name(field: str) -> str | None:
    """Return the present name of a field of an earlier version; None if it is not renamed.

    >>> new_name("model.routing.num_iterations")
    'model.routing.dynamic.num_iterations'
    """
    if field in RENAMED:
        return RENAMED[field]
    for path, names in MOVED.items():
        last = field.removeprefix(f"{path}.")
        if field.startswith(f"{path}.") and last in names:
            return f"{path}.{OWNER[path]}.{last}"
    return None


def modernize(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Give the fields of a config, old or new, their present names, and add those it lacks.

    Args:
      fields: nested fields of a run, or of a sweep, whose runs are under "base".
    """
    if isinstance(fields.get("base"), Mapping):
        return {**fields, "base": modernize(fields["base"])}
    fields = copy.deepcopy(dict(fields))
    for old, new in RENAMED.items():
        value = _pop(fields, old.split("."))
        if value is not None:
            _set(fields, new.split("."), value)
    for path, names in MOVED.items():
        moved = {name: _pop(fields, [*path.split("."), name]) for name in names}
        moved = {name: value for name, value in moved.items() if value is not None}
        section = _get(fields, path.split("."))
        if not moved or section is None:
            continue
        component = section.get("name", OWNER[path])
        if component in TAGGED[path]:
            # What the component never read is left out.
            known = component_fields(path, component)
            moved = {name: value for name, value in moved.items() if name in known}
        if moved:
            section[component] = {**section.get(component, {}), **moved}
    if "model" in fields:
        for name, value in ADDED_FIELDS.items():
            _set(fields, name.split("."), value)
        _set(fields, ["data", "split"], split_before(_get(fields, ["data", "name"]) or ""))
    if _get(fields, ["model", "name"]) == "capsnet":
        model, paper = fields["model"], make_paper().model
        model.setdefault("conv_caps", paper.conv_caps.to_dict())
        model["class_caps"].setdefault("norm", paper.class_caps.norm)
        model.setdefault("readout", paper.readout)
    if _get(fields, ["model", "name"]) in ("em_capsules", "vb_capsules"):
        fields["model"].setdefault("input", make_em_capsules().model.input.to_dict())
    return fields


def tuples(value: Any) -> Any:
    """Turn lists into tuples, because JSON has no tuples and configs have no lists."""
    if isinstance(value, Mapping):
        return {name: tuples(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(tuples(item) for item in value)
    return value


def _get(fields: Any, path: Sequence[str]) -> Any:
    for part in path:
        if not isinstance(fields, dict) or part not in fields:
            return None
        fields = fields[part]
    return fields


def _pop(fields: dict[str, Any], path: Sequence[str]) -> Any:
    *parents, last = path
    section = _get(fields, parents)
    return section.pop(last, None) if isinstance(section, dict) else None


def _set(fields: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set the field at a path if it is missing and its section exists."""
    *parents, last = path
    section = _get(fields, parents)
    if isinstance(section, dict):
        section.setdefault(last, value)
