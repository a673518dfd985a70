"""The digits as a user's own .npz file, whole or changed."""

from pathlib import Path

import numpy as np

from capsjax.data import load_part

DIGITS, TEST = load_part("digits", "train"), load_part("digits", "test")


def save_digits(path: Path, **changed: np.ndarray) -> Path:
    """Write all digits, some of the arrays changed."""
    arrays = {
        "images": DIGITS.images,
        "labels": DIGITS.labels,
        "test_images": TEST.images,
        "test_labels": TEST.labels,
    }
    np.savez(path, **{**arrays, **changed})
    return path
