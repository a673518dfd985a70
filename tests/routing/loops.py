"""What the slow references of the routing algorithms share: loops that import nothing of capsjax.

A reference takes one example with votes (o, i, j, d), where a dense layer has one position o, and
a table of the child at each place of each position.
"""

import math
from typing import NamedTuple

import numpy as np


class Case(NamedTuple):
    """Who competes: child of each place (o, i), None for a dense layer, and `over`."""

    children: np.ndarray | None
    over: str = "types"
    places: int = 5

    def table(self):
        dense = np.arange(self.places)[None]
        return dense if self.children is None else self.children

    def shape(self, *more):
        """The shape of two examples' arrays (n, [o,] i, ...)."""
        return (2, *(self.table().shape[self.children is None :]), *more)

    def position_first(self, x):
        """One example with an axis of positions, which a dense layer does not have."""
        x = np.asarray(x, np.float64)
        return x[None] if self.children is None else x


# Children 0 to 5 and windows of four places, some beyond the border; no window sees child 5.
WINDOWS = np.array([[-1, 0, 1, 2], [1, 2, 3, 4], [3, 4, -1, -1]])
CASES = {
    "dense": Case(None),
    "one child": Case(None, places=1),
    "types": Case(WINDOWS, "types"),
    "all": Case(WINDOWS, "all"),
    "positions": Case(WINDOWS, "positions"),
}


def places_of(table):
    """Yield position, place and child of all places that have one."""
    for o, row in enumerate(table):
        for i, child in enumerate(row):
            if child >= 0:
                yield o, i, int(child)


def softmax_of_sets(b, case):
    """Couplings (o, i, j): a softmax over each child's set, and 0 for places without a child."""
    table, c = case.table(), np.zeros(b.shape)
    sets = {}
    for o, i, child in places_of(table):
        for j in range(b.shape[2]):
            key = {"types": (child, o), "all": (child,), "positions": (child, j)}[case.over]
            sets.setdefault(key, []).append((o, i, j))
    for members in sets.values():
        largest = max(b[member] for member in members)
        total = sum(math.exp(b[member] - largest) for member in members)
        for member in members:
            c[member] = math.exp(b[member] - largest) / total
    return c


def dot(x, y):
    return sum(float(x[k]) * float(y[k]) for k in range(len(x)))


def log_sigmoid(x):
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def layer_norm(x, eps):
    if len(x) == 1:
        return np.array(x)
    mean = sum(x) / len(x)
    variance = sum((each - mean) ** 2 for each in x) / len(x)
    return np.array([(each - mean) / math.sqrt(variance + eps) for each in x])


def squash(s, eps=1e-7):
    squared = dot(s, s)
    return np.array(s) * squared / (1 + squared) / math.sqrt(squared + eps)


def length(v, eps=1e-7):
    return math.sqrt(dot(v, v) + eps)


def weighted_sums(weights, votes, case):
    """Sum of weight times vote over the places of each position that have a child."""
    _, _, j_size, d_size = votes.shape
    s = np.zeros((len(votes), j_size, d_size))
    for o, i, _ in places_of(case.table()):
        for j in range(j_size):
            for d in range(d_size):
                s[o, j, d] += weights[o, i, j] * votes[o, i, j, d]
    return s


def per_capsule(function, s):
    """Apply a function of a pose to all poses (o, j, d)."""
    return np.array([[function(pose) for pose in row] for row in s])
