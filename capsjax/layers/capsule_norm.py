"""The batch norm of capsules, and the sigmoid of their logits."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array

from capsjax.notation import Capsules


class CapsuleNorm(nn.Module):
    """Capsules with poses and logits normalised over the batch, and activations sigmoid(logit).

    Each type of capsule has one mean and one variance, of all positions and entries of its poses,
    and another of its logits. With `each_entry` each entry of its poses has its own.

    Attributes:
      batch_norm: `momentum` and `epsilon` of `nn.BatchNorm`; None to normalise nothing.
      affine: whether each type learns a scale and a bias after the norm.
      logits: whether incoming activations are logits. If not they stay as they are.
      each_entry: whether each entry of a pose is normalised by itself.
      batch_axis: device axis that a batch is divided over; None for one device.

    Source: De Sousa Ribeiro et al. 2020, released code; `each_entry`: that of Hahn et al. 2019.
    """

    batch_norm: Mapping[str, Any] | None = None
    affine: bool = False
    logits: bool = True
    each_entry: bool = False
    batch_axis: str | None = None

    @nn.compact
    def __call__(self, capsules: Capsules, training: bool) -> Capsules:
        poses, activations = capsules
        if self.batch_norm is not None:
            kept = (-2, -1) if self.each_entry else (-2,)
            poses = self._normalise(poses, kept, training, "poses")
        if not self.logits:
            return Capsules(poses, activations)
        if self.batch_norm is not None:
            activations = self._normalise(activations, (-1,), training, "activations")
        return Capsules(poses, nn.sigmoid(activations))

    def _normalise(self, x: Array, kept: tuple[int, ...], training: bool, name: str) -> Array:
        """Normalise over all axes but some."""
        return nn.BatchNorm(
            use_running_average=not training,
            axis=kept,
            axis_name=self.batch_axis if training else None,
            use_scale=self.affine,
            use_bias=self.affine,
            # Logits that differ little from each other may all be large.
            use_fast_variance=False,
            name=name,
            **self.batch_norm,
        )(x)
