"""Decoding of class poses, as far as models share it."""

from collections.abc import Mapping
from typing import Any


def check_decoder(decoder: Mapping[str, Any] | None) -> None:
    """Check that a network has a decoder.

    Raises:
      ValueError: if its settings are None.
    """
    if decoder is None:
        raise ValueError("this network has no decoder (config.model.use_decoder is False)")
