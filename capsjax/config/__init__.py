"""The fields of every config, and the presets that are known by name.

`make_config("authors")` starts from the values of the CapsNet paper and makes the changes in the
column `authors` of the table of variants; ",small" after a preset shrinks the network. Files in
`configs/` start here. Each sub-dict is named after the function or class that it feeds; the fields
and their meanings are in `training` (all configs) and in the file of each network.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from capsjax.config import (
    capsnet,
    convnet,
    deepcaps,
    efficient_capsnet,
    em_capsules,
    inverted_attention,
    segcaps,
    self_routing,
    unet,
    vb_capsules,
)
from capsjax.config.files import load_config
from capsjax.registry import look_up

__all__ = ["FAMILIES", "load_config", "make_config"]


class Family(NamedTuple):
    """A family of configs with the same fields.

    Attributes:
      make: makes the config that all of them start from.
      presets: by preset, the fields that it changes, by dotted name.
      variants: by preset, the variants that may follow its name, and the fields that each changes.
    """

    make: Callable[[], ConfigDict]
    presets: Mapping[str, Mapping[str, Any]]
    variants: Mapping[str, Mapping[str, Mapping[str, Any]]]


FAMILIES = {
    "capsnet": Family(capsnet.make_paper, capsnet.PRESETS, capsnet.VARIANTS),
    "convnet": Family(convnet.make_capsule_pooling, convnet.PRESETS, convnet.VARIANTS),
    "deepcaps": Family(deepcaps.make_deepcaps, deepcaps.PRESETS, deepcaps.VARIANTS),
    "efficient_capsnet": Family(
        efficient_capsnet.make_efficient_capsnet,
        efficient_capsnet.PRESETS,
        efficient_capsnet.VARIANTS,
    ),
    "em_capsules": Family(em_capsules.make_em_capsules, em_capsules.PRESETS, em_capsules.VARIANTS),
    "inverted_attention": Family(
        inverted_attention.make_cifar10, inverted_attention.PRESETS, inverted_attention.VARIANTS
    ),
    "self_routing": Family(self_routing.make_cifar10, self_routing.PRESETS, self_routing.VARIANTS),
    "segcaps": Family(segcaps.make_segcaps, segcaps.PRESETS, segcaps.VARIANTS),
    "unet": Family(unet.make_unet, unet.PRESETS, unet.VARIANTS),
    "vb_capsules": Family(vb_capsules.make_vb_capsules, vb_capsules.PRESETS, vb_capsules.VARIANTS),
}


def make_config(preset: str = "paper") -> ConfigDict:
    """Make a config with all fields, at the values of a preset.

    Args:
      preset: the name of a preset, alone or followed by variants: "paper,small".

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
