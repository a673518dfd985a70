"""The 1,797 handwritten digits that come with scikit-learn: real data without a download."""

import numpy as np

from capsjax.data.arrays import Arrays, split_validation

TEST_SIZE = 360
SPLIT_SEED = 0


def load_digits(part: str) -> Arrays:
    """Load one part of the digits, 8x8 pixels: 1,437 for training, 360 for testing.

    The split is stratified and fixed.

    Args:
      part: "train" or "test".

    Source: E. Alpaydin, C. Kaynak, UCI "Optical Recognition of Handwritten Digits", test part.
    """
    from sklearn import datasets

    digits = datasets.load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    everything = Arrays(images, digits.target.astype(np.int32), num_classes=10)
    train, test = split_validation(everything, TEST_SIZE, SPLIT_SEED, stratify=True)
    return {"train": train, "test": test}[part]
