"""Networks of matrix capsules, which EM routing and variational Bayes routing share."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from capsjax.kernels.compute import Compute
from capsjax.kernels.conv import check_fits, output_size
from capsjax.layers import Conv, ConvCaps, DenseCaps
from capsjax.layers.capsule_norm import CapsuleNorm
from capsjax.layers.coordinates import Centres, make_coordinates
from capsjax.layers.feature_norm import FeatureNorm
from capsjax.layers.image_input import ImageInput, cropped_shape, does_nothing
from capsjax.layers.readout import make_readout
from capsjax.layers.sigmoid_caps import SigmoidCaps
from capsjax.layers.votes import VOTES
from capsjax.models.images import check_images
from capsjax.models.output import Output
from capsjax.models.sections import settings_of_layers
from capsjax.registry import look_up
from capsjax.routing import Routing


class MatrixCapsules(nn.Module):
    """A network whose capsules have a matrix and an activation, for images of any size.

    Image -> Conv, ReLU -> SigmoidCaps -> any number of ConvCaps -> DenseCaps (one capsule for each
    class). An `ImageInput` may come before the convolution, and a batch norm after it and after
    each layer of capsules.

    Attributes:
      image_shape: (h, w, c) of images, before they are cropped.
      num_classes: number j of class capsules.
      routing, class_routing: routing algorithms (see `capsjax.routing`) of the `ConvCaps` and of
        the class capsules.
      conv, primary_caps: settings of `Conv` and `SigmoidCaps`.
      conv_caps: settings of each `ConvCaps`, in order.
      class_caps: settings of the class capsules, a `DenseCaps`.
      readout: what makes the class scores, see `make_readout`.
      batch_norm: `momentum` and `epsilon` of batch norms; None for a network without any. Logits of
        activations are normalised where the routing algorithm returns them (`activation` is
        "logit"); activations are not.
      batch_axis: device axis that a batch is divided over, so that batch norm covers the whole
        batch; None for one device.
      image_input: settings of `ImageInput`; None for images as they are.

    Raises:
      ValueError: at the first call, for settings that do not fit together, or an image that is too
        small for the windows or the crop.

    Source: Hinton et al. 2018, section 4, figure 1; with a batch norm De Sousa Ribeiro et al. 2020.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    routing: Routing
    class_routing: Routing
    conv: Mapping[str, Any]
    primary_caps: Mapping[str, Any]
    conv_caps: Sequence[Mapping[str, Any]]
    class_caps: Mapping[str, Any]
    readout: str = "activation"
    batch_norm: Mapping[str, Any] | None = None
    batch_axis: str | None = None
    image_input: Mapping[str, Any] | None = None

    def setup(self):
        check_fits(self.seen_shape[:2], (self.conv["kernel_size"],) * 2, "model.conv")
        norm = {"batch_norm": self.batch_norm, "batch_axis": self.batch_axis}
        if self.image_input is not None:
            self.input_layer = ImageInput(**self.image_input)
        self.conv_layer = Conv(**self.conv)
        if self.batch_norm is not None:
            self.conv_norm = FeatureNorm(**self.batch_norm, batch_axis=self.batch_axis)
        self.primary_layer = SigmoidCaps(**self.primary_caps, **norm)
        self.capsule_layers = [
            ConvCaps(routing=self.routing, **settings, name=f"conv_caps_{index}")
            for index, settings in enumerate(self.conv_caps)
        ]
        self.capsule_norms = [
            CapsuleNorm(logits=_returns_logits(self.routing), **norm, name=f"conv_norm_{index}")
            for index in range(len(self.conv_caps))
        ]
        self.class_layer = DenseCaps(
            self.num_classes,
            routing=self.class_routing,
            **self.class_caps,
        )
        self.class_norm = CapsuleNorm(logits=_returns_logits(self.class_routing), **norm)
        self.readout_layer = make_readout(self.readout, self.routing)

    @property
    def seen_shape(self) -> tuple[int, int, int]:
        """Shape (h, w, c) of what the convolution sees of an image."""
        return _seen_shape(self.image_shape, self.image_input)

    def __call__(
        self,
        images: Float[Array, "n h w c"],
        labels: Int[Array, "n *label"] | None = None,
        keys: Key[Array, "n"] | None = None,
    ) -> Output:
        """Classify.

        Args:
          images: in [0, 1].
          labels: not used; there is no decoder.
          keys: given in training, where batch norm takes the mean and variance of the batch, and
            crops are random. None, as in testing, for the running mean and variance, and the
            crops of testing. With 13 of them, scores are the means of theirs, and poses those of
            the central one.
        """
        check_images(images, self.image_shape)
        training, num_images = keys is not None, images.shape[0]
        if self.image_input is not None:
            images = self.input_layer(images, keys)
        features = self.conv_layer(images)
        if self.batch_norm is not None:
            features = self.conv_norm(features, training)
        capsules = self.primary_layer(nn.relu(features), training)
        layers = [*self.capsule_layers, self.class_layer]
        norms = [*self.capsule_norms, self.class_norm]
        for layer, norm in zip(layers, norms, strict=True):
            capsules, _ = layer(capsules)
            capsules = norm(capsules, training)
        scores = self.readout_layer(capsules)
        crops = scores.reshape(-1, num_images, scores.shape[-1])
        return Output(jnp.mean(crops, axis=0), capsules.poses[:num_images])

    def decode(self, poses: Array, mask: Array) -> Array:
        """Raise an error: there is no decoder.

        Raises:
          ValueError: always.
        """
        raise ValueError("networks of matrix capsules have no decoder")

    def chosen_forms(self, batch_size: int) -> dict[str, str]:
        """Return what "auto" means on this machine: forms of convolutions and votes, and dtype."""
        forms, image = {}, self.seen_shape
        primary = self.primary_caps["types"] * (self.primary_caps["pose_size"] + 1)
        for name, settings, features in (
            ("conv", self.conv, self.conv["features"]),
            ("primary_caps", self.primary_caps, primary),
        ):
            kernel, stride = settings["kernel_size"], settings["stride"]
            forms[name] = settings["compute"].form_of(
                (batch_size, *image), (kernel, kernel, image[-1], features), stride
            )
            image = (*(output_size(size, kernel, stride) for size in image[:2]), features)
        compute = self.class_caps["compute"]
        return {**forms, "votes": compute.votes, "dtype": compute.chosen_dtype}


def make_matrix_capsules(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    routing: Routing,
    class_routing: Routing,
    conv: Mapping[str, Any],
    capsules: Mapping[str, Any],
    primary_caps: Mapping[str, Any],
    conv_caps: Mapping[str, Any],
    class_caps: Mapping[str, Any],
    readout: str,
    compute: Mapping[str, Any],
    batch_norm: Mapping[str, Any] | None = None,
    input: Mapping[str, Any] | None = None,
) -> MatrixCapsules:
    """Make a `MatrixCapsules` from the sub-dicts of a config.

    The settings `capsules` are those of all layers of capsules; they all have poses of one size.
    `class_caps` has the settings of the coordinates too: `coordinates`, which is the scale of
    `make_coordinates`, and `entries`. Centres of receptive fields are those in the crop.
    """
    how = Compute(**compute)
    image_input = None if input is None or does_nothing(input) else dict(input)
    shared = {
        **capsules,
        "votes": look_up(VOTES, capsules["votes"], "kind of votes")(),
        "compute": how.grouped_or_held(routing),
    }
    conv = {**conv, "compute": how.of_layer("conv")}
    primary_caps = {
        **primary_caps,
        "pose_size": capsules["pose_size"],
        "kernel_size": 1,
        "stride": 1,
        "compute": how.of_layer("primary_caps"),
    }
    layers = settings_of_layers(conv_caps, ConvCaps.__dataclass_fields__, "model.conv_caps")
    seen = _seen_shape(image_shape, image_input)
    axes = [Centres(size, size) for size in seen[:2]]
    for layer in (conv, *layers):
        axes = [axis.through(layer["kernel_size"], layer["stride"]) for axis in axes]
    class_caps = dict(class_caps)
    scale, entries = class_caps.pop("coordinates"), tuple(class_caps.pop("entries"))
    return MatrixCapsules(
        image_shape=tuple(image_shape),
        num_classes=num_classes,
        routing=routing,
        class_routing=class_routing,
        conv=conv,
        primary_caps=primary_caps,
        conv_caps=tuple({**layer, **shared} for layer in layers),
        class_caps={
            **class_caps,
            **shared,
            "shared": "positions",
            "coordinates": make_coordinates(scale, *axes, entries),
        },
        readout=readout,
        batch_norm=batch_norm,
        image_input=image_input,
    )


def _seen_shape(
    image_shape: tuple[int, int, int], image_input: Mapping[str, Any] | None
) -> tuple[int, int, int]:
    if image_input is None:
        return image_shape
    return cropped_shape(image_shape, image_input["crop"], image_input["crops"])


def _returns_logits(routing: Routing) -> bool:
    return getattr(routing, "activation", None) == "logit"
