"""Capsule layers as Flax Linen modules: they hold parameters, `ops` and `routing` mathematics."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from capsjax.compute import Compute
from capsjax.conv import conv2d
from capsjax.initializers import make_initializer
from capsjax.notation import Routed
from capsjax.ops import EpsPlacement, predict_votes, safe_norm, squash
from capsjax.pooling import POOLINGS, Upsampling
from capsjax.registry import look_up
from capsjax.routing import Routing


class Conv(nn.Module):
    """A convolution, (n, h, w, c) -> (n, y, x, features).

    Attributes:
      features: channels of the output.
      kernel_size: rows and columns of the kernel.
      stride: the same for rows and columns.
      padded: surround the image with zeros, so that the output has its size at stride 1; for an
        even kernel one more of them at the bottom and right.
      scale: multiplies the convolution before the bias is added.
      kernel_init, bias_init: specifications of `initializers`.
      compute: how it is computed.
    """

    features: int
    kernel_size: int = 9
    stride: int = 1
    padded: bool = False
    scale: float = 1.0
    kernel_init: str = "glorot_uniform"
    bias_init: str = "zeros"
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n y x o"]:
        if self.padded:
            border = ((self.kernel_size - 1) // 2, self.kernel_size // 2)
            x = jnp.pad(x, ((0, 0), border, border, (0, 0)))
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", make_initializer(self.kernel_init), shape)
        bias_init = make_initializer(self.bias_init, fan_in=math.prod(shape[:3]))
        bias = self.param("bias", bias_init, (self.features,))
        form, dtype = self.compute.conv, self.compute.operands
        if self.scale == 1.0:
            return conv2d(x, kernel, self.stride, form, dtype, bias)
        out = self.scale * conv2d(x, kernel, self.stride, form, dtype)
        return out + bias.reshape(1, 1, 1, -1)


class Pool(nn.Module):
    """A pooling without parameters, (n, h, w, c) -> (n, y, x, c).

    Attributes:
      pooling: "capsule", "average" or "max" (see `capsjax.pooling`).
      window: rows and columns of a window.
      stride: rows and columns from one window to the next; None for those of a window.
      padding: "SAME" or "VALID".
      num_steps, temperature, num_capsules, eps, upsample: as in `capsule_pool`; the other
        poolings have no settings, and leave these unread.
    """

    pooling: str = "capsule"
    window: tuple[int, int] = (3, 3)
    stride: tuple[int, int] | None = None
    padding: str = "SAME"
    num_steps: int = 2
    temperature: float | Float[Array, ""] = 2.0
    num_capsules: int = 1
    eps: float = 1e-7
    upsample: Upsampling = "window"

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n y x c"]:
        pool = look_up(POOLINGS, self.pooling, "pooling")
        settings = {}
        if self.pooling == "capsule":
            settings = {
                "num_steps": self.num_steps,
                "temperature": self.temperature,
                "num_capsules": self.num_capsules,
                "eps": self.eps,
                "upsample": self.upsample,
            }
        return pool(x, self.window, self.stride, self.padding, **settings)


class Dropout(nn.Module):
    """Sets each number to zero at a rate, and scales the others up, (n, ...) -> (n, ...).

    What an image loses depends on its own key alone: not on the images beside it, nor on the
    device that it is on. (Flax's own draws one mask for the batch.)

    Attributes:
      rate: of numbers that are dropped, from 0 to below 1.
      index: of this dropout among those of a network; each draws other numbers.

    Raises:
      ValueError: at a call, for a rate that is not allowed.

    Source: Srivastava et al. 2014, section 4, with the scaling in training.
    """

    rate: float
    index: int = 0

    @nn.compact
    def __call__(
        self, x: Float[Array, "n *rest"], keys: Key[Array, "n"] | None
    ) -> Float[Array, "n *rest"]:
        """Without keys, as in testing, nothing is dropped."""
        if not 0.0 <= self.rate < 1.0:
            raise ValueError(f"a rate of dropout is from 0 to below 1, not {self.rate}")
        if keys is None or self.rate == 0.0:
            return x

        def kept(key):
            return jax.random.bernoulli(
                jax.random.fold_in(key, self.index), 1.0 - self.rate, x.shape[1:]
            )

        return jnp.where(jax.vmap(kept)(keys), x / (1.0 - self.rate), 0.0)


class PrimaryCaps(nn.Module):
    """A convolution whose output is read as capsules, (n, h, w, c) -> (n, i, p).

    With grouping "channels" a capsule is `pose_size` neighbouring channels at one position, in
    the order (row, column, type). With "pixels" the output is flattened channel first and cut
    every `pose_size` numbers, so that a capsule is that many neighbouring pixels of one channel
    (some straddle two): the mistake of the `pytorch` variant, kept so that it can be measured.

    Attributes:
      types: kinds of capsule; the convolution has types · pose_size channels.
      pose_size: dimensions p of a pose.
      kernel_size, stride: of the convolution.
      grouping: "channels" or "pixels".
      divide_by_types: divide the convolution by `types` before the bias is added. The released
        code of the paper's authors does so, for it routes one input capsule to all types with
        couplings of 1/types.
      relu: clip at zero before the squash, as the `notebook` variant does.
      kernel_init, bias_init: specifications of `initializers`.
      eps, eps_at: as in `squash`.
      compute: how the convolution is computed.

    Source: Sabour et al. 2017, section 4.
    """

    types: int = 32
    pose_size: int = 8
    kernel_size: int = 9
    stride: int = 2
    grouping: str = "channels"
    divide_by_types: bool = False
    relu: bool = False
    kernel_init: str = "glorot_uniform"
    bias_init: str = "zeros"
    eps: float = 1e-7
    eps_at: EpsPlacement = "root"
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n i p"]:
        group = look_up(GROUPINGS, self.grouping, "grouping of primary capsules")
        features = Conv(
            self.types * self.pose_size,
            self.kernel_size,
            self.stride,
            scale=1.0 / self.types if self.divide_by_types else 1.0,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            compute=self.compute,
            name="conv",
        )(x)
        if self.relu:
            features = nn.relu(features)
        poses = group(features, self.pose_size)
        return squash(poses, eps=self.eps, eps_at=self.eps_at)


def group_channels(features: Float[Array, "n y x f"], pose_size: int) -> Float[Array, "n i p"]:
    """Capsules of `pose_size` neighbouring channels at one position: the paper's grouping."""
    return features.reshape(features.shape[0], -1, pose_size)


def group_pixels(features: Float[Array, "n y x f"], pose_size: int) -> Float[Array, "n i p"]:
    """Capsules of `pose_size` neighbouring pixels of one channel: a channel-first flatten."""
    return group_channels(features.transpose(0, 3, 1, 2), pose_size)


GROUPINGS = {"channels": group_channels, "pixels": group_pixels}


class DenseCaps(nn.Module):
    """Capsules that are each connected to all capsules below, (n, i, p) -> Routed and votes.

    The votes are returned for those who look at them: in a compiled program that does not, and
    whose routing recomputes them, they do not exist.

    Attributes:
      num_capsules: number j of upper capsules.
      pose_size: dimensions d of an upper pose.
      routing: a routing algorithm (see `capsjax.routing`).
      kernel_init: specification of `initializers` for the transformation matrices W.
      eps: as in `safe_norm`, for the activations of the lower capsules.
      compute: how votes are computed.

    Source: Sabour et al. 2017, section 4 ("DigitCaps").
    """

    num_capsules: int
    pose_size: int
    routing: Routing
    kernel_init: str = "truncated_normal(0.1)"
    eps: float = 1e-7
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, u: Float[Array, "n i p"]) -> tuple[Routed, Float[Array, "n i j d"]]:
        shape = (u.shape[-2], self.num_capsules, self.pose_size, u.shape[-1])
        W = self.param("W", make_initializer(self.kernel_init), shape)
        learned = {
            name: self.param(name, array.init, array.shape)
            for name, array in self.routing.learned_arrays(*shape[:3]).items()
        }
        u_hat = predict_votes(u, W, self.compute.operands)
        if self.compute.recomputes_votes(self.routing):
            return self.routing.route_poses(u, W, learned, self.compute.operands), u_hat
        return self.routing(u_hat, safe_norm(u, eps=self.eps), learned), u_hat


class Decoder(nn.Module):
    """Images from masked poses: dense ReLU layers and a sigmoid, (n, j, d) -> (n, h, w, c).

    Attributes:
      image_shape: (h, w, c).
      hidden: widths of the hidden layers.
      kernel_init, bias_init: specifications of `initializers`.

    Source: Sabour et al. 2017, figure 2.
    """

    image_shape: tuple[int, int, int]
    hidden: Sequence[int] = (512, 1024)
    kernel_init: str = "glorot_uniform"
    bias_init: str = "zeros"

    @nn.compact
    def __call__(self, masked: Float[Array, "n j d"]) -> Float[Array, "n h w c"]:
        x = masked.reshape(masked.shape[0], -1)
        for index, width in enumerate(self.hidden):
            x = nn.relu(self._dense(x, width, f"hidden_{index}"))
        x = nn.sigmoid(self._dense(x, math.prod(self.image_shape), "pixels"))
        return x.reshape(-1, *self.image_shape)

    def _dense(self, x: Array, width: int, name: str) -> Array:
        return nn.Dense(
            width,
            kernel_init=make_initializer(self.kernel_init),
            bias_init=make_initializer(self.bias_init, fan_in=x.shape[-1]),
            name=name,
        )(x)
