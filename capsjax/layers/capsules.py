"""Capsule layers: Flax Linen modules that hold the parameters of `ops` and `routing`."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from capsjax.initializers import make_initializer
from capsjax.kernels.compute import Compute
from capsjax.layers.conv import Conv
from capsjax.layers.coordinates import Coordinates
from capsjax.layers.groups import hides_votes, route_groups
from capsjax.layers.norms import NORMS
from capsjax.layers.votes import FullVotes, Votes
from capsjax.notation import Capsules, Routed
from capsjax.ops import EpsPlacement, safe_norm, squash
from capsjax.registry import look_up
from capsjax.routing import Routing, call_routing
from capsjax.routing.competition import competition_of_types, window_competition
from capsjax.windows import fit_to_windows, make_grid


class PrimaryCaps(nn.Module):
    """A convolution whose output is read as capsules, (n, h, w, c) -> Capsules (n, y, x, i, p).

    With grouping "channels" a capsule is `pose_size` neighbouring channels at one position, in
    the order (row, column, type). With "pixels" the output is flattened channel first and cut
    every `pose_size` numbers, so that a capsule is that many neighbouring pixels of one channel
    (some straddle two): the mistake of the `pytorch` variant, kept so that it can be measured. Such
    capsules have no position, and lose the grid: (n, i, p). With `rectify` it convolves relu(x).

    Attributes:
      types: kinds of capsule; the convolution has types · pose_size channels.
      pose_size: dimensions p of a pose.
      kernel_size, stride: of the convolution.
      padding: "VALID" or "SAME".
      grouping: "channels" or "pixels".
      divide_by_types: divide the convolution by `types` before the bias is added, as the paper's
        authors' released code does, which routes one input capsule to all types with couplings
        of 1/types.
      relu: clip at zero before the squash, as the `notebook` variant does.
      norm: "none" squashes the poses. Another name of `capsjax.layers.norms.NORMS` is the norm that
        takes the place of the squash, and activations are then 1.
      use_bias: whether the convolution has a bias.
      kernel_init, bias_init: specifications of `initializers`.
      eps, eps_at: as in `squash`.
      compute: how the convolution is computed.

    Source: Sabour et al. 2017, section 4.
    """

    types: int = 32
    pose_size: int = 8
    kernel_size: int = 9
    stride: int = 2
    padding: str = "VALID"
    grouping: str = "channels"
    divide_by_types: bool = False
    relu: bool = False
    norm: str = "none"
    use_bias: bool = True
    kernel_init: str = "glorot_uniform"
    bias_init: str = "zeros"
    eps: float = 1e-7
    eps_at: EpsPlacement = "root"
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], rectify: bool = False) -> Capsules:
        group = look_up(GROUPINGS, self.grouping, "grouping of primary capsules")
        if self.padding != "VALID":
            windows = (self.kernel_size,) * 2, (self.stride,) * 2
            x = fit_to_windows(x, make_grid(x.shape[1:3], *windows, self.padding))
        features = Conv(
            self.types * self.pose_size,
            self.kernel_size,
            self.stride,
            scale=1.0 / self.types if self.divide_by_types else 1.0,
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            compute=self.compute,
            name="conv",
        )(x, rectify)
        if self.relu:
            features = nn.relu(features)
        poses = group(features, self.pose_size)
        if self.norm == "none":
            poses = squash(poses, eps=self.eps, eps_at=self.eps_at)
            activations = safe_norm(poses, eps=self.eps)
        else:
            activations = jnp.ones(poses.shape[:-1])
            poses = _normalise(self.norm, Capsules(poses, activations)).poses
        sow_values(self, poses=poses)
        return Capsules(poses, activations)


def group_channels(features: Float[Array, "n y x f"], pose_size: int) -> Float[Array, "n y x i p"]:
    """Make `pose_size` neighbouring channels at one position a capsule, as the paper does."""
    return features.reshape(*features.shape[:3], features.shape[3] // pose_size, pose_size)


def group_pixels(features: Float[Array, "n y x f"], pose_size: int) -> Float[Array, "n i p"]:
    """Make `pose_size` neighbouring pixels of one channel a capsule: a channel-first flatten."""
    n, *sizes = features.shape
    flat = features.transpose(0, 3, 1, 2)
    return flat.reshape(n, math.prod(sizes) // pose_size, pose_size)


GROUPINGS = {"channels": group_channels, "pixels": group_pixels}


class DenseCaps(nn.Module):
    """Capsules that are each connected to all capsules below, Capsules -> Capsules (n, j, d).

    The layer sows `votes` (n, i, j, d), `couplings` (n, i, j) and, where votes are held, `logits`
    into the collection "intermediates". A compiled program that does not ask for them, and whose
    routing recomputes its votes, never holds the votes.

    Attributes:
      num_capsules: number j of upper capsules.
      pose_size: dimensions d of an upper pose; 0 for capsules that have activations alone, and no
        W. Self-routing can do without votes.
      routing: a routing algorithm (see `capsjax.routing`).
      votes: a kind of votes (see `capsjax.layers.votes`).
      norm: a name of `capsjax.layers.norms.NORMS`, for the incoming poses.
      shared: whether positions of a grid share their matrices: "none" or "positions".
      coordinates: what is added to votes from each position of a grid; None for nothing.
      kernel_init: specification of `initializers` for the transformation matrices W.
      compute: how votes are computed.

    Raises:
      ValueError: for capsules without poses whose routing algorithm makes activations of votes.

    Source: Sabour et al. 2017, section 4 ("DigitCaps").
    """

    num_capsules: int
    pose_size: int
    routing: Routing
    votes: Votes = FullVotes()
    norm: str = "none"
    shared: str = "none"
    coordinates: Coordinates | None = None
    kernel_init: str = "truncated_normal(0.1)"
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, capsules: Capsules, memory: Any = None) -> tuple[Capsules, Any]:
        """Route, and return the capsules and what the algorithm needs at the next call."""
        share = look_up(SHARED, self.shared, "sharing of matrices (shared)")
        poses, activations = _normalise(self.norm, capsules)
        n, *grid, types, p = poses.shape
        i = math.prod(grid) * types
        u, a = poses.reshape(n, i, p), activations.reshape(n, i)
        sizes = (types if share else i, self.num_capsules, self.pose_size, p)
        shape = self.votes.shape_of_matrices(*sizes)
        if self.pose_size:
            W = self.param("W", make_initializer(self.kernel_init, matrices=True), shape)
        else:
            _check_needs_no_votes(self.routing)
            W = jnp.zeros(shape)
        if share:
            # Positions come before types.
            W = jnp.tile(W, (i // types, *[1] * (W.ndim - 1)))
        learned = declare_learned(self, (i, self.num_capsules, p, self.pose_size))
        dtype = self.compute.operands
        plain = memory is None and self.votes == FullVotes() and self.coordinates is None
        from_poses = plain and self.compute.recomputes_votes(self.routing, n)

        def route(u: Array, a: Array, memory: Any) -> tuple[Array, Routed]:
            votes = self.votes(u, W, dtype)
            if self.coordinates is not None:
                table = self.coordinates.table(tuple(grid), types, self.pose_size)
                votes = votes + jnp.asarray(table, votes.dtype)[None, :, None]
            if from_poses:
                return votes, self.routing.route_poses(u, W, learned, dtype)
            return votes, call_routing(self.routing, votes, a, learned, u=u, memory=memory)

        return _route(self, route, u, a, memory, i * self.num_capsules * self.pose_size)


class ConvCaps(nn.Module):
    """Capsules that see a window of those below, (n, y, x, i, p) -> (n, y', x', j, d).

    The matrices are shared by all positions. With windows "gathered" each child in a window votes
    for itself; with "summed" the votes of one type are summed over the window before routing, so
    that types compete and not single capsules. With "scrambled" the poses that are gathered for one
    place of the window, (d, o) in memory, are read as if they were (o, d): the numbers of a pose
    come from several windows. This is a mistake in the code that Tsai et al. released first, kept
    so that it can be measured.

    The layer sows the same values as `DenseCaps`, with an axis o of upper positions before i.

    Attributes:
      types: types of capsule j at each upper position.
      pose_size: dimensions d of an upper pose.
      routing: a routing algorithm (see `capsjax.routing`).
      kernel_size, stride: rows and columns of a window, and from one window to the next.
      padding: "VALID" or "SAME".
      windows: "gathered", "summed" or "scrambled".
      over, start: settings of the competition of the children, see `window_competition`.
      votes, norm, kernel_init, compute: as in `DenseCaps`.

    Raises:
      ValueError: for capsules without a grid, a window that is larger than the grid, or settings
        that do not fit together.

    Source: windows gathered: Hinton et al. 2018, section 5; summed: Rajasegaran et al. 2019,
    section 3; scrambled: code of Tsai et al. 2020.
    """

    types: int
    pose_size: int
    routing: Routing
    kernel_size: int = 3
    stride: int = 1
    padding: str = "VALID"
    windows: str = "gathered"
    over: str = "all"
    start: str = "set"
    votes: Votes = FullVotes()
    norm: str = "none"
    kernel_init: str = "unit_votes(1.0)"
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, capsules: Capsules, memory: Any = None) -> tuple[Capsules, Any]:
        """Route, and return the capsules and what the algorithm needs at the next call."""
        look_up(WINDOWS, self.windows, "windows of a convolution of capsules (windows)")
        if self.over == "released" and self.windows == "summed":
            raise ValueError(
                "over='released' needs windows='gathered': types of summed windows have no places"
            )
        if capsules.poses.ndim != 5:
            raise ValueError(
                "a convolution of capsules needs capsules on a grid (n, y, x, i, p), not of shape "
                f"{capsules.poses.shape}: model.primary_caps.grouping is 'channels'"
            )
        poses, activations = _normalise(self.norm, capsules)
        n, *grid, types, p = poses.shape
        settings = {"over": self.over, "start": self.start}
        competition = window_competition(
            tuple(grid), self.kernel_size, self.stride, types, self.padding, **settings
        )
        children = math.prod(grid) * types
        u = competition.gather(poses.reshape(n, children, p))
        if self.windows == "scrambled":
            u = _scramble(u)
        o, places = competition.children.shape
        shape = self.votes.shape_of_matrices(places, self.types, self.pose_size, p)
        W = self.param("W", make_initializer(self.kernel_init, matrices=True), shape)
        a = competition.gather(activations.reshape(n, children, 1))[..., 0]
        summed = self.windows == "summed"
        if summed:
            a = jnp.max(a.reshape(n, o, places // types, types), axis=2)
            competition = competition_of_types(o, types, **settings)
        learned = declare_learned(self, (a.shape[-1], self.types, p, self.pose_size))

        def route(u: Array, a: Array, memory: Any) -> tuple[Array, Routed]:
            votes = self.votes(u, W, self.compute.operands)
            if summed:
                of_places = (places // types, types, *votes.shape[-2:])
                votes = jnp.sum(votes.reshape(len(u), o, *of_places), axis=2)
            context = {"u": None if summed else u, "competition": competition, "memory": memory}
            return votes, call_routing(self.routing, votes, a, learned, **context)

        kernel, stride = (self.kernel_size,) * 2, (self.stride,) * 2
        windows = make_grid(tuple(grid), kernel, stride, self.padding)
        above = (n, windows.rows.count, windows.columns.count)
        votes_per_image = o * places * self.types * self.pose_size
        capsules, memory = _route(self, route, u, a, memory, votes_per_image)
        return Capsules(*(x.reshape(*above, *x.shape[2:]) for x in capsules)), memory


def _route(
    layer: DenseCaps | ConvCaps,
    route: Callable[[Array, Array, Any], tuple[Array, Routed]],
    u: Array,
    a: Array,
    memory: Any,
    votes_per_image: int,
) -> tuple[Capsules, Any]:
    """Route in groups of images, or all at once if something inside is to be returned or shown."""
    if hides_votes(layer, u) and layer.compute.routes_in_groups(layer.routing):
        return route_groups(route, u, a, memory, votes_per_image)
    votes, routed = route(u, a, memory)
    sow_values(layer, votes=votes, couplings=routed.c, logits=routed.logits)
    return Capsules(routed.v, routed.a), routed.memory


def _scramble(u: Float[Array, "n o i p"]) -> Float[Array, "n o i p"]:
    """Read the poses at each place of a window, transposed to (p, o), as if they were (o, p)."""
    n, o, i, p = u.shape
    return u.transpose(0, 2, 3, 1).reshape(n, i, o, p).transpose(0, 2, 1, 3)


def _check_needs_no_votes(routing: Routing) -> None:
    if getattr(routing, "ACTIVATIONS_FROM_VOTES", True):
        raise ValueError(
            f"{type(routing).__name__} makes activations of votes, and capsules without poses "
            "(pose_size=0) have none: use a pose_size of at least 1 or the routing algorithm 'self'"
        )


def _normalise(norm: str, capsules: Capsules) -> Capsules:
    """Normalise the poses of capsules, and keep their activations."""
    if norm == "none":
        return capsules
    return capsules._replace(poses=look_up(NORMS, norm, "norm")(name="norm")(capsules.poses))


def declare_learned(layer: nn.Module, sizes: tuple[int, int, int, int]) -> dict[str, Array]:
    """Declare the arrays that the layer's routing learns."""
    wanted = layer.routing.learned_arrays(*sizes)
    return {name: layer.param(name, array.init, array.shape) for name, array in wanted.items()}


def sow_values(layer: nn.Module, **shown: Array | None) -> None:
    """Sow values into "intermediates", in place of those of an earlier call."""
    for name, value in shown.items():
        if value is not None:
            layer.sow("intermediates", name, value, lambda _, new: new, lambda: None)


SHARED = {"none": False, "positions": True}
WINDOWS = {"gathered": None, "summed": None, "scrambled": None}
