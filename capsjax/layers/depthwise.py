"""Primary capsules by a depthwise convolution."""

import flax.linen as nn
from jaxtyping import Array, Float

from capsjax.initializers import make_initializer
from capsjax.kernels.conv import depthwise_conv2d
from capsjax.layers.capsules import group_channels
from capsjax.notation import Capsules
from capsjax.ops import SquashName, make_squash, safe_norm


class DepthwiseCaps(nn.Module):
    """A depthwise convolution read as capsules, (n, h, w, c) -> Capsules (n, y, x, i, p).

    Each channel is convolved with a kernel of its own, and `pose_size` neighbouring channels at one
    position are a capsule: where a convolution of 128 channels with kernels of 9x9 has 1.3 million
    weights, this has 10,368. Its products are few, and always float32.

    Attributes:
      pose_size: dimensions p of a pose.
      kernel_size, stride: of the convolution.
      squash: a name of `capsjax.ops.make_squash`.
      kernel_init, bias_init: specifications of `initializers`.
      eps: as in `safe_norm`, for the activations.

    Raises:
      ValueError: at the first call, for channels that pose_size does not divide, or an image that
        is smaller than the kernel.

    Source: Mazzia et al. 2021, section "Primary capsules".
    """

    pose_size: int = 8
    kernel_size: int = 9
    stride: int = 1
    squash: SquashName = "exponential"
    kernel_init: str = "glorot_uniform"
    bias_init: str = "zeros"
    eps: float = 1e-7

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Capsules:
        size, channels = self.kernel_size, x.shape[-1]
        if channels % self.pose_size:
            raise ValueError(
                f"{channels} channels are not capsules of pose_size {self.pose_size}: it divides "
                "the number of channels"
            )
        # With this axis of 1 an initializer counts the weights of a channel, as Keras does.
        kernel = self.param("kernel", make_initializer(self.kernel_init), (size, size, 1, channels))
        bias_init = make_initializer(self.bias_init, fan_in=size * size)
        bias = self.param("bias", bias_init, (channels,))
        features = depthwise_conv2d(x, kernel[:, :, 0], self.stride) + bias.reshape(1, 1, 1, -1)
        poses = make_squash(self.squash)(group_channels(features, self.pose_size))
        self.sow("intermediates", "poses", poses, lambda _, new: new, lambda: None)
        return Capsules(poses, safe_norm(poses, eps=self.eps))
