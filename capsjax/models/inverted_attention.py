"""Inverted attention: a residual network, and capsules that compete for the votes of lower ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float, Int, Key

from capsjax.kernels.compute import Compute
from capsjax.layers import ConvCaps, DenseCaps, PrimaryCaps
from capsjax.layers.normed_conv import Convolution, forms_of
from capsjax.layers.readout import make_readout
from capsjax.layers.residual import ResidualNet
from capsjax.layers.stacks import Updates, plan_updates, route_stack
from capsjax.layers.votes import VOTES
from capsjax.models.images import check_images
from capsjax.models.output import Output
from capsjax.models.sections import settings_of_layers
from capsjax.registry import look_up, settings_in
from capsjax.routing import ROUTING, Routing, make_routing
from capsjax.tasks import Task


class InvertedAttention(nn.Module):
    """The network of inverted dot-product attention routing, for images of any size.

    Image -> ResidualNet -> PrimaryCaps with a layer norm -> any number of ConvCaps -> any number of
    DenseCaps -> DenseCaps (one capsule for each class) -> a score of each class capsule.

    Attributes:
      image_shape: (h, w, c).
      num_classes: number j of class capsules.
      routing: the routing algorithm for one call of a layer (see `capsjax.routing`).
      count, most: number of calls of each layer, see `Updates`.
      backbone: settings of `ResidualNet`.
      primary_caps: settings of `PrimaryCaps`.
      conv_caps, dense_caps: settings of each `ConvCaps` and of each `DenseCaps` before the class
        capsules, in order.
      class_caps: settings of the class capsules, a `DenseCaps`.
      readout: what makes the class scores, see `make_readout`.
      batch_axis: device axis that a batch is divided over, so that batch norm covers the whole
        batch; None for one device.

    Raises:
      ValueError: at the first call, for settings that do not fit together, or an image that is too
        small for the windows.

    Source: Tsai et al. 2020, sections 3 and 4.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    routing: Routing
    backbone: Mapping[str, Any]
    primary_caps: Mapping[str, Any]
    conv_caps: Sequence[Mapping[str, Any]]
    dense_caps: Sequence[Mapping[str, Any]]
    class_caps: Mapping[str, Any]
    count: int | Int[Array, ""] = 1
    most: int = 1
    readout: str = "linear"
    batch_axis: str | None = None

    def setup(self):
        self.backbone_layer = ResidualNet(**self.backbone, batch_axis=self.batch_axis)
        self.primary_layer = PrimaryCaps(**self.primary_caps)
        self.conv_layers = [
            ConvCaps(routing=self.routing, **settings, name=f"conv_caps_{index}")
            for index, settings in enumerate(self.conv_caps)
        ]
        self.dense_layers = [
            DenseCaps(routing=self.routing, **settings, name=f"dense_caps_{index}")
            for index, settings in enumerate(self.dense_caps)
        ]
        self.class_layer = DenseCaps(self.num_classes, routing=self.routing, **self.class_caps)
        self.readout_layer = make_readout(self.readout, self.routing)

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
          keys: given in training, where batch norm takes the mean and variance of the batch. None,
            as in testing, for the running mean and variance.
        """
        check_images(images, self.image_shape)
        features = self.backbone_layer(images, training=keys is not None)
        layers = [*self.conv_layers, *self.dense_layers, self.class_layer]
        updates = Updates(self.routing, self.count, self.most)
        classes = route_stack(layers, self.primary_layer(features), updates)
        return Output(self.readout_layer(classes), classes.poses)

    def decode(self, poses: Array, mask: Array) -> Array:
        """Raise an error: there is no decoder.

        Raises:
          ValueError: always.
        """
        raise ValueError("inverted attention is a network without a decoder")

    def chosen_forms(self, batch_size: int) -> dict[str, str]:
        """Return what "auto" means on this machine: forms of convolutions and votes, and dtype."""
        net = ResidualNet(**self.backbone, parent=None)
        convolutions = list(net.convolutions(self.image_shape))
        features = self.primary_caps["types"] * self.primary_caps["pose_size"]
        last = Convolution("primary_caps", convolutions[-1].output, features, 1, 1)
        compute = self.backbone["compute"]
        forms = forms_of([*convolutions, last], batch_size, compute)
        votes = self.class_caps["compute"].votes
        return {**forms, "dtype": compute.chosen_dtype, "votes": votes}


def make_inverted_attention(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    backbone: Mapping[str, Any],
    batch_norm: Mapping[str, Any],
    capsules: Mapping[str, Any],
    primary_caps: Mapping[str, Any],
    conv_caps: Mapping[str, Any],
    dense_caps: Mapping[str, Any],
    routing: Mapping[str, Any],
    stack: str,
    readout: str,
    compute: Mapping[str, Any],
    task: Task,
) -> InvertedAttention:
    """Make an `InvertedAttention` from the sub-dicts of a config.

    The settings `capsules` are those of all capsule layers; they all have poses of one size.
    """
    del task  # there is no decoder that needs classes
    how = Compute(**compute)
    algorithm = make_routing(routing["name"], **settings_in(routing, ROUTING))
    shared = {**capsules, "votes": look_up(VOTES, capsules["votes"], "kind of votes")()}
    shared["compute"] = how.grouped_or_held(algorithm)
    conv_layers = settings_of_layers(conv_caps, ConvCaps.__dataclass_fields__, "model.conv_caps")
    dense_layers = settings_of_layers(
        dense_caps, DenseCaps.__dataclass_fields__, "model.dense_caps"
    )
    return InvertedAttention(
        image_shape=tuple(image_shape),
        num_classes=num_classes,
        backbone={**backbone, **batch_norm, "compute": how},
        primary_caps={
            **primary_caps,
            "pose_size": capsules["pose_size"],
            "kernel_size": 1,
            "stride": 1,
            "norm": "layer",
            "use_bias": False,
            "compute": how.of_layer("primary_caps"),
        },
        conv_caps=tuple({**layer, **shared} for layer in conv_layers),
        dense_caps=tuple({**layer, **shared} for layer in dense_layers),
        class_caps=shared,
        **plan_updates(stack, algorithm)._asdict(),
        readout=readout,
    )
