"""Poolings, as components that a config names, and as a layer."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
from jaxtyping import Array, Float

from capsjax import registry
from capsjax.pooling import Upsampling, average_pool, capsule_pool, max_pool
from capsjax.windows import Pair


@runtime_checkable
class Pooling(Protocol):
    """The interface of every pooling: a hashable value, a frozen dataclass of its settings."""

    def __call__(self, x: Array, window: Pair, stride: Pair | None, padding: str) -> Array:
        """Pool the windows of images (n, h, w, c) to images (n, y, x, c)."""


@dataclasses.dataclass(frozen=True)
class CapsulePooling:
    """`capsule_pool` as a value.

    Attributes:
      num_steps: averages taken; 1 is average pooling.
      temperature: the higher, the more equal the weights.
      num_capsules: capsules that the channels are divided into.
      eps: the small number in divisions.
      upsample: "window" or "corner", which differ only where much is padded.
    """

    num_steps: int = 2
    temperature: float | Float[Array, ""] = 2.0
    num_capsules: int = 1
    eps: float = 1e-7
    upsample: Upsampling = "window"

    # Settings that may be data of a compiled program, and so differ within a population.
    TRACED = ("temperature",)

    def __call__(
        self, x: Float[Array, "n h w c"], window: Pair, stride: Pair | None, padding: str
    ) -> Float[Array, "n y x c"]:
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return capsule_pool(x, window, stride, padding, **settings)


@dataclasses.dataclass(frozen=True)
class AveragePooling:
    """`average_pool` as a value."""

    def __call__(
        self, x: Float[Array, "n h w c"], window: Pair, stride: Pair | None, padding: str
    ) -> Float[Array, "n y x c"]:
        return average_pool(x, window, stride, padding)


@dataclasses.dataclass(frozen=True)
class MaxPooling:
    """`max_pool` as a value."""

    def __call__(
        self, x: Float[Array, "n h w c"], window: Pair, stride: Pair | None, padding: str
    ) -> Float[Array, "n y x c"]:
        return max_pool(x, window, stride, padding)


POOLINGS = {"average": AveragePooling, "capsule": CapsulePooling, "max": MaxPooling}


def register(name: str, pooling: type) -> type:
    """Register a pooling for configs: `model.pool.name`.

    Raises:
      ValueError: for a name that is taken, or a class that is no dataclass.
    """
    return registry.register_component(POOLINGS, name, pooling, "pooling")


def make_pooling(name: str, **settings: Any) -> Pooling:
    """Make the pooling of a given name with the given settings.

    Raises:
      ValueError: for an unknown name (the nearest one is named) or a wrong setting.

    >>> make_pooling("capsule", num_steps=3).num_steps
    3
    """
    return registry.make(POOLINGS, "pooling", name, settings)


class Pool(nn.Module):
    """A pooling without parameters, (n, h, w, c) -> (n, y, x, c).

    Attributes:
      pooling: the pooling of each window.
      window: rows and columns of a window.
      stride: rows and columns from one window to the next; None for those of the window.
      padding: "SAME" or "VALID".
    """

    pooling: Pooling = CapsulePooling()
    window: Pair = (3, 3)
    stride: Pair | None = None
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n y x c"]:
        return self.pooling(x, self.window, self.stride, self.padding)
