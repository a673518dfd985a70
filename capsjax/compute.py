"""How a network is computed: nothing of this changes what is computed, but for rounding."""

import dataclasses

import jax

from capsjax.conv import FORMS
from capsjax.products import OPERAND_TYPES, OperandType
from capsjax.registry import look_up

VOTES = dict.fromkeys(("auto", "held", "recomputed"))


@dataclasses.dataclass(frozen=True)
class Compute:
    """Settings of the work behind a network's layers.

    Attributes:
      dtype: what the operands of convolutions and votes are rounded to, "float32" or "bfloat16".
        Parameters, sums, squash, routing logits, decoder and losses are float32 always (XLA's
        own form of convolution, on accelerators, rounds its result too).
      conv: form of the convolutions, see `capsjax.conv.conv2d`.
      votes: "held" in memory for the whole batch; "recomputed", never held, in float32, where
        routing needs them (for routing algorithms that can); or "auto".

    Raises:
      ValueError: for an unknown value (the nearest one is named).
    """

    dtype: OperandType = "float32"
    conv: str = "auto"
    votes: str = "auto"

    def __post_init__(self):
        look_up(OPERAND_TYPES, self.dtype, "number type of operands (model.compute.dtype)")
        look_up({"auto": None, **FORMS}, self.conv, "form of convolution (model.compute.conv)")
        look_up(VOTES, self.votes, "way of votes (model.compute.votes)")

    def recomputes_votes(self, routing) -> bool:
        """Whether that routing algorithm works without held votes: the one place that decides.

        On a CPU it is four times faster and takes a tenth of the memory; where it has not been
        measured, votes are held.

        Raises:
          ValueError: if it should and cannot.
        """
        can = hasattr(routing, "route_poses")
        if self.votes == "recomputed" and not can:
            raise ValueError(
                f"{type(routing).__name__} has no form that recomputes its votes: "
                "model.compute.votes is 'held' or 'auto'"
            )
        return self.votes == "recomputed" or (
            self.votes == "auto" and can and jax.default_backend() == "cpu"
        )
