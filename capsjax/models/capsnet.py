"""CapsNet: a convolution, primary capsules, any number of capsule layers, and a decoder."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float, Int, Key

from capsjax.kernels.compute import Compute
from capsjax.kernels.conv import check_fits, output_size
from capsjax.layers import Conv, ConvCaps, Decoder, DenseCaps, PrimaryCaps
from capsjax.layers.readout import make_readout
from capsjax.models.decoding import check_decoder
from capsjax.models.images import check_images
from capsjax.models.output import Output
from capsjax.ops import mask_poses
from capsjax.routing import Routing
from capsjax.tasks import Classification, Task


class CapsNet(nn.Module):
    """The capsule network of the paper, for images of any size.

    Image -> Conv, ReLU -> PrimaryCaps -> any number of ConvCaps -> DenseCaps (one capsule for
    each class) -> Decoder. The paper's network has no ConvCaps.

    Attributes:
      image_shape: (h, w, c).
      num_classes: number j of class capsules.
      routing: a routing algorithm (see `capsjax.routing`).
      conv, primary_caps, class_caps: settings of `Conv`, `PrimaryCaps` and `DenseCaps`.
      decoder: settings of `Decoder`, or None for a network without one.
      conv_caps: settings of each `ConvCaps`, in order.
      readout: what makes the class scores: a name of `capsjax.layers.readout.READOUTS`, or "auto"
        for that of the routing algorithm.
      task: what labels mean (see `capsjax.tasks`).
      batch_axis: device axis that a batch is divided over, a field of every model; not used, as
        nothing here depends on the batch.

    Raises:
      ValueError: at the first call, if the image is too small for the kernels.

    Source: Sabour et al. 2017, section 4, figures 1 and 2.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    routing: Routing
    conv: Mapping[str, Any]
    primary_caps: Mapping[str, Any]
    class_caps: Mapping[str, Any]
    decoder: Mapping[str, Any] | None
    conv_caps: Sequence[Mapping[str, Any]] = ()
    readout: str = "auto"
    task: Task = Classification()
    batch_axis: str | None = None

    def setup(self):
        self._check_sizes()
        self.conv_layer = Conv(**self.conv)
        self.primary_layer = PrimaryCaps(**self.primary_caps)
        self.capsule_layers = [
            ConvCaps(routing=self.routing, **settings, name=f"conv_caps_{index}")
            for index, settings in enumerate(self.conv_caps)
        ]
        self.class_layer = DenseCaps(
            num_capsules=self.num_classes, routing=self.routing, **self.class_caps
        )
        self.readout_layer = make_readout(self.readout, self.routing)
        if self.decoder is not None:
            self.decoder_layer = Decoder(self.image_shape, **self.decoder)

    def __call__(
        self,
        images: Float[Array, "n h w c"],
        labels: Int[Array, "n *label"] | None = None,
        keys: Key[Array, "n"] | None = None,
    ) -> Output:
        """Classify and reconstruct.

        Args:
          images: in [0, 1].
          labels: what to reconstruct, as in training; None reconstructs each image from the capsule
            of the highest score, as in testing.
          keys: not used; nothing here is random.
        """
        check_images(images, self.image_shape)
        capsules = self.primary_layer(self.conv_layer(images), rectify=True)
        for layer in self.capsule_layers:
            capsules, _ = layer(capsules)
        classes, _ = self.class_layer(capsules)
        scores = self.readout_layer(classes)
        if self.decoder is None:
            return Output(scores, classes.poses)
        mask = self.task.mask(scores, labels)
        return Output(scores, classes.poses, self.decode(classes.poses, mask))

    def decode(
        self, poses: Float[Array, "n j d"], mask: Float[Array, "n j"]
    ) -> Float[Array, "n h w c"]:
        """Decode class poses, all but those that the mask selects set to zero.

        Raises:
          ValueError: if the network has no decoder.
        """
        check_decoder(self.decoder)
        return self.decoder_layer(mask_poses(poses, mask))

    def chosen_forms(self, batch_size: int) -> dict[str, str]:
        """Return what "auto" means on this machine: forms of convolutions and votes, and dtype."""
        forms = {
            name: settings.get("compute", Compute()).form_of(
                (batch_size, *image), kernel, settings["stride"]
            )
            for name, settings, image, kernel in self._convolutions()
        }
        compute = self.class_caps.get("compute", Compute())
        votes = compute.form_of_votes(self.routing)
        return {**forms, "votes": votes, "dtype": compute.chosen_dtype}

    def num_primary_caps(self) -> int:
        """Return the number of primary capsules of an image; 0 if the kernels do not fit."""
        *_, (_, settings, (h, w, _), (kernel, *_, features)) = self._convolutions()
        sizes = [output_size(size, kernel, settings["stride"]) for size in (h, w)]
        return math.prod(max(size, 0) for size in sizes) * (features // settings["pose_size"])

    def _check_sizes(self) -> None:
        for name, _, image, kernel in self._convolutions():
            check_fits(image[:2], kernel[:2], f"model.{name}")

    def _convolutions(self) -> Iterator[tuple[str, Mapping[str, Any], tuple, tuple]]:
        """Yield name, settings, image (h, w, c) and kernel (kh, kw, c, o) of each, in order."""
        h, w, c = self.image_shape
        primary = self.primary_caps["types"] * self.primary_caps["pose_size"]
        for name, settings, features in (
            ("conv", self.conv, self.conv["features"]),
            ("primary_caps", self.primary_caps, primary),
        ):
            kernel, stride = settings["kernel_size"], settings["stride"]
            yield name, settings, (h, w, c), (kernel, kernel, c, features)
            h, w, c = output_size(h, kernel, stride), output_size(w, kernel, stride), features
