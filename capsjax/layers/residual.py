"""Residual convolutions, the backbone in front of the capsules of several published networks."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from capsjax.kernels.compute import Compute
from capsjax.layers.conv import Conv


class Convolution(NamedTuple):
    """A convolution of a `ResidualNet`, padded and without a bias.

    Attributes:
      name: its name in parameters and in `Compute.conv`.
      image: rows, columns and channels of its input, without the padding.
      features: channels of its output.
      kernel_size, stride: rows and columns.
    """

    name: str
    image: tuple[int, int, int]
    features: int
    kernel_size: int
    stride: int

    @property
    def output(self) -> tuple[int, int, int]:
        """Rows, columns and channels of the output."""
        h, w, _ = self.image
        return -(-h // self.stride), -(-w // self.stride), self.features

    @property
    def padded_image(self) -> tuple[int, int, int]:
        """The image with its padding."""
        h, w, c = self.image
        return h + self.kernel_size - 1, w + self.kernel_size - 1, c


class Block(NamedTuple):
    """A residual block: two convolutions, and a third around them where the size changes."""

    first: Convolution
    second: Convolution
    shortcut: Convolution | None


class ResidualNet(nn.Module):
    """Stages of residual blocks, (n, h, w, c) -> (n, y, x, features of the last stage).

    A convolution of 3 x 3 with batch norm and ReLU comes first. A block adds its input to two such
    convolutions, with a ReLU after the sum; a convolution of 1 x 1 with batch norm changes the
    input where a stage begins with another size. Convolutions have no bias.

    Attributes:
      features: channels of each stage; the first convolution has those of the first stage.
      blocks: number of blocks of each stage.
      stride: stride of the first block of each stage.
      kernel_init: specification of `initializers`.
      momentum: share of the running means and variances that is kept at each step.
      epsilon: added to variances.
      batch_axis: device axis that a batch is divided over, so that batch norm covers the whole
        batch; None for one device.
      compute: how the convolutions are computed.

    Raises:
      ValueError: at the first call, if features, blocks and stride differ in length.

    Source: He et al. 2016, section 4.2.
    """

    features: Sequence[int] = (64, 128)
    blocks: Sequence[int] = (3, 4)
    stride: Sequence[int] = (1, 2)
    kernel_init: str = "fan_in_uniform"
    momentum: float = 0.9
    epsilon: float = 1e-5
    batch_axis: str | None = None
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], training: bool) -> Float[Array, "n y x o"]:
        """Convolve; in training batch norm takes the mean and variance of the batch."""
        stem, blocks = self._plan(x.shape[1:])
        x = jax.nn.relu(self._convolve(stem, x, training))
        for first, second, shortcut in blocks:
            residual = jax.nn.relu(self._convolve(first, x, training))
            residual = self._convolve(second, residual, training)
            if shortcut is not None:
                x = self._convolve(shortcut, x, training)
            x = jax.nn.relu(x + residual)
        return x

    def convolutions(self, image: tuple[int, int, int]) -> Iterator[Convolution]:
        """Yield all convolutions of images (h, w, c)."""
        stem, blocks = self._plan(image)
        yield stem
        for block in blocks:
            yield from filter(None, block)

    def _plan(self, image: tuple[int, int, int]) -> tuple[Convolution, list[Block]]:
        if not len(self.features) == len(self.blocks) == len(self.stride) > 0:
            raise ValueError(
                "features, blocks and stride of model.backbone have a value for each stage, not "
                f"{tuple(self.features)}, {tuple(self.blocks)} and {tuple(self.stride)}"
            )
        stem = Convolution("stem", tuple(image), self.features[0], 3, 1)
        blocks, image = [], stem.output
        for stage, count in enumerate(self.blocks):
            for index in range(count):
                stride = self.stride[stage] if index == 0 else 1
                block = _plan_block(f"{stage}_{index}", image, self.features[stage], stride)
                blocks.append(block)
                image = block.second.output
        return stem, blocks

    def _convolve(self, convolution: Convolution, x: Array, training: bool) -> Array:
        """Convolve and normalise."""
        x = Conv(
            convolution.features,
            convolution.kernel_size,
            convolution.stride,
            padded=True,
            use_bias=False,
            kernel_init=self.kernel_init,
            compute=self.compute.of_layer(convolution.name),
            name=convolution.name,
        )(x)
        return nn.BatchNorm(
            use_running_average=not training,
            axis_name=self.batch_axis if training else None,
            momentum=self.momentum,
            epsilon=self.epsilon,
            name=f"{convolution.name}_norm",
        )(x)


def _plan_block(number: str, image: tuple[int, int, int], features: int, stride: int) -> Block:
    first = Convolution(f"block_{number}_first", image, features, 3, stride)
    second = Convolution(f"block_{number}_second", first.output, features, 3, 1)
    changes = stride != 1 or image[2] != features
    shortcut = Convolution(f"block_{number}_shortcut", image, features, 1, stride)
    return Block(first, second, shortcut if changes else None)
