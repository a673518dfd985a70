"""Routing algorithms in plain numpy, right ones, each with a switch for the common faults."""

import numpy as np

FAULTS = (
    "softmax over children",
    "logits shared by the batch",
    "agreement over the wrong axis",
    "ReLU on lengths",
    "softmax on lengths",
)
CANCELS = "activations cancel"


def dynamic(votes, activations=None, *, rounds=3, fault=""):
    """Dynamic routing; activations weigh the votes."""
    weights = weigh(votes, activations, fault)
    b = np.zeros(votes.shape[:3])
    for _ in range(rounds):
        c = couple(b, fault)
        v = squash(np.einsum("nij,nijd->njd", c * weights, votes))
        b = b + agree(votes * v[:, None], fault)
    return read(v, norm(v), c, fault)


def self_attention(votes, activations=None, *, fault=""):
    """Efficient-CapsNet's routing in one pass; activations weigh the votes."""
    weights = weigh(votes, activations, fault)
    # The wrong axis here: the sum of the child's own votes, in place of that of all children.
    axis = 2 if fault == "agreement over the wrong axis" else 1
    others = np.sum(votes * weights[..., None], axis, keepdims=True)
    b = np.sum(votes * others, axis=-1) / np.sqrt(votes.shape[-1])
    c = couple(b, fault)
    s = np.einsum("nij,nijd->njd", c * weights, votes)
    length = norm(s)[..., None]
    v = -np.expm1(-length) * s / length
    return read(v, norm(v), c, fault)


def inverted_attention(votes, *, rounds=3, fault=""):
    """Routing by attention of children to parents, with a layer norm; lengths are its readout."""
    c = np.full(votes.shape[:3], 1 / votes.shape[2])
    for step in range(rounds):
        if step:
            c = couple(agree(votes * v[:, None], fault) / np.sqrt(votes.shape[-1]), fault)
        s = np.einsum("nij,nijd->njd", c, votes)
        s = s - s.mean(-1, keepdims=True)
        v = s / np.sqrt((s * s).mean(-1, keepdims=True) + 1e-5)
    return read(v, norm(v), c, fault)


def em(votes, activations, *, rounds=3, fault=""):
    """EM routing with betas of 0.5; the activation cancels where a mean takes the total's place."""
    c = np.full(votes.shape[:3], 1 / votes.shape[2])
    for step in range(rounds):
        w = (c * activations[..., None])[..., None]
        total = w.sum(1) + 1e-7
        mean = (w * votes).sum(1) / total
        squares = np.square(votes - mean[:, None])
        variance = (w * squares).sum(1) / total + 1e-3
        cost = 0.5 + 0.5 * np.log(variance)
        mass = 1.0 if fault == CANCELS else total
        score = (0.5 - (cost * mass).sum(-1)) * 0.1
        distance = agree(squares / variance[:, None], fault) + np.log(variance).sum(-1)[:, None]
        if step + 1 < rounds:
            c = couple(-np.logaddexp(0, -score)[:, None] - 0.5 * distance, fault)
    activation = np.maximum(score, 0) if fault == "ReLU on lengths" else 1 / (1 + np.exp(-score))
    return mean, softmax(score, -1) if fault == "softmax on lengths" else activation, c


def couple(b, fault):
    """Couplings of logits (n, i, j)."""
    if fault == "logits shared by the batch":
        b = np.broadcast_to(b.mean(0, keepdims=True), b.shape)
    return softmax(b, 1 if fault == "softmax over children" else 2)


def agree(products, fault):
    """Sum products (n, i, j, d) over the pose."""
    agreement = products.sum(-1)
    if fault == "agreement over the wrong axis":
        return np.broadcast_to(agreement.sum(1, keepdims=True), agreement.shape)
    return agreement


def weigh(votes, activations, fault):
    """Weights (n, i, 1) of the votes."""
    if activations is None:
        return np.ones((*votes.shape[:2], 1))
    if fault == CANCELS:
        return (activations / (activations.sum(1, keepdims=True) + 1e-7))[..., None]
    return activations[..., None]


def read(v, a, c, fault):
    """Poses, activations and couplings, the first two perhaps spoilt."""
    if fault == "ReLU on lengths":
        return np.maximum(v, 0), norm(np.maximum(v, 0)), c
    return v, softmax(a, -1) if fault == "softmax on lengths" else a, c


def squash(s):
    squared = np.sum(s * s, axis=-1, keepdims=True)
    return squared / (1 + squared) * s / np.sqrt(squared + 1e-9)


def norm(v):
    return np.sqrt(np.sum(v * v, axis=-1) + 1e-12)


def softmax(b, axis):
    e = np.exp(b - b.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)
