"""Decoders, which reconstruct images from capsules."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from capsjax.initializers import make_initializer
from capsjax.layers.conv import Conv


class Decoder(nn.Module):
    """Images from masked poses: dense ReLU layers and a sigmoid, (n, j, d) -> (n, h, w, c).

    Attributes:
      image_shape: (h, w, c).
      hidden: widths of the hidden layers.
      kernel_init, bias_init: specifications of `initializers`.
      pixels_init: the same for the weights of the last layer; empty for that of the others.

    Source: Sabour et al. 2017, figure 2.
    """

    image_shape: tuple[int, int, int]
    hidden: Sequence[int] = (512, 1024)
    kernel_init: str = "glorot_uniform"
    bias_init: str = "zeros"
    pixels_init: str = ""

    @nn.compact
    def __call__(self, masked: Float[Array, "n j d"]) -> Float[Array, "n h w c"]:
        x = masked.reshape(masked.shape[0], math.prod(masked.shape[1:]))
        for index, width in enumerate(self.hidden):
            x = nn.relu(self._dense(x, width, self.kernel_init, f"hidden_{index}"))
        pixels = math.prod(self.image_shape)
        x = nn.sigmoid(self._dense(x, pixels, self.pixels_init or self.kernel_init, "pixels"))
        return x.reshape(-1, *self.image_shape)

    def _dense(self, x: Array, width: int, kernel_init: str, name: str) -> Array:
        return nn.Dense(
            width,
            kernel_init=make_initializer(kernel_init),
            bias_init=make_initializer(self.bias_init, fan_in=x.shape[-1]),
            name=name,
        )(x)


class UpsamplingDecoder(nn.Module):
    """Images from masked poses by a small map that grows, (n, j, d) -> (n, h, w, c).

    Dense layer without activation, read as a map of one channel -> for each of `features`:
    twice as many rows and columns (bilinear), 3x3 convolution without padding, leaky ReLU
    -> 3x3 convolution and sigmoid.

    Attributes:
      image_shape: (h, w, c).
      features: channels of the convolutions but the last.
      negative_slope: slope of the leaky ReLU below zero.
      kernel_init, bias_init: specifications of `initializers`.

    Raises:
      ValueError: at the first call, for rows or columns that no map grows to.

    Source: the released code of Mazzia et al. 2021, for smallNORB.
    """

    image_shape: tuple[int, int, int]
    features: Sequence[int] = (64, 128, 128)
    negative_slope: float = 0.2
    kernel_init: str = "glorot_uniform"
    bias_init: str = "zeros"

    @nn.compact
    def __call__(self, masked: Float[Array, "n j d"]) -> Float[Array, "n h w c"]:
        h, w = (self._first_size(size) for size in self.image_shape[:2])
        initial = {"kernel_init": self.kernel_init, "bias_init": self.bias_init}
        x = masked.reshape(masked.shape[0], math.prod(masked.shape[1:]))
        x = nn.Dense(
            h * w,
            kernel_init=make_initializer(self.kernel_init),
            bias_init=make_initializer(self.bias_init, fan_in=x.shape[-1]),
            name="map",
        )(x)
        x = x.reshape(-1, h, w, 1)
        for index, features in enumerate(self.features):
            n, h, w, c = x.shape
            x = jax.image.resize(x, (n, 2 * h, 2 * w, c), "bilinear")
            x = Conv(features, 3, **initial, name=f"conv_{index}")(x)
            x = nn.leaky_relu(x, self.negative_slope)
        return nn.sigmoid(Conv(self.image_shape[-1], 3, **initial, name="pixels")(x))

    def _first_size(self, size: int) -> int:
        """Return the rows or columns of the map that grow to `size`.

        Each of k doublings is followed by a convolution that takes two, and another one comes last:
        the map of f rows ends with 2^k f - 2^(k + 1).
        """
        factor = 2 ** len(self.features)
        first, rest = divmod(size + 2 * factor, factor)
        if rest:
            raise ValueError(
                f"an upsampling decoder of {len(self.features)} convolutions makes images whose "
                f"rows and columns are multiples of {factor}, not {size}: use other images, "
                "model.decoder.name=dense or model.use_decoder=False"
            )
        return first


class PixelDecoder(nn.Module):
    """The foreground of an image from masked poses at its pixels, (n, h, w, f) -> (n, h, w, c).

    Convolutions of 1x1: layers with ReLU, and a last one with a sigmoid.

    Attributes:
      channels: c of the image.
      hidden: channels of the layers before the last.
      kernel_init, bias_init: specifications of `initializers`.

    Source: LaLonde and Bagci 2018, section 3.3.
    """

    channels: int
    hidden: Sequence[int] = (64, 128)
    kernel_init: str = "he_normal"
    bias_init: str = "zeros"

    @nn.compact
    def __call__(self, masked: Float[Array, "n h w f"]) -> Float[Array, "n h w c"]:
        x = masked
        for index, width in enumerate(self.hidden):
            x = nn.relu(self._dense(x, width, f"hidden_{index}"))
        return nn.sigmoid(self._dense(x, self.channels, "pixels"))

    def _dense(self, x: Array, width: int, name: str) -> Array:
        return nn.Dense(
            width,
            kernel_init=make_initializer(self.kernel_init),
            bias_init=make_initializer(self.bias_init, fan_in=x.shape[-1]),
            name=name,
        )(x)
