"""Convolutions with batch norm, of which the backbones in front of capsules are made."""

from collections.abc import Iterable
from typing import NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float

from capsjax.kernels.compute import Compute
from capsjax.layers.conv import Conv


class Convolution(NamedTuple):
    """A convolution of a backbone, padded and without a bias.

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


def convolve(
    layer: nn.Module, convolution: Convolution, x: Float[Array, "n h w c"], training: bool
) -> Float[Array, "n y x o"]:
    """Convolve and normalise over the batch, within the compact method of a layer.

    Args:
      layer: has the settings `kernel_init`, `momentum`, `epsilon`, `batch_axis` and `compute` of
        its convolutions, see `ResidualNet`.
      convolution: one of them.
      x: images.
      training: as in `ResidualNet`.
    """
    x = Conv(
        convolution.features,
        convolution.kernel_size,
        convolution.stride,
        padded=True,
        use_bias=False,
        kernel_init=layer.kernel_init,
        compute=layer.compute.of_layer(convolution.name),
        name=convolution.name,
    )(x)
    return nn.BatchNorm(
        use_running_average=not training,
        axis_name=layer.batch_axis if training else None,
        momentum=layer.momentum,
        epsilon=layer.epsilon,
        name=f"{convolution.name}_norm",
    )(x)


def forms_of(
    convolutions: Iterable[Convolution], batch_size: int, compute: Compute
) -> dict[str, str]:
    """Return the form in which each convolution is computed, by name."""
    forms = {}
    for each in convolutions:
        kernel = (each.kernel_size, each.kernel_size, each.image[-1], each.features)
        images = (batch_size, *each.padded_image)
        forms[each.name] = compute.of_layer(each.name).form_of(images, kernel, each.stride)
    return forms
