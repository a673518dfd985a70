"""Maps of labels: which class was taken for which, pixel by pixel."""

import numpy as np


def confusion_of_pixels(
    labels: np.ndarray, predictions: np.ndarray, num_classes: int
) -> np.ndarray:
    """Count how many pixels of each class (row) were taken for each other (column).

    Args:
      labels, predictions: classes from 0, of one shape.
      num_classes: number k of classes.

    Returns:
      Counts, (k, k).

    >>> confusion_of_pixels(np.array([[0, 1, 1]]), np.array([[0, 0, 1]]), 2).tolist()
    [[1, 0], [1, 1]]
    """
    pairs = labels.ravel().astype(np.int64) * num_classes + predictions.ravel()
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def dice_of_classes(matrix: np.ndarray) -> list[float | None]:
    """Return the Dice coefficient of each class over all pixels; None for one that has no pixel.

    Args:
      matrix: what `confusion_of_pixels` returns.

    >>> dice_of_classes(np.array([[2, 0, 0], [0, 2, 0], [2, 0, 0]]))
    [0.6666666666666666, 1.0, 0.0]
    """
    sizes = matrix.sum(axis=0) + matrix.sum(axis=1)
    return [2 * int(matrix[k, k]) / int(size) if size else None for k, size in enumerate(sizes)]
