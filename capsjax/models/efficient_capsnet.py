"""Efficient-CapsNet: convolutions, depthwise primary capsules, self-attention routing."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float, Int, Key

from capsjax.kernels.compute import Compute
from capsjax.kernels.conv import check_fits, output_size
from capsjax.layers import Conv, Decoder, DenseCaps, DepthwiseCaps, UpsamplingDecoder
from capsjax.layers.feature_norm import FeatureNorm
from capsjax.layers.readout import make_readout
from capsjax.models.decoding import check_decoder
from capsjax.models.images import check_images
from capsjax.models.output import Output
from capsjax.models.sections import settings_of_layers
from capsjax.ops import mask_poses
from capsjax.registry import look_up, settings_in
from capsjax.routing import ROUTING, Routing, make_routing, settings_of
from capsjax.tasks import Classification, Task

ONE_CLASS = Classification()
# All capsules of the network are squashed in the same way.
SQUASH = "exponential"


class EfficientCapsNet(nn.Module):
    """The network of Mazzia et al., for images of any size that its kernels fit.

    Image -> convolutions, each with leaky ReLU and norm -> DepthwiseCaps -> DenseCaps (one capsule
    for each class) -> decoder.

    Attributes:
      image_shape: (h, w, c).
      num_classes: number j of class capsules.
      routing: a routing algorithm (see `capsjax.routing`).
      conv: settings of each `Conv`, in order.
      negative_slope: slope of the leaky ReLU below zero; 0 is the ReLU.
      norm: settings of `FeatureNorm`.
      primary_caps, class_caps: settings of `DepthwiseCaps` and `DenseCaps`.
      decoder: settings of `make_decoder`, or None for a network without one.
      readout: what makes the class scores, see `capsjax.layers.readout.make_readout`.
      task: what labels mean (see `capsjax.tasks`).
      batch_axis: device axis that a batch is divided over, so that batch norm covers the whole
        batch; None for one device.

    Raises:
      ValueError: at the first call, if the image is too small for the kernels.

    Source: Mazzia et al. 2021, section "Methods", and their released code.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    routing: Routing
    conv: Sequence[Mapping[str, Any]]
    negative_slope: float
    norm: Mapping[str, Any]
    primary_caps: Mapping[str, Any]
    class_caps: Mapping[str, Any]
    decoder: Mapping[str, Any] | None
    readout: str = "auto"
    task: Task = Classification()
    batch_axis: str | None = None

    def setup(self):
        for name, _, image, kernel in self._convolutions():
            check_fits(image[:2], kernel[:2], name)
        self.conv_layers = [
            Conv(**settings, name=f"conv_{index}") for index, settings in enumerate(self.conv)
        ]
        self.norm_layers = [
            FeatureNorm(**self.norm, batch_axis=self.batch_axis, name=f"norm_{index}")
            for index in range(len(self.conv))
        ]
        self.primary_layer = DepthwiseCaps(**self.primary_caps, squash=SQUASH)
        self.class_layer = DenseCaps(
            num_capsules=self.num_classes, routing=self.routing, **self.class_caps
        )
        self.readout_layer = make_readout(self.readout, self.routing)
        if self.decoder is not None:
            self.decoder_layer = make_decoder(self.image_shape, **self.decoder)

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
          keys: given in training, where batch norm takes the mean and variance of the batch; None,
            as in testing, takes the running ones. Nothing here is random.
        """
        check_images(images, self.image_shape)
        x = images
        for conv, norm in zip(self.conv_layers, self.norm_layers, strict=True):
            x = norm(nn.leaky_relu(conv(x), self.negative_slope), training=keys is not None)
        classes, _ = self.class_layer(self.primary_layer(x))
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
            if name != "primary_layer"  # which has one form
        }
        compute = self.class_caps.get("compute", Compute())
        votes = compute.form_of_votes(self.routing)
        return {**forms, "votes": votes, "dtype": compute.chosen_dtype}

    def _convolutions(self) -> Iterator[tuple[str, Mapping[str, Any], tuple, tuple]]:
        """Yield name, settings, image (h, w, c) and kernel (kh, kw, c, o) of each, in order."""
        h, w, c = self.image_shape
        layers = [(f"conv_{index}", settings) for index, settings in enumerate(self.conv)]
        for name, settings in (*layers, ("primary_layer", self.primary_caps)):
            size, stride = settings["kernel_size"], settings["stride"]
            features = settings.get("features", c)
            yield name, settings, (h, w, c), (size, size, c, features)
            h, w, c = output_size(h, size, stride), output_size(w, size, stride), features


def make_decoder(
    image_shape: tuple[int, int, int],
    *,
    name: str,
    hidden: Sequence[int],
    features: Sequence[int],
    kernel_init: str,
    pixels_init: str,
    bias_init: str,
) -> nn.Module:
    """Make the decoder of a given name.

    Args:
      image_shape: (h, w, c).
      name: "dense" for `Decoder`, "upsampling" for `UpsamplingDecoder`.
      hidden, pixels_init: settings of `Decoder`.
      features: a setting of `UpsamplingDecoder`.
      kernel_init, bias_init: settings of both.

    Raises:
      ValueError: for an unknown name (the nearest one is named).
    """
    both = {"kernel_init": kernel_init, "bias_init": bias_init}
    decoders = {
        "dense": lambda: Decoder(image_shape, hidden, pixels_init=pixels_init, **both),
        "upsampling": lambda: UpsamplingDecoder(image_shape, features, **both),
    }
    return look_up(decoders, name, "decoder (model.decoder.name)")()


def make_efficient_capsnet(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    conv: Mapping[str, Any],
    negative_slope: float,
    norm: Mapping[str, Any],
    primary_caps: Mapping[str, Any],
    class_caps: Mapping[str, Any],
    routing: Mapping[str, Any],
    readout: str,
    decoder: Mapping[str, Any],
    use_decoder: bool,
    compute: Mapping[str, Any],
    task: Task = ONE_CLASS,
) -> EfficientCapsNet:
    """Make an `EfficientCapsNet` from the sub-dicts of a config.

    A routing algorithm that has a setting `squash` gets the network's.
    """
    how = Compute(**compute)
    layers = settings_of_layers(conv, Conv.__dataclass_fields__, "model.conv")
    settings = settings_in(routing, ROUTING)
    if "squash" in settings_of(routing["name"]):
        settings["squash"] = SQUASH
    return EfficientCapsNet(
        image_shape=tuple(image_shape),
        num_classes=num_classes,
        routing=make_routing(routing["name"], **settings),
        conv=tuple(
            {**layer, "compute": how.of_layer(f"conv_{index}")}
            for index, layer in enumerate(layers)
        ),
        negative_slope=negative_slope,
        norm=dict(norm),
        primary_caps=dict(primary_caps),
        class_caps={**class_caps, "compute": how},
        decoder=dict(decoder) if use_decoder else None,
        readout=readout,
        task=task,
    )
