"""List what a config may name: configs, presets, models, algorithms, tasks, losses and data.

The command is `capsjax list`; it has no flags.
"""

from collections.abc import Collection

from capsjax.config import FAMILIES
from capsjax.config.files import config_names
from capsjax.config.tagged import TAGGED, component_fields
from capsjax.data import SOURCES
from capsjax.layers.norms import NORMS
from capsjax.models import MODELS
from capsjax.training.objective import LOSSES
from capsjax.training.optax_optimizers import optimizers

# Families whose presets configs/mnist.py takes; the others have config files of their own.
OF_MNIST = ("capsnet", "convnet")


def define_flags() -> None:
    """Define no flags: this command has none of its own."""


def main() -> None:
    names = config_names()
    sections = {
        "configs (--config=NAME, or a file of your own)": [n for n in names if "/" not in n],
        "sweeps (capsjax sweep --config=NAME)": [n for n in names if "/" in n],
        "presets of mnist and their variants (--config=mnist:PRESET,VARIANT)": [
            _with_names(preset, FAMILIES[family].variants.get(preset, ()), "variants")
            for family in OF_MNIST
            for preset in FAMILIES[family].presets
        ],
        "variants of other configs (--config=NAME:VARIANT)": [
            _with_names(preset, family.variants.get(preset, ()), "variants")
            for name, family in FAMILIES.items()
            if name not in OF_MNIST
            for preset in family.presets
        ],
        "models": sorted(MODELS),
        "routing algorithms and their settings": _with_settings("model.routing"),
        "poolings and their settings": _with_settings("model.pool"),
        "tasks and their settings": _with_settings("task"),
        "losses": sorted(LOSSES),
        "optimizers (all but adam and sgd with optimizer.arguments)": sorted(optimizers()),
        "norms of capsule layers": sorted(NORMS),
        "data sources": [
            *SOURCES,
            *_with_settings("data"),
            "hf:NAME, a set of the Hugging Face Hub",
            "a name of an image-classification set of TFDS",
        ],
    }
    for title, entries in sections.items():
        print(f"{title}:")
        print("\n".join(f"  {entry}" for entry in entries))


def _with_settings(path: str) -> list[str]:
    """A line for each component of a section, with the names of the settings that configs have."""
    return [
        _with_names(name, component_fields(path, name), "settings") for name in sorted(TAGGED[path])
    ]


def _with_names(name: str, others: Collection[str], what: str) -> str:
    return f"{name}: {', '.join(others) or f'no {what}'}"
