"""capsjax: capsule networks in JAX and Flax."""

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
