"""Heinsen's two routing algorithms as one value: what each learns."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from capsjax.notation import LearnedArray, Routed
from capsjax.rounds import settle_rounds
from capsjax.routing.competition import DENSE, Competition
from capsjax.routing.dynamic import Gradient
from capsjax.routing.heinsen_2019 import heinsen_2019_routing
from capsjax.routing.heinsen_2022 import (
    factored_votes,
    heinsen_2022_routing,
    input_activations,
)
from capsjax.routing.parts import (
    add_leading_axes,
    find_present,
    of_present,
    require_lower_poses,
)

Version = Literal[2019, 2022]


@dataclasses.dataclass(frozen=True)
class HeinsenRouting:
    """`heinsen_2022_routing` or `heinsen_2019_routing` as a value: settings and learned arrays.

    Lower poses are divided by the root of their number in version 2022, and with them the votes.

    Attributes:
      version: 2022, or 2019, for which the paper has 3 rounds and poses that are matrices.
      num_iterations, gradient, max_iterations: as in these functions.
      votes: of version 2022, those of the "layer", or the paper's `factored_votes`, which the
        algorithm computes itself: the matrices of the layer are then not used.
    """

    version: Version = 2022
    num_iterations: int | Int[Array, ""] = 2
    gradient: Gradient = "full"
    max_iterations: int | None = None
    votes: Literal["layer", "factored"] = "layer"

    # Settings that may be data of a compiled program, and so differ within a population.
    TRACED = ("num_iterations",)

    @property
    def readout(self) -> str:
        """The version of 2022 has no activations of its outputs (see `capsjax.layers.readout`)."""
        return "linear" if self.version == 2022 else "activation"

    def __post_init__(self):
        if self.version not in (2019, 2022):
            raise ValueError(f"version of heinsen routing is 2019 or 2022, not {self.version!r}")
        if self.votes not in ("layer", "factored"):
            raise ValueError(f"votes are those of the 'layer' or 'factored', not {self.votes!r}")
        if self.votes == "factored" and self.version == 2019:
            raise ValueError("factored votes are those of version 2022: use votes='layer'")
        settle_rounds(self)

    def learned_arrays(self, i: int, j: int, p: int, d: int) -> dict[str, LearnedArray]:
        zeros, normal = jax.nn.initializers.zeros, jax.nn.initializers.normal
        if self.version == 2019:
            return {
                "vote_bias": LearnedArray((i, j, d), zeros),
                "beta_use": LearnedArray((i, j), zeros),
                "beta_ignore": LearnedArray((i, j), zeros),
            }
        arrays = {
            "A": LearnedArray((i, p), normal(2.0 * p**-0.5)),
            "A_bias": LearnedArray((i,), zeros),
            "G_1": LearnedArray((d, p), normal(d**-0.5)),
            "G_2": LearnedArray((j, p), normal(1.0)),
            "G_bias": LearnedArray((j, p), zeros),
            "S": LearnedArray((i, j), normal(p**-0.5)),
            "S_bias": LearnedArray((i, j), zeros),
            "beta_use": LearnedArray((i, j), normal(1.0)),
            "beta_ignore": LearnedArray((i, j), normal(1.0)),
        }
        if self.votes == "factored":
            arrays["F_1"] = LearnedArray((j, p), normal(1.0))
            arrays["F_2"] = LearnedArray((p, d), normal(2.0 * p**-0.5))
            arrays["F_bias"] = LearnedArray((j, d), zeros)
        return arrays

    def __call__(
        self,
        votes: Float[Array, "*batch i j d"],
        activations: Float[Array, "*batch i"],
        learned: Mapping[str, Array],
        *,
        u: Float[Array, "*batch i p"] | None = None,
        competition: Competition = DENSE,
        mask: Float[Array, "*batch i"] | None = None,
        parent_mask: Float[Array, "*batch j"] | None = None,
    ) -> Routed:
        settings = {
            "num_iterations": self.num_iterations,
            "gradient": self.gradient,
            "max_iterations": self.max_iterations,
            "competition": competition,
            "mask": mask,
            "parent_mask": parent_mask,
        }
        if self.version == 2019:
            votes = votes + add_leading_axes(learned["vote_bias"], votes.ndim)
            betas = learned["beta_use"], learned["beta_ignore"]
            return heinsen_2019_routing(votes, activations, *betas, **settings)
        version_2019 = "version 2019 (model.routing.heinsen.version)"
        require_lower_poses(u, "version 2022 of heinsen routing", version_2019)
        u = of_present(u, mask, 1)
        count = jnp.sum(find_present(votes, competition, mask), axis=-1, dtype=u.dtype)
        scale = lax.rsqrt(jnp.maximum(count, 1.0))
        scaled = u * scale[..., None, None]
        if self.votes == "factored":
            votes = factored_votes(scaled, learned["F_1"], learned["F_2"], learned["F_bias"])
        else:
            votes = votes * scale[..., None, None, None]
        activations = input_activations(scaled, learned["A"], learned["A_bias"])
        return heinsen_2022_routing(votes, activations, u, learned, **settings)
