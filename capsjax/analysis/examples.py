"""Examples to look at: some of every class."""

import numpy as np


def some_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Choose the positions of `count` examples, all classes in turn.

    >>> some_of_each_class(np.array([1, 1, 1, 0, 2]), 4).tolist()
    [3, 0, 4, 1]
    """
    rank = np.empty(len(labels), np.int64)  # how many of its class came before each example
    for label in np.unique(labels):
        positions = np.flatnonzero(labels == label)
        rank[positions] = np.arange(len(positions))
    return np.lexsort((labels, rank))[:count]


def recognised_first(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Order positions so that recognised examples come first, both kinds in their order.

    >>> recognised_first(np.array([0, 1, 2]), np.array([1, 1, 2])).tolist()
    [1, 2, 0]
    """
    return np.argsort(labels != predictions, kind="stable")


def one_of_each_class(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Find the first example of each class, preferably one that is recognised.

    >>> one_of_each_class(np.array([0, 0, 1]), np.array([1, 0, 0])).tolist()
    [1, 2]
    """
    preferred = recognised_first(labels, predictions)
    _, first = np.unique(labels[preferred], return_index=True)
    return preferred[first]
