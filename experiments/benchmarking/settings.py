"""What all sections are told."""

from typing import NamedTuple


class Settings(NamedTuple):
    """Attributes:
    device: "cpu", "cuda" or JAX's name of another.
    quick: measure less, in a minute and a half; four minutes on a GPU.
    memory_bytes: that programs may use: of the machine, or of its GPU.
    tasks: of the section "compare": "training", "inference" or both.
    networks: of the same: "full", "small" or both.
    rows: names of the rows of capsjax for the section "profile"; the device's own by default.
    """

    device: str
    quick: bool
    memory_bytes: int
    tasks: tuple[str, ...] = ("training", "inference")
    networks: tuple[str, ...] = ("full", "small")
    rows: tuple[str, ...] = ()
