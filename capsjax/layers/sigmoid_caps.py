"""Primary capsules whose activations are computed beside their poses."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from capsjax.initializers import make_initializer
from capsjax.kernels.compute import Compute
from capsjax.kernels.conv import conv2d
from capsjax.layers.capsule_norm import CapsuleNorm
from capsjax.notation import Capsules
from capsjax.windows import fit_to_windows, make_grid


class SigmoidCaps(nn.Module):
    """Convolutions without bias to poses and to activations, (n, h, w, c) -> (n, y, x, i, p).

    An activation is the sigmoid of its convolution; poses are not squashed. A capsule is
    `pose_size` neighbouring channels at one position.

    Attributes:
      types: kinds of capsule.
      pose_size: dimensions p of a pose.
      kernel_size, stride: of both convolutions.
      padding: "VALID" or "SAME".
      kernel_init, activation_init: specifications of `initializers` for the convolution to poses
        and for that to activations.
      activation_offset: added before the sigmoid.
      batch_norm, each_entry, batch_axis: as in `CapsuleNorm`, here with a learned scale and bias.
      compute: how the convolutions are computed.

    Source: Hinton et al. 2018, section 4; with a batch norm De Sousa Ribeiro et al. 2020, and
    Hahn et al. 2019.
    """

    types: int = 32
    pose_size: int = 16
    kernel_size: int = 1
    stride: int = 1
    padding: str = "VALID"
    kernel_init: str = "glorot_uniform"
    activation_init: str = "glorot_uniform"
    activation_offset: float = 0.0
    batch_norm: Mapping[str, Any] | None = None
    each_entry: bool = False
    batch_axis: str | None = None
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], training: bool) -> Capsules:
        size = (self.kernel_size, self.kernel_size)
        x = fit_to_windows(x, make_grid(x.shape[1:3], size, (self.stride,) * 2, self.padding))
        window = (*size, x.shape[-1])
        count = self.types * self.pose_size
        of_poses = self.param("kernel", make_initializer(self.kernel_init), (*window, count))
        of_activations = self.param(
            "activation_kernel", make_initializer(self.activation_init), (*window, self.types)
        )
        # As one product, which has one form.
        kernel = jnp.concatenate([of_poses, of_activations], axis=-1)
        features = conv2d(x, kernel, self.stride, self.compute.conv, self.compute.operands)
        poses, logits = features[..., :count], features[..., count:]
        poses = poses.reshape(*poses.shape[:-1], self.types, self.pose_size)
        norm = CapsuleNorm(
            self.batch_norm,
            affine=True,
            each_entry=self.each_entry,
            batch_axis=self.batch_axis,
            name="norm",
        )
        capsules = norm(Capsules(poses, logits + self.activation_offset), training)
        self.sow("intermediates", "poses", capsules.poses, lambda _, new: new, lambda: None)
        return capsules
