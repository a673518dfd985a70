"""A plain U-Net, the network without capsules that capsules for maps are compared with."""

from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from capsjax.kernels.compute import Compute
from capsjax.kernels.conv import border_of_transposed
from capsjax.layers import Conv, Pool, TransposedConv
from capsjax.layers.pooling import MaxPooling
from capsjax.models.images import check_images
from capsjax.models.maps import check_map_task, with_background
from capsjax.models.output import Output
from capsjax.tasks import Task

WINDOW = (2, 2)


class UNet(nn.Module):
    """A U-Net, for images of any size.

    Image -> at each level two padded convolutions with ReLU, and a max pooling of 2x2 to the next
    -> back at each level a transposed convolution, joined with what left the level, and two
    convolutions -> a convolution of 1x1 and a sigmoid for each class but the background.

    Scores have the form of those of `SegCaps`: the background has 1 - the largest.

    Attributes:
      image_shape: (h, w, c).
      num_classes: number of classes with the background, which is 0.
      conv: settings of the convolutions: `features`, the channels of each level; the others, shared
        by all, as in `Conv`.
      up: settings of `TransposedConv`, shared by all.
      batch_axis: device axis that a batch is divided over, a field of every model; not used, as
        nothing here depends on the batch.

    Source: Ronneberger et al. 2015, with padding.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    conv: Mapping[str, Any]
    up: Mapping[str, Any]
    batch_axis: str | None = None

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "n h w c"],
        labels: Int[Array, "n h w"] | None = None,
        keys: Key[Array, "n"] | None = None,
    ) -> Output:
        """Score each pixel.

        Args:
          images: in [0, 1].
          labels: not used; there is no decoder.
          keys: not used; nothing here is random.
        """
        check_images(images, self.image_shape)
        last = len(self.conv["features"]) - 1
        x, larger = images, []
        for level in range(last + 1):
            x = self._convolve_twice(x, level, "down")
            if level < last:
                larger.append(x)
                x = Pool(MaxPooling(), WINDOW)(x)
        for level in reversed(range(last)):
            name, features = f"up_{level}", self.conv["features"][level]
            settings = {**self.up, "compute": self.conv["compute"].of_layer(name)}
            x = TransposedConv(features, **settings, name=name)(x)
            wide = larger.pop()
            # Where a size was odd, the pooling rounded it up.
            x = jnp.concatenate([x[:, : wide.shape[1], : wide.shape[2]], wide], axis=-1)
            x = self._convolve_twice(x, level, "merge")
        settings = {**self._settings("scores", self.num_classes - 1), "kernel_size": 1}
        return Output(with_background(nn.sigmoid(Conv(**settings, name="scores")(x))))

    def decode(self, poses: Array, mask: Array) -> Array:
        """Raise an error: there is no decoder.

        Raises:
          ValueError: always.
        """
        raise ValueError("this is a network without capsules and a decoder")

    def chosen_forms(self, batch_size: int) -> dict[str, str]:
        """Return what "auto" means on this machine: form of each convolution, and dtype."""
        forms = {
            name: self.conv["compute"].of_layer(name).form_of((batch_size, *image), kernel, 1)
            for name, image, kernel in self._convolutions()
        }
        return {**forms, "dtype": self.conv["compute"].chosen_dtype}

    def _settings(self, name: str, features: int) -> dict[str, Any]:
        compute = self.conv["compute"].of_layer(name)
        return {**self.conv, "features": features, "padded": True, "compute": compute}

    def _convolve_twice(self, x: Array, level: int, way: str) -> Array:
        for index in range(2):
            name = f"{way}_{level}_{index}"
            settings = self._settings(name, self.conv["features"][level])
            x = nn.relu(Conv(**settings, name=name)(x))
        return x

    def _convolutions(self) -> Iterator[tuple[str, tuple, tuple]]:
        """Yield name, padded image and kernel of each convolution, in order."""
        features, size = self.conv["features"], self.conv["kernel_size"]
        (h, w, c), larger = self.image_shape, []

        def twice(level: int, way: str, c: int) -> Iterator[tuple[str, tuple, tuple]]:
            for index in range(2):
                kernel = (size, size, c, features[level])
                yield f"{way}_{level}_{index}", (h + size - 1, w + size - 1, c), kernel
                c = features[level]

        for level in range(len(features)):
            yield from twice(level, "down", c)
            larger.append((h, w))
            h, w, c = -(-h // 2), -(-w // 2), features[level]
        h, w = larger.pop()
        size_up, stride = self.up["kernel_size"], self.up["stride"]
        before, after = border_of_transposed(size_up, stride)
        for level in reversed(range(len(features) - 1)):
            kernel = (before + 1, before + 1, features[level + 1], stride**2 * features[level])
            padded = (h + before + after, w + before + after, features[level + 1])
            yield f"up_{level}", padded, kernel
            h, w = larger.pop()
            yield from twice(level, "merge", 2 * features[level])
        yield "scores", (h, w, features[0]), (1, 1, features[0], self.num_classes - 1)


def make_unet(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    conv: Mapping[str, Any],
    up: Mapping[str, Any],
    compute: Mapping[str, Any],
    task: Task,
) -> UNet:
    """Make a `UNet` from the sub-dicts of a config.

    Raises:
      ValueError: for a task without maps.
    """
    check_map_task(task, num_classes, "unet")
    return UNet(
        image_shape=tuple(image_shape),
        num_classes=num_classes,
        conv={**conv, "compute": Compute(**compute)},
        up={**up, "stride": 2},
    )
