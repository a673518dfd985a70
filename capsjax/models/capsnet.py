"""CapsNet: two convolutions, primary capsules, class capsules, and a decoder."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from jaxtyping import Array, Float, Int, Key

from capsjax.compute import Compute
from capsjax.conv import check_fits, choose_form, output_size
from capsjax.layers import Conv, Decoder, DenseCaps, PrimaryCaps
from capsjax.models.images import check_images
from capsjax.ops import mask_of_labels, mask_of_longest, mask_poses
from capsjax.routing import Routing


class CapsNetOutput(NamedTuple):
    """What a forward pass gives.

    Attributes:
      lengths: class scores, the lengths of the class capsules, (n, j).
      poses: class capsules v, (n, j, d).
      reconstruction: images, (n, h, w, c) in [0, 1]; None without a decoder.
      intermediates: by name, primary poses u (n, i, p), votes u_hat (n, i, j, d) and coupling
        coefficients c (n, i, j).
    """

    lengths: Float[Array, "n j"]
    poses: Float[Array, "n j d"]
    reconstruction: Float[Array, "n h w c"] | None
    intermediates: dict[str, Array]

    @property
    def scores(self) -> Float[Array | np.ndarray, "n j"]:
        """What the classes are told by: the lengths."""
        return self.lengths


class CapsNet(nn.Module):
    """The capsule network of the paper, for images of any size.

    Image -> Conv, ReLU -> PrimaryCaps -> DenseCaps (one capsule for each class) -> Decoder.

    Attributes:
      image_shape: (h, w, c).
      num_classes: number j of class capsules.
      routing: a routing algorithm (see `capsjax.routing`).
      conv, primary_caps, class_caps: settings of `Conv`, `PrimaryCaps` and `DenseCaps`.
      decoder: settings of `Decoder`, or None for a network without one.

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

    def setup(self):
        self._check_sizes()
        self.conv_layer = Conv(**self.conv)
        self.primary_layer = PrimaryCaps(**self.primary_caps)
        self.class_layer = DenseCaps(
            num_capsules=self.num_classes, routing=self.routing, **self.class_caps
        )
        if self.decoder is not None:
            self.decoder_layer = Decoder(self.image_shape, **self.decoder)

    def __call__(
        self,
        images: Float[Array, "n h w c"],
        labels: Int[Array, "n"] | None = None,
        keys: Key[Array, "n"] | None = None,
    ) -> CapsNetOutput:
        """Classify and reconstruct.

        Args:
          images: in [0, 1].
          labels: the classes to reconstruct, as in training; None reconstructs each image from
            its longest capsule, as in testing.
          keys: not used; nothing here is random.
        """
        check_images(images, self.image_shape)
        u = self.primary_layer(nn.relu(self.conv_layer(images)))
        (v, lengths, c), u_hat = self.class_layer(u)
        if self.decoder is None:
            reconstruction = None
        elif labels is None:
            reconstruction = self.decode(v, mask_of_longest(lengths))
        else:
            reconstruction = self.decode(v, mask_of_labels(labels, self.num_classes))
        return CapsNetOutput(lengths, v, reconstruction, {"u": u, "u_hat": u_hat, "c": c})

    def decode(
        self, poses: Float[Array, "n j d"], mask: Float[Array, "n j"]
    ) -> Float[Array, "n h w c"]:
        """Images from class poses, all but those that the mask selects set to zero.

        Raises:
          ValueError: if the network has no decoder.
        """
        if self.decoder is None:
            raise ValueError("this network has no decoder (config.model.use_decoder is False)")
        return self.decoder_layer(mask_poses(poses, mask))

    def chosen_forms(self, batch_size: int) -> dict[str, str]:
        """What "auto" means on this machine: the forms of the convolutions, votes and dtype."""
        forms = {}
        for name, settings, image, kernel in self._convolutions():
            form = settings.get("compute", Compute()).conv
            if form == "auto":
                form = choose_form((batch_size, *image), kernel, settings["stride"])
            forms[name] = form
        compute = self.class_caps.get("compute", Compute())
        recomputed = compute.recomputes_votes(self.routing)
        votes = "recomputed" if recomputed else "held"
        return {**forms, "votes": votes, "dtype": compute.chosen_dtype}

    def _check_sizes(self) -> None:
        for name, _, image, kernel in self._convolutions():
            check_fits(image[:2], kernel[:2], f"model.{name}")

    def _convolutions(self) -> Iterator[tuple[str, Mapping[str, Any], tuple, tuple]]:
        """Name, settings, image (h, w, c) and kernel (kh, kw, c, o) of each, in their order."""
        h, w, c = self.image_shape
        primary = self.primary_caps["types"] * self.primary_caps["pose_size"]
        for name, settings, features in (
            ("conv", self.conv, self.conv["features"]),
            ("primary_caps", self.primary_caps, primary),
        ):
            kernel, stride = settings["kernel_size"], settings["stride"]
            yield name, settings, (h, w, c), (kernel, kernel, c, features)
            h, w, c = output_size(h, kernel, stride), output_size(w, kernel, stride), features
