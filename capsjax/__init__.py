"""capsjax: capsule networks in JAX and Flax."""

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from capsjax.losses import margin_loss, reconstruction_loss, spread_loss
    from capsjax.notation import Capsules, Routed
    from capsjax.ops import mask_poses, predict_votes, safe_norm, squash
    from capsjax.pooling import capsule_pool
    from capsjax.pretrained import load_exported, load_pretrained
    from capsjax.routing import (
        Competition,
        agreement_3d_routing,
        dynamic_routing,
        em_routing,
        heinsen_2019_routing,
        heinsen_2022_routing,
        inverted_attention_routing,
        make_routing,
        random_routing,
        self_attention_routing,
        self_routing,
        uniform_routing,
        vb_routing,
    )


__all__ = [
    "Capsules",
    "Competition",
    "Routed",
    "agreement_3d_routing",
    "capsule_pool",
    "dynamic_routing",
    "em_routing",
    "heinsen_2019_routing",
    "heinsen_2022_routing",
    "inverted_attention_routing",
    "load_exported",
    "load_pretrained",
    "make_routing",
    "margin_loss",
    "mask_poses",
    "predict_votes",
    "random_routing",
    "reconstruction_loss",
    "safe_norm",
    "self_attention_routing",
    "self_routing",
    "spread_loss",
    "squash",
    "uniform_routing",
    "vb_routing",
]

__version__ = "0.1.0"

# The module of each name. It is imported when the name is first used, because JAX takes seconds,
# in which a command should already answer Ctrl-C.
_HOMES = {
    "Capsules": "notation",
    "Competition": "routing",
    "Routed": "notation",
    "agreement_3d_routing": "routing",
    "capsule_pool": "pooling",
    "dynamic_routing": "routing",
    "em_routing": "routing",
    "heinsen_2019_routing": "routing",
    "heinsen_2022_routing": "routing",
    "inverted_attention_routing": "routing",
    "load_exported": "pretrained",
    "load_pretrained": "pretrained",
    "make_routing": "routing",
    "margin_loss": "losses",
    "mask_poses": "ops",
    "predict_votes": "ops",
    "random_routing": "routing",
    "reconstruction_loss": "losses",
    "safe_norm": "ops",
    "self_attention_routing": "routing",
    "self_routing": "routing",
    "spread_loss": "losses",
    "squash": "ops",
    "uniform_routing": "routing",
    "vb_routing": "routing",
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
