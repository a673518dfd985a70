"""Residual convolutions, the backbone in front of the capsules of several published networks."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from capsjax.kernels.compute import Compute
from capsjax.layers.normed_conv import Convolution, convolve
from capsjax.registry import look_up

# Whether a shortcut has parameters.
SHORTCUTS = {"convolution": True, "padded": False}


class Block(NamedTuple):
    """A residual block: two convolutions, and a third around them where a shortcut has one."""

    first: Convolution
    second: Convolution
    shortcut: Convolution | None


class ResidualNet(nn.Module):
    """Stages of residual blocks, (n, h, w, c) -> (n, y, x, features of the last stage).

    A convolution of 3 x 3 with batch norm and ReLU comes first. A block adds its input to two such
    convolutions, with a ReLU after the sum. Where a stage begins with another size, a shortcut
    makes the input fit. Convolutions have no bias.

    Attributes:
      features: channels of each stage; the first convolution has those of the first stage.
      blocks: number of blocks of each stage.
      stride: stride of the first block of each stage.
      shortcut: "convolution" of 1 x 1 with batch norm; or "padded", without parameters, which skips
        rows and columns and adds channels of zeros, half before and half after those of the input.
      kernel_init: specification of `initializers`.
      momentum: share of the running means and variances that is kept at each step.
      epsilon: added to variances.
      batch_axis: device axis that a batch is divided over, so that batch norm covers the whole
        batch; None for one device.
      compute: how the convolutions are computed.

    Raises:
      ValueError: at the first call, if features, blocks and stride differ in length, for an unknown
        shortcut, or a padded one to fewer channels.

    Source: He et al. 2016, section 4.2; padded shortcuts: section 3.3, option A.
    """

    features: Sequence[int] = (64, 128)
    blocks: Sequence[int] = (3, 4)
    stride: Sequence[int] = (1, 2)
    shortcut: str = "convolution"
    kernel_init: str = "fan_in_uniform"
    momentum: float = 0.9
    epsilon: float = 1e-5
    batch_axis: str | None = None
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], training: bool) -> Float[Array, "n y x o"]:
        """Convolve; in training batch norm takes the mean and variance of the batch."""
        stem, blocks = self._plan(x.shape[1:])
        x = jax.nn.relu(convolve(self, stem, x, training))
        for first, second, shortcut in blocks:
            residual = jax.nn.relu(convolve(self, first, x, training))
            residual = convolve(self, second, residual, training)
            if shortcut is not None:
                x = convolve(self, shortcut, x, training)
            elif x.shape != residual.shape:
                x = _fit(x, first.stride, residual.shape[-1])
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
        learned = look_up(SHORTCUTS, self.shortcut, "shortcut (model.backbone.shortcut)")
        if not learned and list(self.features) != sorted(self.features):
            raise ValueError(
                "padded shortcuts have no fewer channels after a stage than before it, but "
                f"model.backbone.features are {tuple(self.features)}: use "
                "model.backbone.shortcut='convolution'"
            )
        stem = Convolution("stem", tuple(image), self.features[0], 3, 1)
        blocks, image = [], stem.output
        for stage, count in enumerate(self.blocks):
            for index in range(count):
                stride = self.stride[stage] if index == 0 else 1
                block = _plan_block(f"{stage}_{index}", image, self.features[stage], stride)
                blocks.append(block if learned else block._replace(shortcut=None))
                image = block.second.output
        return stem, blocks


def _plan_block(number: str, image: tuple[int, int, int], features: int, stride: int) -> Block:
    first = Convolution(f"block_{number}_first", image, features, 3, stride)
    second = Convolution(f"block_{number}_second", first.output, features, 3, 1)
    changes = stride != 1 or image[2] != features
    shortcut = Convolution(f"block_{number}_shortcut", image, features, 1, stride)
    return Block(first, second, shortcut if changes else None)


def _fit(x: Array, stride: int, features: int) -> Array:
    """Skip rows and columns, and add channels of zeros around those that there are."""
    x = x[:, ::stride, ::stride]
    more = features - x.shape[-1]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (more // 2, more - more // 2)))
