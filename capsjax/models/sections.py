"""Sections of a config that describe several layers at once."""

from collections.abc import Collection, Mapping
from typing import Any

from capsjax.registry import suggest


def settings_of_layers(
    section: Mapping[str, Any], known: Collection[str], path: str
) -> list[dict[str, Any]]:
    """Return the settings of each layer: tuples have a value for each, others are for all.

    Args:
      section: the fields of the section.
      known: the settings that a layer has.
      path: the section's name in a config, for messages.

    Raises:
      ValueError: for tuples of different lengths, or a setting that a layer does not have.

    >>> settings_of_layers({"types": (4, 8), "norm": "rms"}, ("types", "norm"), "model.conv_caps")
    [{'norm': 'rms', 'types': 4}, {'norm': 'rms', 'types': 8}]
    """
    for name in section:
        if name not in known:
            raise ValueError(f"{path} has no field {name!r}; {suggest(name, known)}")
    of_each = {name: value for name, value in section.items() if isinstance(value, tuple)}
    of_all = {name: value for name, value in section.items() if name not in of_each}
    lengths = {name: len(value) for name, value in of_each.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"fields of {path} have a value for each layer, not {listed}")
    count = max(lengths.values(), default=0)
    return [{**of_all, **{name: of_each[name][k] for name in of_each}} for k in range(count)]
