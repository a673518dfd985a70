"""Readouts, which make a score of each class capsule: one class each, and their names."""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from capsjax import registry
from capsjax.notation import Capsules
from capsjax.ops import safe_norm

AUTO = "auto"


class ActivationReadout(nn.Module):
    """The activations of the capsules, as their routing algorithm computes them."""

    @nn.compact
    def __call__(self, capsules: Capsules) -> Float[Array, "n j"]:
        return capsules.activations


class LengthReadout(nn.Module):
    """The lengths of the poses, whatever the activations are."""

    @nn.compact
    def __call__(self, capsules: Capsules) -> Float[Array, "n j"]:
        return safe_norm(capsules.poses)


class LinearReadout(nn.Module):
    """A linear function of the pose, the same for all classes: logits for a cross-entropy.

    Source: Tsai et al. 2020, section 4.
    """

    @nn.compact
    def __call__(self, capsules: Capsules) -> Float[Array, "n j"]:
        return nn.Dense(1, name="linear")(capsules.poses)[..., 0]


READOUTS = {"activation": ActivationReadout, "length": LengthReadout, "linear": LinearReadout}


def register(name: str, readout: type) -> type:
    """Register a readout for the setting `readout` of networks.

    Raises:
      ValueError: for a name that is taken.
    """
    return registry.register(READOUTS, name, readout, "readout")


def make_readout(name: str, routing: Any) -> nn.Module:
    """Make the readout of a given name.

    Args:
      name: a key of `READOUTS`, or "auto" for that of the routing algorithm: its attribute
        `readout`, "activation" if it has none.
      routing: the routing algorithm of the class capsules.

    Raises:
      ValueError: for an unknown name (the nearest one is named).
    """
    if name == AUTO:
        name = getattr(routing, "readout", "activation")
    return registry.look_up({**READOUTS, AUTO: None}, name, "readout (model.readout)")()
