"""Sections of a config that several networks have."""

from ml_collections import ConfigDict


def add_compute(model: ConfigDict, *, dtype: str = "float32", votes: bool = False) -> None:
    """Add the section `compute`, see `capsjax.kernels.compute.Compute`.

    Args:
      model: the section `model`.
      dtype: default of the number type; "auto" for networks that were shown to train as well in
        bfloat16 (RESULTS.md, "Number types").
      votes: whether the network can do without held votes.
    """
    compute = model.compute = ConfigDict()
    # Operand type of convolutions, those of decoders included, and of votes by full matrices:
    # "float32"; "bfloat16", faster where the machine has instructions for it; "tf32", on a GPU; or
    # "auto", the fastest. All else is always float32, as are votes by matrices of a pose's size.
    compute.dtype = dtype
    # Form of the convolutions: "auto" or a name of `capsjax.kernels.conv.FORMS`, for all of them
    # or for each by layer name, such as "conv:gathered,primary_caps:fourier". An "upsampling"
    # decoder has none: its convolutions take the one that suits the machine.
    compute.conv = "auto"
    if votes:
        # Whether votes are "held" in memory or "recomputed" where routing needs them, or "auto".
        # Routing by agreement holds those of convolutions of capsules in any case.
        compute.votes = "auto"


def add_margin_loss(config: ConfigDict) -> None:
    """Add the section `margin_loss`, see `capsjax.losses.margin_loss`."""
    margin_loss = config.margin_loss = ConfigDict()
    # A present class costs nothing above this length.
    margin_loss.m_plus = 0.9
    # An absent class costs nothing below this length.
    margin_loss.m_minus = 0.1
    # Weight of the absent classes.
    margin_loss.down_weight = 0.5
    # Reduction over classes, then the batch: "sum", "mean" or "batch_sum" (see `capsjax.losses`).
    margin_loss.reduction = "sum"
