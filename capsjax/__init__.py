"""capsjax: capsule networks in JAX and Flax."""

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from capsjax.losses import margin_loss, reconstruction_loss
    from capsjax.notation import Capsules, Routed
    from capsjax.ops import mask_poses, predict_votes, safe_norm, squash
    from capsjax.pooling import capsule_pool
    from capsjax.routing import Competition, dynamic_routing, make_routing, uniform_routing

__all__ = [
    "Capsules",
    "Competition",
    "Routed",
    "capsule_pool",
    "dynamic_routing",
    "make_routing",
    "margin_loss",
    "mask_poses",
    "predict_votes",
    "reconstruction_loss",
    "safe_norm",
    "squash",
    "uniform_routing",
]

__version__ = "0.1.0"

# The module of each name. It is imported when the name is first used, because JAX takes seconds,
# in which a command should already answer Ctrl-C.
_HOMES = {
    "Capsules": "notation",
    "Competition": "routing",
    "Routed": "notation",
    "capsule_pool": "pooling",
    "dynamic_routing": "routing",
    "make_routing": "routing",
    "margin_loss": "losses",
    "mask_poses": "ops",
    "predict_votes": "ops",
    "reconstruction_loss": "losses",
    "safe_norm": "ops",
    "squash": "ops",
    "uniform_routing": "routing",
}


def __getattr__(name: str) -> Any:
    """Import a function of the package, or one of its modules, when it is first asked for."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"capsjax.{_HOMES[name]}"), name)
    if not name.startswith("_") and find_spec(f"capsjax.{name}") is not None:
        return importlib.import_module(f"capsjax.{name}")
    raise AttributeError(f"module 'capsjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
