"""Readouts, which make a score of each class capsule: one class each, and their names."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from capsjax import registry
from capsjax.notation import Capsules
from capsjax.ops import safe_norm

AUTO = "auto"


class ActivationReadout(nn.Module):
    """The activations of the capsules, as their routing algorithm computes them."""

    @nn.compact
    def __call__(self, capsules: Capsules) -> Float[Array, "n *grid j"]:
        return capsules.activations


class LengthReadout(nn.Module):
    """The lengths of the poses, whatever the activations are."""

    @nn.compact
    def __call__(self, capsules: Capsules) -> Float[Array, "n *grid j"]:
        return safe_norm(capsules.poses)


class LogActivationReadout(nn.Module):
    """Logarithms of the activations: logits for a cross-entropy.

    Where activations sum to 1 over the classes, as those of self-routing do, their softmax is the
    activations themselves, and the cross-entropy is the likelihood of the label.

    Attributes:
      least: smaller activations count as this.

    Source: Hahn et al. 2019, released code.
    """

    least: float = 1e-7

    @nn.compact
    def __call__(self, capsules: Capsules) -> Float[Array, "n *grid j"]:
        return jnp.log(jnp.maximum(capsules.activations, self.least))


class LinearReadout(nn.Module):
    """A linear function of the pose, the same for all classes: logits for a cross-entropy.

    Source: Tsai et al. 2020, section 4.
    """

    @nn.compact
    def __call__(self, capsules: Capsules) -> Float[Array, "n *grid j"]:
        return nn.Dense(1, name="linear")(capsules.poses)[..., 0]


READOUTS = {
    "activation": ActivationReadout,
    "length": LengthReadout,
    "linear": LinearReadout,
    "log_activation": LogActivationReadout,
}


# Those that read activations alone.
OF_ACTIVATIONS = ("activation", "log_activation")


def register(name: str, readout: type) -> type:
    """Register a readout for the setting `readout` of networks.

    Raises:
      ValueError: for a name that is taken.
    """
    return registry.register(READOUTS, name, readout, "readout")


def name_of_readout(name: str, routing: Any) -> str:
    """Return the name of a readout, where it may be "auto", as in `make_readout`."""
    return getattr(routing, "readout", "activation") if name == AUTO else name


def make_readout(name: str, routing: Any) -> nn.Module:
    """Make the readout of a given name.

    Args:
      name: a key of `READOUTS`, or "auto" for that of the routing algorithm: its attribute
        `readout`, "activation" if it has none.
      routing: the routing algorithm of the class capsules.

    Raises:
      ValueError: for an unknown name (the nearest one is named), or one that reads activations
        where the algorithm makes none.
    """
    name = name_of_readout(name, routing)
    if name in OF_ACTIVATIONS and getattr(routing, "readout", AUTO) == "linear":
        raise ValueError(
            f"{type(routing).__name__} makes no activations, all are 1: model.readout is 'linear' "
            f"or 'auto' with it, not {name!r}"
        )
    return registry.look_up({**READOUTS, AUTO: None}, name, "readout (model.readout)")()
