"""The fields of every config, and the networks that are known by name.

`make_config("authors")` starts from the values of the CapsNet paper and changes what the column
`authors` of the table of variants changes; ",small" after a preset shrinks the network. Files in
`configs/` start here. Each sub-dict is named after the function or class that it feeds; the fields
and what they mean are in `training` (all configs), `capsnet` and `convnet`.
"""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from capsjax.config import capsnet, convnet
from capsjax.registry import look_up

__all__ = ["FAMILIES", "load_config", "make_config"]


class Family(NamedTuple):
    """Configs with the same fields.

    Attributes:
      make: the config that all of them start from.
      presets: by name, the fields that each changes, by dotted name.
      variants: by preset, what may stand after its name, and the fields that each changes.
    """

    make: Callable[[], ConfigDict]
    presets: Mapping[str, Mapping[str, Any]]
    variants: Mapping[str, Mapping[str, Mapping[str, Any]]]


FAMILIES = {
    "capsnet": Family(capsnet.make_paper, capsnet.PRESETS, capsnet.VARIANTS),
    "convnet": Family(convnet.make_capsule_pooling, convnet.PRESETS, convnet.VARIANTS),
}


def make_config(preset: str = "paper") -> ConfigDict:
    """A config with all fields, at the values of a preset.

    Args:
      preset: the name of one, alone or followed by variants: "paper,small".

    Raises:
      ValueError: for an unknown preset or variant (the nearest one is named).

    >>> make_config("keras,small").model.primary_caps.types
    8
    """
    name, *variants = preset.split(",")
    families = {known: family for family in FAMILIES.values() for known in family.presets}
    family = look_up(families, name, "preset")
    config = family.make()
    config.update_from_flattened_dict(family.presets[name])
    for variant in variants:
        config.update_from_flattened_dict(
            look_up(family.variants[name], variant, f"variant of the preset {name!r}")
        )
    return config


def load_config(path: Path, *argument: str) -> ConfigDict:
    """The config of a file in configs/, for another one to start from.

    Args:
      path: of the file.
      *argument: what stands after the colon on a command line, if anything.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*argument)
