"""The decoder, which reconstructs images from capsules."""

import math
from collections.abc import Sequence

import flax.linen as nn
from jaxtyping import Array, Float

from capsjax.initializers import make_initializer


class Decoder(nn.Module):
    """Images from masked poses: dense ReLU layers and a sigmoid, (n, j, d) -> (n, h, w, c).

    Attributes:
      image_shape: (h, w, c).
      hidden: widths of the hidden layers.
      kernel_init, bias_init: specifications of `initializers`.

    Source: Sabour et al. 2017, figure 2.
    """

    image_shape: tuple[int, int, int]
    hidden: Sequence[int] = (512, 1024)
    kernel_init: str = "glorot_uniform"
    bias_init: str = "zeros"

    @nn.compact
    def __call__(self, masked: Float[Array, "n j d"]) -> Float[Array, "n h w c"]:
        x = masked.reshape(masked.shape[0], -1)
        for index, width in enumerate(self.hidden):
            x = nn.relu(self._dense(x, width, f"hidden_{index}"))
        x = nn.sigmoid(self._dense(x, math.prod(self.image_shape), "pixels"))
        return x.reshape(-1, *self.image_shape)

    def _dense(self, x: Array, width: int, name: str) -> Array:
        return nn.Dense(
            width,
            kernel_init=make_initializer(self.kernel_init),
            bias_init=make_initializer(self.bias_init, fan_in=x.shape[-1]),
            name=name,
        )(x)
