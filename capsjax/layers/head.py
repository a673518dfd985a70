"""A head of capsules for any backbone."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from capsjax.kernels.compute import Compute
from capsjax.layers.capsules import DenseCaps, PrimaryCaps
from capsjax.layers.coordinates import Coordinates
from capsjax.layers.sigmoid_caps import SigmoidCaps
from capsjax.layers.votes import FullVotes, Votes
from capsjax.notation import Capsules
from capsjax.registry import look_up
from capsjax.routing import Routing, make_routing


class CapsuleHead(nn.Module):
    """Class capsules from the features of any backbone, (n, y, x, c) or (n, c) -> (n, j, d).

    Features -> a convolution to primary capsules, padded, so that the grid stays -> class capsules,
    each connected to all primary capsules. Features without a grid have one position.

    Activations of primary capsules are the "length" of their squashed poses (`PrimaryCaps`), or the
    "sigmoid" of a convolution of their own (`SigmoidCaps`), beside poses without a squash: what EM
    routing, VB routing and self-routing are published with.

    Attributes:
      num_capsules: number j of class capsules.
      pose_size: dimensions d of a class pose, as in `DenseCaps`.
      routing: a name of `capsjax.routing.ROUTING`, or an algorithm with settings of its own, such
        as `make_routing("dynamic", num_iterations=2)`.
      types: primary capsules at each position.
      primary_pose_size: dimensions p of a primary pose.
      kernel_size: rows and columns of the convolution to primary capsules.
      activations: "length" or "sigmoid".
      batch_norm: `momentum` and `epsilon` of a batch norm of each channel of "sigmoid" capsules;
        None for no norm.
      batch_axis: device axis that a batch is divided over; None for one device.
      primary_init: specification of `initializers` for the convolution.
      votes, norm, shared, coordinates, kernel_init, compute: as in `DenseCaps`.
      eps: as in `PrimaryCaps`, for "length" capsules.

    Raises:
      ValueError: at the first call, for features of another shape, or settings that do not fit
        together.

    Source: "length": Sabour et al. 2017, section 4; "sigmoid" with a batch norm and self-routing:
    Hahn et al. 2019, released code.

    >>> import jax, jax.numpy as jnp
    >>> head, features = CapsuleHead(10, routing="em"), jnp.ones((2, 3, 3, 8))
    >>> capsules, _ = jax.eval_shape(head.init_with_output, jax.random.key(0), features)
    >>> capsules.poses.shape, capsules.activations.shape
    ((2, 10, 16), (2, 10))
    """

    num_capsules: int
    pose_size: int = 16
    routing: Routing | str = "dynamic"
    types: int = 32
    primary_pose_size: int = 8
    kernel_size: int = 1
    activations: str = "length"
    batch_norm: Mapping[str, Any] | None = None
    batch_axis: str | None = None
    primary_init: str = "glorot_uniform"
    votes: Votes = FullVotes()
    norm: str = "none"
    shared: str = "none"
    coordinates: Coordinates | None = None
    kernel_init: str = "truncated_normal(0.1)"
    eps: float = 1e-7
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, features: Float[Array, "n *grid c"], training: bool = False) -> Capsules:
        """Route features to class capsules.

        Args:
          features: of a backbone, (n, y, x, c) or (n, c).
          training: whether a batch norm takes the mean and variance of the batch, and updates its
            running ones in the collection "batch_stats"; otherwise it takes the running ones.
        """
        make_primary = look_up(
            {"length": self._lengths, "sigmoid": self._sigmoids},
            self.activations,
            "kind of activations of primary capsules (activations)",
        )
        routing = make_routing(self.routing) if isinstance(self.routing, str) else self.routing
        classes, _ = DenseCaps(
            self.num_capsules,
            self.pose_size,
            routing,
            votes=self.votes,
            norm=self.norm,
            shared=self.shared,
            coordinates=self.coordinates,
            kernel_init=self.kernel_init,
            compute=self.compute,
            name="class_layer",
        )(make_primary(self._on_a_grid(features), training))
        return classes

    def _on_a_grid(self, features: Array) -> Float[Array, "n y x c"]:
        if features.ndim not in (2, 4):
            raise ValueError(
                "features are (batch, height, width, channels) or (batch, channels), not of shape "
                f"{features.shape}"
            )
        if features.ndim == 4:
            return features
        if self.kernel_size != 1:
            raise ValueError(
                "features (batch, channels) have one position: kernel_size is 1, not "
                f"{self.kernel_size}"
            )
        return features[:, None, None]

    def _lengths(self, features: Array, training: bool) -> Capsules:
        del training  # lengths have no batch norm
        if self.batch_norm is not None:
            raise ValueError("a batch_norm needs activations='sigmoid': lengths are of a squash")
        return PrimaryCaps(**self._convolution(), eps=self.eps)(features)

    def _sigmoids(self, features: Array, training: bool) -> Capsules:
        return SigmoidCaps(
            **self._convolution(),
            activation_init=self.primary_init,
            batch_norm=self.batch_norm,
            each_entry=True,
            batch_axis=self.batch_axis,
        )(features, training)

    def _convolution(self) -> dict[str, Any]:
        """Return the settings that both kinds of primary capsules have."""
        return {
            "types": self.types,
            "pose_size": self.primary_pose_size,
            "kernel_size": self.kernel_size,
            "stride": 1,
            "padding": "SAME",
            "kernel_init": self.primary_init,
            "compute": self.compute.of_layer("primary_caps"),
            "name": "primary_layer",
        }
