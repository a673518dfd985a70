"""Norms of the channels of images, between convolutions."""

import flax.linen as nn
from jaxtyping import Array, Float

from capsjax.initializers import make_initializer
from capsjax.registry import look_up

KINDS = dict.fromkeys(("batch", "instance"))


class FeatureNorm(nn.Module):
    """Channels shifted and scaled to mean 0 and variance 1, then by what is learned.

    Attributes:
      kind: "batch" takes means and variances over the batch, and in testing the running ones;
        "instance" takes them over the pixels of each image.
      momentum: share of the running means and variances that is kept at each step.
      epsilon: added to variances.
      scale_init, bias_init: specifications of `initializers`.
      batch_axis: device axis that a batch is divided over; None for one device.

    Raises:
      ValueError: at the first call, for an unknown kind.

    Source: batch: Ioffe and Szegedy 2015; instance: Ulyanov et al. 2016.
    """

    kind: str = "batch"
    momentum: float = 0.99
    epsilon: float = 1e-3
    scale_init: str = "constant(1.0)"
    bias_init: str = "zeros"
    batch_axis: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], training: bool) -> Float[Array, "n h w c"]:
        look_up(KINDS, self.kind, "kind of norm (model.norm.kind)")
        settings = {
            "epsilon": self.epsilon,
            "scale_init": make_initializer(self.scale_init),
            "bias_init": make_initializer(self.bias_init),
            "name": self.kind,
        }
        if self.kind == "instance":
            return nn.InstanceNorm(**settings)(x)
        return nn.BatchNorm(
            use_running_average=not training,
            momentum=self.momentum,
            axis_name=self.batch_axis if training else None,
            **settings,
        )(x)
