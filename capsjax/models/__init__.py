"""Models, their names, and how a config becomes one."""

from collections.abc import Mapping
from typing import Any

from capsjax.compute import Compute
from capsjax.models.capsnet import CapsNet, CapsNetOutput
from capsjax.models.convnet import ConvNet, ConvNetOutput
from capsjax.registry import look_up
from capsjax.routing import make_routing, settings_of

__all__ = [
    "MODELS",
    "CapsNet",
    "CapsNetOutput",
    "ConvNet",
    "ConvNetOutput",
    "Output",
    "make_model",
]

# What a model gives: at least `scores`, `reconstruction` (or None) and `intermediates`.
Output = CapsNetOutput | ConvNetOutput


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
) -> CapsNet:
    """A `CapsNet` from the sub-dicts of a config.

    One setting of squash serves all capsules of the network, as far as the routing algorithm has
    such settings.
    """
    how = Compute(**compute)
    routing_squash = {key: squash[key] for key in settings_of(routing["name"]) if key in squash}
    return CapsNet(
        image_shape=tuple(image_shape),
        num_classes=num_classes,
        routing=make_routing(**routing, **routing_squash),
        conv={**conv, "compute": how.of_layer("conv")},
        primary_caps={**primary_caps, **squash, "compute": how.of_layer("primary_caps")},
        class_caps={**class_caps, "eps": squash["eps"], "compute": how},
        decoder=dict(decoder) if use_decoder else None,
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
) -> ConvNet:
    """A `ConvNet` from the sub-dicts of a config."""
    return ConvNet(
        image_shape=tuple(image_shape),
        num_classes=num_classes,
        conv={**conv, "compute": Compute(**compute)},
        pool=dict(pool),
        batch_norm=dict(batch_norm),
        dense=dict(dense),
        dropout=dict(dropout),
    )


MODELS = {"capsnet": make_capsnet, "convnet": make_convnet}


def make_model(name: str, image_shape: tuple[int, int, int], num_classes: int, **settings):
    """The model of that name for images of that shape.

    Raises:
      ValueError: for an unknown name (the nearest one is named).
    """
    return look_up(MODELS, name, "model")(image_shape, num_classes, **settings)
