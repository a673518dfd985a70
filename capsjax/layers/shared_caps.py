"""Capsules in a convolution whose kernel is shared by all types of children."""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from capsjax.kernels.compute import Compute
from capsjax.layers.capsules import declare_learned, sow_values
from capsjax.layers.conv import Conv
from capsjax.notation import Capsules
from capsjax.routing import Routing, call_routing
from capsjax.routing.competition import competition_of_types
from capsjax.windows import cut_windows, fit_to_windows, make_grid


class SharedConvCaps(nn.Module):
    """Capsules that see a window of those below, (n, y, x, i, p) -> (n, y', x', j, d).

    A child type has one vote for each upper capsule: a convolution of its poses, with a kernel
    (k, k, p, j·d) that is the same for all types. It is a convolution in three dimensions whose
    kernel and stride along the types and their poses are both p. `ConvCaps` with windows "summed"
    is the same where the types have kernels of their own, and `LocalConvCaps` where each position
    routes by itself, in less memory.

    The layer sows `votes` (n, o, i, j, d), `couplings` (n, o, i, j) and `logits` into the
    collection "intermediates", o being upper positions.

    Attributes:
      types: types of capsule j at each upper position.
      pose_size: dimensions d of an upper pose.
      routing: a routing algorithm (see `capsjax.routing`).
      kernel_size, stride: rows and columns of a window, and from one window to the next.
      padding: "VALID" or "SAME".
      over, start: as in `Competition`: over "all", a child type divides itself among all types at
        all positions.
      kernel_init: specification of `initializers`.
      compute: how the convolution is computed.

    Raises:
      ValueError: for capsules without a grid, or a window that is larger than the grid.

    Source: Rajasegaran et al. 2019, section 3.
    """

    types: int
    pose_size: int
    routing: Routing
    kernel_size: int = 3
    stride: int = 1
    padding: str = "SAME"
    over: str = "all"
    start: str = "set"
    kernel_init: str = "he_normal"
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, capsules: Capsules, memory: Any = None) -> tuple[Capsules, Any]:
        """Route, and return the capsules and what the algorithm needs at the next call."""
        if capsules.poses.ndim != 5:
            raise ValueError(
                "a convolution of capsules needs capsules on a grid (n, y, x, i, p), not of shape "
                f"{capsules.poses.shape}"
            )
        n, *grid, i, p = capsules.poses.shape
        kernel, stride = (self.kernel_size,) * 2, (self.stride,) * 2
        windows = make_grid(tuple(grid), kernel, stride, self.padding)
        maps = jnp.moveaxis(capsules.poses, 3, 1).reshape(n * i, *grid, p)
        votes = Conv(
            self.types * self.pose_size,
            self.kernel_size,
            self.stride,
            use_bias=False,
            kernel_init=self.kernel_init,
            compute=self.compute,
            name="conv",
        )(fit_to_windows(maps, windows))
        above = votes.shape[1:3]
        o = math.prod(above)
        votes = votes.reshape(n, i, o, self.types, self.pose_size)
        votes = jnp.moveaxis(votes, 1, 2)
        a = jnp.max(cut_windows(capsules.activations, windows), axis=3).reshape(n, o, i)
        competition = competition_of_types(o, i, over=self.over, start=self.start)
        learned = declare_learned(self, (i, self.types, p, self.pose_size))
        routed = call_routing(
            self.routing, votes, a, learned, competition=competition, memory=memory
        )
        sow_values(self, votes=votes, couplings=routed.c, logits=routed.logits)
        v, lengths = (x.reshape(n, *above, *x.shape[2:]) for x in (routed.v, routed.a))
        return Capsules(v, lengths), routed.memory
