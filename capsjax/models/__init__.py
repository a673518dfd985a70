"""Models, their names, and their construction from a config."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, Int, Key

from capsjax import registry
from capsjax.kernels.compute import Compute
from capsjax.layers.capsules import ConvCaps
from capsjax.layers.pooling import POOLINGS, make_pooling
from capsjax.models.capsnet import CapsNet
from capsjax.models.convnet import ConvNet
from capsjax.models.deepcaps import DeepCaps, make_deepcaps
from capsjax.models.efficient_capsnet import EfficientCapsNet, make_efficient_capsnet
from capsjax.models.em_capsules import make_em_capsules
from capsjax.models.inverted_attention import InvertedAttention, make_inverted_attention
from capsjax.models.matrix_capsules import MatrixCapsules
from capsjax.models.output import Output, look_inside
from capsjax.models.sections import settings_of_layers
from capsjax.models.segcaps import SegCaps, make_segcaps
from capsjax.models.self_routing import SelfRoutingCapsNet, make_self_routing
from capsjax.models.unet import UNet, make_unet
from capsjax.models.vb_capsules import make_vb_capsules
from capsjax.registry import look_up, settings_in
from capsjax.routing import ROUTING, make_routing, settings_of
from capsjax.tasks import Classification, Task

__all__ = [
    "MODELS",
    "CapsNet",
    "ConvNet",
    "DeepCaps",
    "EfficientCapsNet",
    "InvertedAttention",
    "MatrixCapsules",
    "Model",
    "Output",
    "SegCaps",
    "SelfRoutingCapsNet",
    "UNet",
    "look_inside",
    "make_model",
    "register",
]


@runtime_checkable
class Model(Protocol):
    """What training, evaluation and figures need of a network, which is a module of Flax Linen.

    A network that decodes has a method `decode(poses, mask)` too, from class poses (n, j, d) and a
    mask (n, j), 1 at the classes to decode, to images (n, h, w, c).

    Attributes:
      image_shape: (h, w, c).
      num_classes: number k of scores.
      batch_axis: device axis that a batch is divided over, for what depends on the whole batch, as
        a batch norm does; None for one device.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    batch_axis: str | None

    def __call__(
        self,
        images: Float[Array, "n h w c"],
        labels: Int[Array, "n *label"] | None = None,
        keys: Key[Array, "n"] | None = None,
    ) -> Output:
        """Compute scores, and poses and a reconstruction if there are any.

        Args:
          images: in [0, 1].
          labels: what to reconstruct, in training; None for what is predicted.
          keys: keys for random numbers, one for each image, in training; None in testing.
        """

    def chosen_forms(self, batch_size: int) -> dict[str, str]:
        """Return what "auto" in `config.model.compute` means here, which a run keeps: the "dtype"
        ("float32" or "bfloat16"), and the forms of layers that have several.
        """


ONE_CLASS = Classification()
# Fields of a section `pool` besides the settings of poolings.
OF_POOL = ("after", "window", "padding")


def make_capsnet(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    conv: Mapping[str, Any],
    primary_caps: Mapping[str, Any],
    class_caps: Mapping[str, Any],
    routing: Mapping[str, Any],
    squash: Mapping[str, Any],
    decoder: Mapping[str, Any],
    use_decoder: bool,
    compute: Mapping[str, Any],
    conv_caps: Mapping[str, Any] | None = None,
    readout: str = "auto",
    task: Task = ONE_CLASS,
) -> CapsNet:
    """Make a `CapsNet` from the sub-dicts of a config.

    The settings of squash are shared by all capsules, and by the routing algorithm if it has them.
    """
    how = Compute(**compute)
    known = settings_of(routing["name"])
    settings = {key: squash[key] for key in known if key in squash}
    settings.update(settings_in(routing, ROUTING))
    known = ConvCaps.__dataclass_fields__
    layers = settings_of_layers(conv_caps or {}, known, "model.conv_caps")
    return CapsNet(
        image_shape=tuple(image_shape),
        num_classes=num_classes,
        routing=make_routing(routing["name"], **settings),
        conv={**conv, "compute": how.of_layer("conv")},
        primary_caps={**primary_caps, **squash, "compute": how.of_layer("primary_caps")},
        class_caps={**class_caps, "compute": how},
        decoder=dict(decoder) if use_decoder else None,
        conv_caps=tuple({**layer, "compute": how} for layer in layers),
        readout=readout,
        task=task,
    )


def make_convnet(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    conv: Mapping[str, Any],
    pool: Mapping[str, Any],
    batch_norm: Mapping[str, Any],
    dense: Mapping[str, Any],
    dropout: Mapping[str, Any],
    compute: Mapping[str, Any],
    task: Task = ONE_CLASS,
) -> ConvNet:
    """Make a `ConvNet` from the sub-dicts of a config."""
    del task  # there is no decoder that needs classes
    return ConvNet(
        image_shape=tuple(image_shape),
        num_classes=num_classes,
        conv={**conv, "compute": Compute(**compute)},
        pool={
            **{key: pool[key] for key in OF_POOL},
            "pooling": make_pooling(pool["name"], **settings_in(pool, POOLINGS, OF_POOL)),
        },
        batch_norm=dict(batch_norm),
        dense=dict(dense),
        dropout=dict(dropout),
    )


MODELS = {
    "capsnet": make_capsnet,
    "convnet": make_convnet,
    "deepcaps": make_deepcaps,
    "efficient_capsnet": make_efficient_capsnet,
    "em_capsules": make_em_capsules,
    "inverted_attention": make_inverted_attention,
    "segcaps": make_segcaps,
    "self_routing": make_self_routing,
    "unet": make_unet,
    "vb_capsules": make_vb_capsules,
}


def register(name: str, make: Callable[..., Model]) -> Callable[..., Model]:
    """Make a network known by name, for configs: `model.name`.

    Args:
      name: an identifier.
      make: a function of (image_shape, num_classes), with the task as `task` and the fields of
        `config.model` by name, such as the module's class; it returns the network.

    Raises:
      ValueError: for a name that is taken.
    """
    return registry.register(MODELS, name, make, "model")


def make_model(name: str, image_shape: tuple[int, int, int], num_classes: int, **settings):
    """Make the model of a given name, for images of a given shape.

    Raises:
      ValueError: for an unknown name (the nearest one is named), or settings of another network.
    """
    make = look_up(MODELS, name, "model")
    try:
        inspect.signature(make).bind(image_shape, num_classes, **settings)
    except TypeError as error:
        raise ValueError(
            f"the fields of model in this config are not those of model.name={name} ({error}): "
            "start from a config of that network (capsjax list names them)"
        ) from None
    return make(image_shape, num_classes, **settings)
