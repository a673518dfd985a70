"""Plain convolutions, a small backbone in front of capsules."""

from collections.abc import Iterator, Sequence

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from capsjax.kernels.compute import Compute
from capsjax.layers.normed_conv import Convolution, convolve


class PlainNet(nn.Module):
    """Convolutions of 3 x 3, each with batch norm and ReLU, (n, h, w, c) -> (n, y, x, features).

    Attributes:
      features: channels of each convolution.
      stride: stride of each.
      kernel_init, momentum, epsilon, batch_axis, compute: as in `ResidualNet`.

    Raises:
      ValueError: at the first call, if features and stride differ in length.

    Source: the released code of Hahn et al. 2019, for smallNORB.
    """

    features: Sequence[int] = (16, 32, 32, 64, 64, 128)
    stride: Sequence[int] = (1, 2, 1, 2, 1, 2)
    kernel_init: str = "he_uniform"
    momentum: float = 0.9
    epsilon: float = 1e-5
    batch_axis: str | None = None
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], training: bool) -> Float[Array, "n y x o"]:
        """Convolve; in training batch norm takes the mean and variance of the batch."""
        for convolution in self.convolutions(x.shape[1:]):
            x = jax.nn.relu(convolve(self, convolution, x, training))
        return x

    def convolutions(self, image: tuple[int, int, int]) -> Iterator[Convolution]:
        """Yield all convolutions of images (h, w, c)."""
        if not len(self.features) == len(self.stride) > 0:
            raise ValueError(
                "features and stride of model.backbone have a value for each convolution, not "
                f"{tuple(self.features)} and {tuple(self.stride)}"
            )
        for index, (features, stride) in enumerate(zip(self.features, self.stride, strict=True)):
            convolution = Convolution(f"plain_{index}", tuple(image), features, 3, stride)
            yield convolution
            image = convolution.output
