"""The output of every model, and access to its intermediate values."""

from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float


class Output(NamedTuple):
    """The output of a forward pass.

    Attributes:
      scores: class scores, (n, k), or (n, h, w, k) for a map: capsule lengths or logits.
      poses: class capsules v, (n, k, d), or (n, h, w, k - 1, d) for a map, whose background has
        none; None for a network without capsules, or class capsules without poses.
      reconstruction: images, (n, h, w, c) in [0, 1]; None without a decoder.
    """

    scores: Float[Array, "n *grid k"]
    poses: Float[Array, "n *grid j d"] | None = None
    reconstruction: Float[Array, "n h w c"] | None = None


def look_inside(model, variables: dict, *arguments: Any) -> tuple[Output, dict[str, dict]]:
    """Apply a model, and return the intermediate values of its capsule layers too.

    Args:
      model: a model.
      variables: its parameters and statistics.
      *arguments: images, and labels to reconstruct.

    Returns:
      The output, and by layer name `votes` (n, i, j, d), `couplings` (n, i, j) and, where there are
      any and votes are held, `logits`, with an axis o before i in a convolution, or rows and
      columns in one of SegCaps; `poses` of primary capsules. Empty without capsules.
      Where a model makes several crops of an image, they are those of the central one.
    """
    output, changed = model.apply(variables, *arguments, mutable=["intermediates"])
    # Crops of all images follow each other, the central ones first.
    count = len(arguments[0])
    return output, jax.tree.map(lambda values: values[:count], changed.get("intermediates", {}))
