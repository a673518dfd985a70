"""SR-CapsNet: a backbone, and capsules that choose the capsules above them by themselves."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float, Int, Key

from capsjax.kernels.compute import Compute
from capsjax.layers import ConvCaps, DenseCaps
from capsjax.layers.capsule_norm import CapsuleNorm
from capsjax.layers.normed_conv import Convolution, forms_of
from capsjax.layers.plain import PlainNet
from capsjax.layers.readout import OF_ACTIVATIONS, make_readout, name_of_readout
from capsjax.layers.residual import ResidualNet
from capsjax.layers.sigmoid_caps import SigmoidCaps
from capsjax.models.images import check_images
from capsjax.models.output import Output
from capsjax.models.sections import settings_of_layers
from capsjax.registry import look_up, settings_in
from capsjax.routing import ROUTING, Routing, SelfRouting, make_routing
from capsjax.tasks import Task

# Settings of the kernels of primary capsules.
KERNEL = {"kernel_size": 3, "stride": 1, "padding": "SAME"}


class SelfRoutingCapsNet(nn.Module):
    """The network of self-routing, for images of any size.

    Image -> backbone -> SigmoidCaps with a batch norm -> any number of ConvCaps, each with a batch
    norm of its poses -> DenseCaps (one capsule for each class).

    Attributes:
      image_shape: (h, w, c).
      num_classes: number j of class capsules.
      routing: a routing algorithm (see `capsjax.routing`).
      backbone: settings of `make_backbone`, without those of `batch_norm`.
      primary_caps: settings of `SigmoidCaps`.
      conv_caps: settings of each `ConvCaps`, in order.
      class_caps: settings of the class capsules, a `DenseCaps`. Where they have poses, these have a
        batch norm too.
      batch_norm: `momentum` and `epsilon` of all batch norms.
      readout: what makes the class scores, see `make_readout`.
      batch_axis: device axis that a batch is divided over, so that batch norm covers the whole
        batch; None for one device.

    Raises:
      ValueError: at the first call, for settings that do not fit together.

    Source: Hahn et al. 2019, section 4, and their released code.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    routing: Routing
    backbone: Mapping[str, Any]
    primary_caps: Mapping[str, Any]
    conv_caps: Sequence[Mapping[str, Any]]
    class_caps: Mapping[str, Any]
    batch_norm: Mapping[str, Any]
    readout: str = "log_activation"
    batch_axis: str | None = None

    def setup(self):
        self.backbone_layer = make_backbone(
            **self.backbone, **self.batch_norm, batch_axis=self.batch_axis
        )
        norm = {
            "batch_norm": self.batch_norm,
            "each_entry": True,
            "batch_axis": self.batch_axis,
        }
        self.primary_layer = SigmoidCaps(**self.primary_caps, **norm)
        self.capsule_layers = [
            ConvCaps(routing=self.routing, **settings, name=f"conv_caps_{index}")
            for index, settings in enumerate(self.conv_caps)
        ]
        norm = {**norm, "affine": True, "logits": False}
        self.capsule_norms = [
            CapsuleNorm(**norm, name=f"conv_norm_{index}") for index in range(len(self.conv_caps))
        ]
        self.class_layer = DenseCaps(self.num_classes, routing=self.routing, **self.class_caps)
        self.class_norm = CapsuleNorm(**norm)
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

        Returns:
          Scores and class poses; no poses where class capsules have none.
        """
        check_images(images, self.image_shape)
        training = keys is not None
        capsules = self.primary_layer(self.backbone_layer(images, training), training)
        for layer, norm in zip(self.capsule_layers, self.capsule_norms, strict=True):
            capsules, _ = layer(capsules)
            capsules = norm(capsules, training)
        classes, _ = self.class_layer(capsules)
        if not self.class_caps["pose_size"]:
            return Output(self.readout_layer(classes))
        classes = self.class_norm(classes, training)
        return Output(self.readout_layer(classes), classes.poses)

    def decode(self, poses: Array, mask: Array) -> Array:
        """Raise an error: there is no decoder.

        Raises:
          ValueError: always.
        """
        raise ValueError("SR-CapsNet is a network without a decoder")

    def chosen_forms(self, batch_size: int) -> dict[str, str]:
        """Return what "auto" means on this machine: form of each convolution, and dtype."""
        net = make_backbone(**self.backbone, **self.batch_norm, parent=None)
        convolutions = list(net.convolutions(self.image_shape))
        primary = self.primary_caps
        features = primary["types"] * (primary["pose_size"] + 1)
        size = primary["kernel_size"]
        last = Convolution("primary_caps", convolutions[-1].output, features, size, 1)
        compute = self.backbone["compute"]
        forms = forms_of([*convolutions, last], batch_size, compute)
        return {**forms, "dtype": compute.chosen_dtype}


def make_backbone(
    name: str, *, blocks: Sequence[int], shortcut: str, **settings: Any
) -> PlainNet | ResidualNet:
    """Make the backbone of a given name.

    Args:
      name: "residual" for `ResidualNet`, "plain" for `PlainNet`.
      blocks, shortcut: settings of `ResidualNet`.
      **settings: settings of both.

    Raises:
      ValueError: for an unknown name (the nearest one is named).
    """
    backbones = {
        "plain": lambda: PlainNet(**settings),
        "residual": lambda: ResidualNet(blocks=blocks, shortcut=shortcut, **settings),
    }
    return look_up(backbones, name, "backbone (model.backbone.name)")()


def make_self_routing(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    backbone: Mapping[str, Any],
    batch_norm: Mapping[str, Any],
    capsules: Mapping[str, Any],
    conv_caps: Mapping[str, Any],
    class_caps: Mapping[str, Any],
    routing: Mapping[str, Any],
    readout: str,
    compute: Mapping[str, Any],
    task: Task,
) -> SelfRoutingCapsNet:
    """Make a `SelfRoutingCapsNet` from the sub-dicts of a config.

    The settings `capsules` are those of all capsules below the classes: `types` of primary
    capsules, `pose_size`, and `kernel_init` of matrices, which is that of the classes too.

    Raises:
      ValueError: for a readout that has nothing to read.
    """
    del task  # there is no decoder that needs classes
    how = Compute(**compute)
    algorithm = make_routing(routing["name"], **settings_in(routing, ROUTING))
    check_readout(readout, algorithm, class_caps["pose_size"])
    # Votes are held by all forms of this network, so that a run resumes in the same one.
    held = dataclasses.replace(how, votes="held")
    capsules = dict(capsules)
    matrices = {"kernel_init": capsules.pop("kernel_init"), "compute": held}
    layers = settings_of_layers(conv_caps, ConvCaps.__dataclass_fields__, "model.conv_caps")
    convolutions = dict.fromkeys(("kernel_init", "activation_init"), backbone["kernel_init"])
    return SelfRoutingCapsNet(
        image_shape=tuple(image_shape),
        num_classes=num_classes,
        routing=algorithm,
        backbone={**backbone, "compute": how},
        primary_caps={
            **capsules,
            **KERNEL,
            **convolutions,
            "compute": how.of_layer("primary_caps"),
        },
        conv_caps=tuple(
            {**layer, "pose_size": capsules["pose_size"], **matrices} for layer in layers
        ),
        class_caps={**class_caps, **matrices},
        batch_norm=dict(batch_norm),
        readout=readout,
    )


def check_readout(readout: str, routing: Routing, pose_size: int) -> None:
    """Check that class scores are made of something that differs between classes.

    Args:
      readout, routing: as in `make_readout`.
      pose_size: dimensions of class poses.

    Raises:
      ValueError: for a readout of poses that are not there, or of activations that are all equal.
    """
    readout = name_of_readout(readout, routing)
    reads_activations = readout in OF_ACTIVATIONS
    held = isinstance(routing, SelfRouting) and routing.uniform
    remedy = "give class capsules poses (model.class_caps.pose_size=16) and model.readout=linear"
    if held and reads_activations:
        raise ValueError(
            "with couplings held at their start (model.routing.self.uniform) the activations of "
            f"all classes are equal: {remedy}, as the variant 'poses' does"
        )
    if not pose_size and not reads_activations:
        raise ValueError(
            f"model.readout={readout} reads poses, and model.class_caps.pose_size is 0: {remedy}, "
            "or model.readout=log_activation"
        )
