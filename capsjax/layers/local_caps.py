"""Locally routed capsules: votes are convolutions, and a type is one child at each position."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from capsjax.initializers import make_initializer
from capsjax.kernels.bands import Rows, map_bands
from capsjax.kernels.compute import Compute
from capsjax.kernels.conv import border_of_transposed, conv2d, transposed_conv2d
from capsjax.layers.capsules import declare_learned, sow_values
from capsjax.notation import Capsules
from capsjax.routing import Routing, call_routing
from capsjax.windows import make_grid

# Bytes of the votes of a band: a few of such arrays should stay in the cache of a CPU, and an
# accelerator needs enough positions at once.
BAND_BYTES = {"cpu": 16 * 2**20, "gpu": 256 * 2**20}

Border = tuple[int, int]


class LocalConvCaps(nn.Module):
    """Capsules that see the sums of windows of those below, (n, h, w, i, p) -> (n, y, x, j, d).

    One convolution, with a kernel shared by all child types, makes the votes of each of them:

        u_hat[y, x, i] = Σ_{k, l} W[k, l] u[s·y + k, s·x + l, i]

    so that a window has i children, not k·k·i, and types compete at each position by itself. The
    image is padded with zeros ("SAME"). The vote of a type carries its activation in its length;
    activations are 1 for algorithms that read them.

    Votes are i·j·d numbers at each position, most of what a network of images has. Unless
    `compute.votes` is "held", they are computed and routed in bands of rows, and again for the
    gradient; only poses are held. The layer sows the same values as `DenseCaps`, with axes of rows
    and columns before i.

    Attributes:
      types: types of capsule j at each upper position.
      pose_size: dimensions d of an upper pose.
      routing: a routing algorithm (see `capsjax.routing`).
      kernel_size, stride: rows and columns of a window, and from one window to the next.
      kernel_init: specification of `initializers`.
      compute: how votes are computed.

    Source: LaLonde and Bagci 2018, section 3, and their released code.
    """

    types: int
    pose_size: int
    routing: Routing
    kernel_size: int = 5
    stride: int = 1
    kernel_init: str = "he_normal"
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, capsules: Capsules, memory: Any = None) -> tuple[Capsules, None]:
        """Route, and return the capsules; a memory has no meaning here."""
        del memory
        size, stride = self.kernel_size, self.stride
        grid = make_grid(capsules.poses.shape[1:3], (size, size), (stride, stride), "SAME")
        shape = (size, size, capsules.poses.shape[-1], self.types * self.pose_size)
        kernel = self.param("kernel", make_initializer(self.kernel_init), shape)

        def convolve(x: Array) -> Array:
            return conv2d(x, kernel, stride, self.compute.conv, self.compute.operands)

        borders = [(axis.before, max(axis.after, 0)) for axis in grid]
        return _route_locally(self, capsules, convolve, borders, Rows(size, stride)), None


class LocalDeconvCaps(nn.Module):
    """The same with transposed convolutions: rows and columns grow by the stride.

    Attributes:
      types, pose_size, routing, kernel_init, compute: as in `LocalConvCaps`.
      kernel_size: rows and columns of the kernel, see `transposed_conv2d`.
      stride: factor of rows and columns.

    Source: LaLonde and Bagci 2018, section 3.2, and their released code.
    """

    types: int
    pose_size: int
    routing: Routing
    kernel_size: int = 4
    stride: int = 2
    kernel_init: str = "he_normal"
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, capsules: Capsules, memory: Any = None) -> tuple[Capsules, None]:
        """Route, and return the capsules; a memory has no meaning here."""
        del memory
        size = self.kernel_size
        shape = (size, size, self.types * self.pose_size, capsules.poses.shape[-1])
        # As in Keras, an initializer counts the weights of this shape.
        kernel = self.param("kernel", make_initializer(self.kernel_init), shape)

        def convolve(x: Array) -> Array:
            return transposed_conv2d(
                x,
                kernel,
                self.stride,
                lambda x, kernel: conv2d(x, kernel, 1, self.compute.conv, self.compute.operands),
            )

        border = border_of_transposed(size, self.stride)
        rows = Rows(sum(border) + 1, 1)
        return _route_locally(self, capsules, convolve, [border, border], rows), None


def _route_locally(
    layer: LocalConvCaps | LocalDeconvCaps,
    capsules: Capsules,
    convolve: Callable[[Array], Array],
    borders: list[Border],
    rows: Rows,
) -> Capsules:
    """Route votes at every position, where `convolve` makes them of maps (n, h, w, p)."""
    if capsules.poses.ndim != 5:
        raise ValueError(
            "locally routed capsules need capsules on a grid (n, h, w, i, p), not of shape "
            f"{capsules.poses.shape}"
        )
    n, _, _, i, p = capsules.poses.shape
    j, d = layer.types, layer.pose_size
    learned = declare_learned(layer, (i, j, p, d))
    shown = layer.is_mutable_collection("intermediates")

    def route(band: Float[Array, "n h w i p"]) -> tuple[Capsules, dict[str, Array]]:
        maps = jnp.moveaxis(band, 3, 1)
        maps = convolve(maps.reshape(n * i, *maps.shape[2:]))
        votes = jnp.moveaxis(maps.reshape(n, i, *maps.shape[1:3], j, d), 1, 3)
        ones = jnp.ones(votes.shape[:-2], votes.dtype)
        routed = call_routing(layer.routing, votes, ones, learned)
        inside = {"votes": votes, "couplings": routed.c, "logits": routed.logits} if shown else {}
        return Capsules(routed.v, routed.a), inside

    padded = jnp.pad(capsules.poses, ((0, 0), *borders, (0, 0), (0, 0)))
    # Outside of a compiled program each value is to be looked at, see `find_non_finite`.
    if layer.compute.votes == "held" or not isinstance(padded, jax.core.Tracer):
        above, inside = route(padded)
    else:
        least = jax.ShapeDtypeStruct((n * i, rows.window, padded.shape[2], p), padded.dtype)
        votes_bytes = 4 * jax.eval_shape(convolve, least).size
        at_once = max(1, _band_bytes() // max(1, votes_bytes))
        above, inside = map_bands(route, padded, rows, at_once)
    sow_values(layer, **inside)
    return above


def _band_bytes() -> int:
    return BAND_BYTES.get(jax.default_backend(), BAND_BYTES["gpu"])
