"""Settings that all sections receive."""

from typing import NamedTuple


class Settings(NamedTuple):
    """Settings of a measurement.

    Attributes:
      device: "cpu", "cuda" or JAX's name of another.
      quick: whether to measure less, in a minute and a half; four minutes on a GPU.
      memory_bytes: memory that programs may use, of the machine or of its GPU.
      tasks: tasks of the section "compare": "training", "inference" or both.
      networks: networks of the same section: "full", "small" or both.
      rows: names of the rows of capsjax for the section "profile"; the device's own by default.
    """

    device: str
    quick: bool
    memory_bytes: int
    tasks: tuple[str, ...] = ("training", "inference")
    networks: tuple[str, ...] = ("full", "small")
    rows: tuple[str, ...] = ()
