"""The transposed convolution, as a layer."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from capsjax.initializers import make_initializer
from capsjax.kernels.compute import Compute
from capsjax.kernels.conv import border_of_transposed, conv2d, transposed_conv2d


class TransposedConv(nn.Module):
    """A transposed convolution, (n, h, w, c) -> (n, s · h, s · w, features).

    Attributes:
      features: channels of the output.
      kernel_size: rows and columns of the kernel, see `transposed_conv2d`.
      stride: s, the factor of rows and columns.
      kernel_init, bias_init: specifications of `initializers`; the kernel is (k, k, features, c).
      compute: how the convolution is computed.
    """

    features: int
    kernel_size: int = 2
    stride: int = 2
    kernel_init: str = "he_normal"
    bias_init: str = "zeros"
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n y x o"]:
        border = border_of_transposed(self.kernel_size, self.stride)
        shape = (self.kernel_size, self.kernel_size, self.features, x.shape[-1])
        kernel = self.param("kernel", make_initializer(self.kernel_init), shape)
        fan_in = math.prod((*shape[:2], shape[3])) // self.stride**2
        bias = self.param("bias", make_initializer(self.bias_init, fan_in), (self.features,))

        def convolve(x: Array, kernel: Array) -> Array:
            return conv2d(x, kernel, 1, self.compute.conv, self.compute.operands)

        padded = jnp.pad(x, ((0, 0), border, border, (0, 0)))
        out = transposed_conv2d(padded, kernel, self.stride, convolve)
        return out + bias.reshape(1, 1, 1, -1)
