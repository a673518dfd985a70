"""Floating-point operations of the direct network, by which forms of computation are compared.

"Nominal" operations: two for each multiplication and addition of the two convolutions, the votes
and the decoder, however the work is really done. So a form that needs fewer operations than the
direct one (a convolution in the frequency domain) may exceed the rate of matrix products.
Routing, squash, losses and Adam are left out: a few percent of the operations.
"""

import itertools
import math

from ml_collections import ConfigDict

from capsjax.kernels.conv import output_size


def forward_operations(
    model: ConfigDict, image_shape: tuple[int, int, int], num_classes: int
) -> dict[str, int]:
    """Count the operations of one image's forward pass, by part of the network.

    Args:
      model: `config.model`.
      image_shape: (h, w, c).
      num_classes: number of class capsules.
    """
    *size, channels = image_shape
    conv, primary = model.conv, model.primary_caps
    size = [output_size(pixels, conv.kernel_size, conv.stride) for pixels in size]
    first = math.prod(size) * conv.features * conv.kernel_size**2 * channels
    size = [output_size(pixels, primary.kernel_size, primary.stride) for pixels in size]
    outputs = math.prod(size) * primary.types * primary.pose_size
    second = outputs * primary.kernel_size**2 * conv.features
    class_size = num_classes * model.class_caps.pose_size
    widths = [class_size, *model.decoder.hidden, math.prod(image_shape)]
    products = {
        "conv": first,
        "primary_caps": second,
        "votes": outputs * class_size,
        "decoder": sum(before * after for before, after in itertools.pairwise(widths)),
    }
    return {name: 2 * count for name, count in products.items()}


def step_operations(
    model: ConfigDict,
    image_shape: tuple[int, int, int],
    num_classes: int,
    batch_size: int,
    training: bool,
) -> int:
    """Count the operations of a batch: forward, or a training step, which is three times that.

    The gradient of a layer costs as much with respect to its weights as with respect to its
    input, and each as much as the layer. The images need no gradient.
    """
    forward = forward_operations(model, image_shape, num_classes)
    each = sum(forward.values())
    return batch_size * (3 * each - forward["conv"] if training else each)
