"""What all sections are told."""

from typing import NamedTuple


class Settings(NamedTuple):
    """Attributes:
    device: "cpu", "cuda" or JAX's name of another.
    quick: measure less, in a minute and a half.
    memory_bytes: that programs may use: of the machine, or of its GPU.
    """

    device: str
    quick: bool
    memory_bytes: int
