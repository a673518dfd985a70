"""The decoder of a single pose, which does not know the class that the pose belongs to."""

import math
from collections.abc import Iterator, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from capsjax.initializers import make_initializer
from capsjax.kernels.compute import Compute
from capsjax.kernels.conv import border_of_transposed, conv2d, transposed_conv2d
from capsjax.layers.feature_norm import FeatureNorm

KERNEL_SIZE = 3


class PoseDecoder(nn.Module):
    """Images from poses by a small map that grows, (n, d) -> (n, h, w, c).

    Dense layer and ReLU, read as a map of `map_features` channels -> batch norm -> 3x3 transposed
    convolutions, none with an activation, and one more to c channels -> ReLU.

    A dimension of the pose means the same for all classes, as no class has weights of its own. The
    last ReLU lets pixels exceed 1.

    Attributes:
      image_shape: (h, w, c).
      map_features: channels of the map.
      features, stride: channels of each transposed convolution but the last, and the factor by
        which its rows and columns grow.
      momentum: share of the running means and variances that is kept at each step.
      epsilon: added to variances.
      kernel_init, bias_init: specifications of `initializers`.
      batch_axis: device axis that a batch is divided over; None for one device.
      compute: how the convolutions are computed.

    Raises:
      ValueError: at the first call, for rows or columns that no map grows to, or features and
        strides of different lengths.

    Source: Rajasegaran et al. 2019, section 3, and their released code.
    """

    image_shape: tuple[int, int, int]
    map_features: int = 16
    features: Sequence[int] = (64, 32, 16)
    stride: Sequence[int] = (1, 2, 2)
    momentum: float = 0.8
    epsilon: float = 1e-3
    kernel_init: str = "glorot_uniform"
    bias_init: str = "zeros"
    batch_axis: str | None = None
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, pose: Float[Array, "n d"], training: bool) -> Float[Array, "n h w c"]:
        """Decode; in training batch norm takes the mean and variance of the batch."""
        h, w = self._first_sizes()
        x = nn.Dense(
            h * w * self.map_features,
            kernel_init=make_initializer(self.kernel_init),
            bias_init=make_initializer(self.bias_init, fan_in=pose.shape[-1]),
            name="map",
        )(pose)
        x = FeatureNorm(
            momentum=self.momentum,
            epsilon=self.epsilon,
            batch_axis=self.batch_axis,
            name="norm",
        )(nn.relu(x).reshape(-1, h, w, self.map_features), training)
        for name, features, stride in self._layers():
            x = self._grow(x, name, features, stride)
        return nn.relu(x)

    def convolutions(self) -> Iterator[tuple[str, tuple, tuple]]:
        """Yield name, padded image (h, w, c) and kernel of each convolution that is computed."""
        h, w = self._first_sizes()
        c = self.map_features
        for name, features, stride in self._layers():
            border = border_of_transposed(KERNEL_SIZE + sum(zeros_of_kernel(stride)), stride)
            size = sum(border) + 1
            taps = border[0] + 1
            yield name, (h + size - 1, w + size - 1, c), (taps, taps, c, stride**2 * features)
            h, w, c = stride * h, stride * w, features

    def _layers(self) -> Iterator[tuple[str, int, int]]:
        """Yield name, channels and stride of each transposed convolution."""
        for index, (features, stride) in enumerate(zip(self.features, self.stride, strict=True)):
            yield f"deconv_{index}", features, stride
        yield "pixels", self.image_shape[-1], 1

    def _grow(self, x: Array, name: str, features: int, stride: int) -> Array:
        shape = (KERNEL_SIZE, KERNEL_SIZE, features, x.shape[-1])
        kernel = self.param(f"{name}_kernel", make_initializer(self.kernel_init), shape)
        bias_init = make_initializer(self.bias_init, fan_in=KERNEL_SIZE**2 * x.shape[-1])
        bias = self.param(f"{name}_bias", bias_init, (features,))
        compute = self.compute.of_layer(name)

        def convolve(x: Array, kernel: Array) -> Array:
            return conv2d(x, kernel, 1, compute.conv, compute.operands)

        zeros = zeros_of_kernel(stride)
        kernel = jnp.pad(kernel, (zeros, zeros, (0, 0), (0, 0)))
        border = border_of_transposed(kernel.shape[0], stride)
        padded = jnp.pad(x, ((0, 0), border, border, (0, 0)))
        return transposed_conv2d(padded, kernel, stride, convolve) + bias.reshape(1, 1, 1, -1)

    def _first_sizes(self) -> list[int]:
        """Return the rows and columns of the map that grow to those of the image."""
        if len(self.features) != len(self.stride):
            raise ValueError(
                "model.decoder.features and model.decoder.stride have a value for each transposed "
                f"convolution, not {tuple(self.features)} and {tuple(self.stride)}"
            )
        factor = math.prod(self.stride)
        sizes = self.image_shape[:2]
        if any(size % factor for size in sizes):
            raise ValueError(
                f"a decoder whose strides multiply to {factor} makes images whose rows and columns "
                f"are multiples of {factor}, not {sizes[0]}x{sizes[1]}: use another "
                "model.decoder.stride or model.use_decoder=False"
            )
        return [size // factor for size in sizes]


def zeros_of_kernel(stride: int) -> tuple[int, int]:
    """Return how many rows of zeros before and after a kernel make it a multiple of the stride.

    The upper left pixel of a window is then the one that TensorFlow's padding "SAME" takes: where
    windows leave gaps, these come after each.

    >>> zeros_of_kernel(2), zeros_of_kernel(5)
    ((1, 0), (0, 2))
    """
    zeros = -KERNEL_SIZE % stride
    return (zeros, 0) if stride < KERNEL_SIZE else (0, zeros)
