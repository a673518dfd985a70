"""List what a config may name: configs, presets, models, algorithms, tasks, losses and data.

The command is `capsjax list`; it has no flags.
"""

from collections.abc import Mapping

from capsjax.config import FAMILIES
from capsjax.config.files import config_names
from capsjax.data import COMPONENTS, SOURCES
from capsjax.layers.norms import NORMS
from capsjax.layers.pooling import POOLINGS
from capsjax.models import MODELS
from capsjax.registry import settings_of
from capsjax.routing import ROUTING
from capsjax.tasks import TASKS
from capsjax.training.objective import LOSSES
from capsjax.training.optax_optimizers import optimizers


def define_flags() -> None:
    """Define no flags: this command has none of its own."""


def main() -> None:
    names = config_names()
    sections = {
        "configs (--config=NAME, or a file of your own)": [n for n in names if "/" not in n],
        "sweeps (capsjax sweep --config=NAME)": [n for n in names if "/" in n],
        "presets (--config=mnist:PRESET, small ones with ,small)": [
            preset for family in FAMILIES.values() for preset in family.presets
        ],
        "models": sorted(MODELS),
        "routing algorithms and their settings": _with_settings(ROUTING),
        "poolings and their settings": _with_settings(POOLINGS),
        "tasks and their settings": _with_settings(TASKS),
        "losses": sorted(LOSSES),
        "optimizers (all but adam and sgd with optimizer.arguments)": sorted(optimizers()),
        "norms of capsule layers": sorted(NORMS),
        "data sources": [
            *SOURCES,
            *_with_settings(COMPONENTS),
            "hf:NAME, a set of the Hugging Face Hub",
            "a name of an image-classification set of TFDS",
        ],
    }
    for title, entries in sections.items():
        print(f"{title}:")
        print("\n".join(f"  {entry}" for entry in entries))


def _with_settings(components: Mapping[str, type]) -> list[str]:
    """A line for each component, with the names of its settings."""
    return [
        f"{name}: {', '.join(settings_of(components[name])) or 'no settings'}"
        for name in sorted(components)
    ]
