"""The convolution, as a layer."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from capsjax.initializers import make_initializer
from capsjax.kernels.compute import Compute
from capsjax.kernels.conv import conv2d


class Conv(nn.Module):
    """A convolution, (n, h, w, c) -> (n, y, x, features).

    Attributes:
      features: channels of the output.
      kernel_size: rows and columns of the kernel.
      stride: the same for rows and columns.
      padded: surround the image with zeros, so that the output has its size at stride 1; an even
        kernel gets one more row and column at the bottom and right.
      scale: multiplies the convolution before the bias is added.
      use_bias: whether there is a bias.
      kernel_init, bias_init: specifications of `initializers`.
      compute: how the convolution is computed.
    """

    features: int
    kernel_size: int = 9
    stride: int = 1
    padded: bool = False
    scale: float = 1.0
    use_bias: bool = True
    kernel_init: str = "glorot_uniform"
    bias_init: str = "zeros"
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], rectify: bool = False
    ) -> Float[Array, "n y x o"]:
        """Convolve x, or relu(x)."""
        if self.padded:
            border = ((self.kernel_size - 1) // 2, self.kernel_size // 2)
            x = jnp.pad(x, ((0, 0), border, border, (0, 0)))
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", make_initializer(self.kernel_init), shape)
        bias = None
        if self.use_bias:
            bias_init = make_initializer(self.bias_init, fan_in=math.prod(shape[:3]))
            bias = self.param("bias", bias_init, (self.features,))
        form, dtype = self.compute.conv, self.compute.operands
        if self.scale == 1.0:
            return conv2d(x, kernel, self.stride, form, dtype, bias, rectify)
        out = self.scale * conv2d(x, kernel, self.stride, form, dtype, rectify=rectify)
        return out if bias is None else out + bias.reshape(1, 1, 1, -1)
