"""Norms, which scale the poses that enter a capsule layer: one class each, and their names.

A norm has state in some algorithms, so it belongs to the layer and is a Flax module.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from capsjax import registry


class NoNorm(nn.Module):
    """Unchanged poses."""

    @nn.compact
    def __call__(self, poses: Float[Array, "n *grid i p"]) -> Float[Array, "n *grid i p"]:
        return poses


class RootMeanSquareNorm(nn.Module):
    """Poses divided by the root mean square of their lengths, over all capsules of an image.

    Squash shortens a short vector to its square: capsules of length 0.1 become 0.01 in the next
    layer and 0.0001 in the one after it. Divided by their common length they keep their
    proportions and directions, and a layer at any depth starts with lengths of about 1.

    Attributes:
      eps: added to the mean square.
    """

    eps: float = 1e-7

    @nn.compact
    def __call__(self, poses: Float[Array, "n *grid i p"]) -> Float[Array, "n *grid i p"]:
        axes = tuple(range(1, poses.ndim))
        # The mean over capsules of the sum over their dimensions.
        mean_square = poses.shape[-1] * jnp.mean(jnp.square(poses), axes, keepdims=True)
        return poses * lax.rsqrt(mean_square + self.eps)


class LayerNorm(nn.Module):
    """Each pose normalised by its own mean and deviation, with a learned scale and bias.

    Poses of one dimension, of which that would leave the bias alone, are unchanged.

    Attributes:
      eps: added to the variance.

    Source: Ba et al. 2016; in capsules Tsai et al. 2020, section 3.
    """

    eps: float = 1e-5

    @nn.compact
    def __call__(self, poses: Float[Array, "n *grid i p"]) -> Float[Array, "n *grid i p"]:
        return poses if poses.shape[-1] == 1 else nn.LayerNorm(epsilon=self.eps)(poses)


NORMS = {"none": NoNorm, "rms": RootMeanSquareNorm, "layer": LayerNorm}


def register(name: str, norm: type) -> type:
    """Register a norm for the setting `norm` of capsule layers.

    Raises:
      ValueError: for a name that is taken.
    """
    return registry.register(NORMS, name, norm, "norm")
