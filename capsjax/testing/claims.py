"""What a routing algorithm claims to do, and so what is checked of it."""

import dataclasses
import typing
from typing import Literal

from capsjax.registry import look_up


@dataclasses.dataclass(frozen=True)
class Claims:
    """The properties that a routing algorithm claims; by default routing by agreement.

    Attributes:
      couplings: "parents" if the couplings of a child sum to 1 over the upper capsules, "leaky" if
        they sum to less, "any" for no claim.
      competition: whether the votes for one upper capsule change what the others get.
      agreement: whether a child that votes against the others loses its coupling.
      length: "squash" for |v| = |s|²/(1 + |s|²), "exponential" for 1 - exp(-|s|), "below one" for
        another bound, "any" for none.
      readout: the upper activation: the "length" of the pose, a "probability", or "any" number.
      activations: how activations of the lower capsules act: "weights" of their votes, "shares" of
        a sum that is 1, "ignored", or "none" for a function that takes votes alone.
      symmetric_children, symmetric_parents: whether the capsules of a layer are all treated alike.
      differentiable: whether the poses have a gradient with respect to the votes.
      dynamic_rounds: number of rounds of dynamic routing without a bias, whose poses are then
        compared with a slow implementation; 0 for another algorithm.

    Raises:
      ValueError: for a value that is not listed.
    """

    couplings: Literal["parents", "leaky", "any"] = "parents"
    competition: bool = True
    agreement: bool = True
    length: Literal["squash", "exponential", "below one", "any"] = "squash"
    readout: Literal["length", "probability", "any"] = "length"
    activations: Literal["weights", "shares", "ignored", "none"] = "none"
    symmetric_children: bool = True
    symmetric_parents: bool = True
    differentiable: bool = True
    dynamic_rounds: int = 0

    def __post_init__(self):
        for name, kind in typing.get_type_hints(type(self)).items():
            known = typing.get_args(kind)
            if known and getattr(self, name) not in known:
                raise ValueError(f"{name} is one of {known}, not {getattr(self, name)!r}")


_FIXED = {"competition": False, "agreement": False}
_MIXTURE = {"length": "any", "readout": "probability", "activations": "weights"}

# The algorithms of the literature, with the settings of their papers.
CLAIMS = {
    "agreement_3d": Claims(length="below one"),  # a bias is added to the weighted sum
    "dynamic": Claims(dynamic_rounds=3),
    "em": Claims(**_MIXTURE),
    "heinsen": Claims(agreement=False, length="any", readout="any"),
    "inverted_attention": Claims(length="any", readout="any"),
    "random": Claims(
        **_FIXED, length="below one", symmetric_children=False, symmetric_parents=False
    ),
    "self": Claims(**_FIXED, length="any", readout="probability", activations="shares"),
    "self_attention": Claims(length="exponential"),
    "uniform": Claims(**_FIXED),
    "vb": Claims(**_MIXTURE),
}


def claims_of(claims: Claims | str) -> Claims:
    """Return claims, or those of an algorithm of the literature by its name.

    Raises:
      ValueError: for an unknown name; the nearest is named.

    >>> claims_of("self_attention").length
    'exponential'
    """
    return look_up(CLAIMS, claims, "routing algorithm") if isinstance(claims, str) else claims
