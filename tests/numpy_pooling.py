"""Pooling in plain loops over windows, in numpy and float64: the slow reference of the tests."""

import itertools
import math

import numpy as np


def spans(size, window, stride, padding):
    """For each window along an axis, the pixels of the image that it holds."""
    if padding == "SAME":
        count = math.ceil(size / stride)
        start = -(max((count - 1) * stride + window - size, 0) // 2)
    else:
        count, start = (size - window) // stride + 1, 0
    firsts = [start + index * stride for index in range(count)]
    return [[p for p in range(first, first + window) if 0 <= p < size] for first in firsts]


def pool(x, window, stride, padding, reduce):
    """`reduce` makes one vector of the vectors (p, c) of each window."""
    x, stride = np.asarray(x, np.float64), window if stride is None else stride
    axes = [spans(x.shape[1 + k], window[k], stride[k], padding) for k in range(2)]
    out = np.zeros((x.shape[0], len(axes[0]), len(axes[1]), x.shape[3]))
    for n, y, column in np.ndindex(*out.shape[:3]):
        held = itertools.product(axes[0][y], axes[1][column])
        out[n, y, column] = reduce(np.array([x[n, p, q] for p, q in held]))
    return out


def average_pool(x, window, stride=None, padding="SAME"):
    return pool(x, window, stride, padding, lambda vectors: vectors.mean(axis=0))


def max_pool(x, window, stride=None, padding="SAME"):
    return pool(x, window, stride, padding, lambda vectors: vectors.max(axis=0))


def agree(vectors, num_steps, temperature, eps):
    """The capsule of one window, from those of its pixels (p, d)."""
    scores, weights = [0.0] * len(vectors), [1.0] * len(vectors)
    for step in range(num_steps):
        if step:
            e = [math.exp((score - max(scores)) / temperature) for score in scores]
            weights = [one / (sum(e) / len(e) + eps) for one in e]
        mean = sum(w * v for w, v in zip(weights, vectors, strict=True)) / len(vectors)
        short = mean / (1 + np.linalg.norm(mean) + eps)
        scores = [score + v @ short for score, v in zip(scores, vectors, strict=True)]
    return mean


def capsule_pool(
    x,
    window,
    stride=None,
    padding="SAME",
    num_steps=2,
    temperature=2.0,
    num_capsules=1,
    eps=1e-7,
):
    def reduce(vectors):
        parts = np.split(vectors, num_capsules, axis=1)
        return np.concatenate([agree(part, num_steps, temperature, eps) for part in parts])

    return pool(x, window, stride, padding, reduce)


def capsule_pool_of_whole_images(x, window, num_steps=2, temperature=2.0, eps=1e-7):
    """As published: whole maps, enlarged from the top left corner and cropped to the image."""

    def enlarge(pooled):
        repeated = pooled.repeat(window[0], axis=1).repeat(window[1], axis=2)
        return repeated[:, : x.shape[1], : x.shape[2]]

    scores, weighted = np.zeros((*x.shape[:3], 1)), x
    for step in range(num_steps):
        if step:
            e = np.exp((scores - enlarge(max_pool(scores, window))) / temperature)
            weighted = x * e / (enlarge(average_pool(e, window)) + eps)
        mean = average_pool(weighted, window)
        short = mean / (1 + np.linalg.norm(mean, axis=-1, keepdims=True) + eps)
        scores = scores + (x * enlarge(short)).sum(axis=-1, keepdims=True)
    return mean
