"""A slow CapsNet in numpy float64: what the published variants compute, written as plain loops.

It takes every choice in which the variants differ as an argument, and imports nothing of the
library that it is the reference for.
"""

import numpy as np


def convolve(images, kernel, stride):
    """Cross-correlation without padding of (n, h, w, c) with (kh, kw, c, o)."""
    kh, kw, _, channels = kernel.shape
    n, h, w, _ = images.shape
    rows, columns = (h - kh) // stride + 1, (w - kw) // stride + 1
    out = np.zeros((n, rows, columns, channels))
    for y in range(rows):
        for x in range(columns):
            for k in range(kh):
                for m in range(kw):
                    out[:, y, x] += images[:, stride * y + k, stride * x + m] @ kernel[k, m]
    return out


def squash(s, eps, eps_at):
    """One vector, squashed; eps stands inside the root or is added to the norm."""
    squared = sum(component**2 for component in s)
    norm = np.sqrt(squared + eps) if eps_at == "root" else np.sqrt(squared) + eps
    return squared / (1 + squared) * s / norm


def cut_into_capsules(features, pose_size, grouping):
    """Poses (i, p) of the features (y, x, f) of one image."""
    rows, columns, channels = features.shape
    poses = []
    if grouping == "channels":
        for y in range(rows):
            for x in range(columns):
                for first in range(0, channels, pose_size):
                    poses.append(features[y, x, first : first + pose_size])
    else:
        flat = [
            features[y, x, channel]
            for channel in range(channels)
            for y in range(rows)
            for x in range(columns)
        ]
        for first in range(0, len(flat), pose_size):
            poses.append(flat[first : first + pose_size])
    return np.array(poses)


def route(votes, bias, rounds, eps, eps_at, couplings=None):
    """Upper poses (j, d) and couplings (i, j) of the votes (i, j, d) of one image.

    Couplings that are given stay as they are: that is what a gradient sees that stops at them.
    """
    num_lower, num_upper, _ = votes.shape
    b = np.zeros((num_lower, num_upper))
    for _ in range(rounds):
        c = np.zeros_like(b)
        for i in range(num_lower):
            c[i] = np.exp(b[i]) / sum(np.exp(b[i]))
        if couplings is not None:
            c = couplings
        v = np.zeros_like(votes[0])
        for j in range(num_upper):
            s = sum(c[i, j] * votes[i, j] for i in range(num_lower)) + bias[j]
            v[j] = squash(s, eps, eps_at)
        for i in range(num_lower):
            for j in range(num_upper):
                b[i, j] += votes[i, j] @ v[j]
    return v, c


def decode(poses, label, layers):
    """Pixels from the poses (j, d) of one image, all but one class set to zero."""
    x = np.zeros_like(poses)
    x[label] = poses[label]
    x = x.reshape(-1)
    for kernel, bias in layers[:-1]:
        x = np.maximum(0, x @ kernel + bias)
    kernel, bias = layers[-1]
    return 1 / (1 + np.exp(-(x @ kernel + bias)))


def forward(
    params,
    images,
    labels=None,
    *,
    relu,
    divide_by_types,
    grouping,
    rounds,
    eps,
    eps_at,
    stride,
    couplings=None,
):
    """Lengths, poses, couplings and reconstructions of a batch.

    Args:
      params: "conv" and "primary", pairs of kernel and bias; "W" (i, j, d, p); "capsule_bias"
        (j, d); "decoder", a list of pairs.
      images: (n, h, w, c).
      labels: the classes to decode; None decodes the longest capsule.
      relu: whether the primary capsules are clipped at zero before their squash.
      divide_by_types: whether their convolution is divided by the number of types.
      grouping: "channels" or "pixels".
      rounds: of softmax, weighted sum and squash.
      eps, eps_at: of squash.
      stride: of the second convolution.
      couplings: constants (n, i, j) in place of those of routing.
    """
    W = params["W"]
    pose_size = W.shape[-1]
    kernel, bias = params["conv"]
    features = np.maximum(0, convolve(images, kernel, 1) + bias)
    kernel, bias = params["primary"]
    features = convolve(features, kernel, stride)
    if divide_by_types:
        features = features / (features.shape[-1] // pose_size)
    features = features + bias
    if relu:
        features = np.maximum(0, features)

    outputs = {"lengths": [], "poses": [], "c": [], "reconstruction": []}
    for index in range(len(images)):
        capsules = cut_into_capsules(features[index], pose_size, grouping)
        u = np.array([squash(capsule, eps, eps_at) for capsule in capsules])
        votes = np.array([[W[i, j] @ u[i] for j in range(W.shape[1])] for i in range(len(u))])
        given = None if couplings is None else couplings[index]
        v, c = route(votes, params["capsule_bias"], rounds, eps, eps_at, given)
        lengths = np.sqrt((v**2).sum(axis=-1))
        label = np.argmax(lengths) if labels is None else labels[index]
        pixels = decode(v, label, params["decoder"]).reshape(images.shape[1:])
        for name, value in zip(outputs, (lengths, v, c, pixels), strict=True):
            outputs[name].append(value)
    return {name: np.array(values) for name, values in outputs.items()}


def loss(
    output,
    images,
    labels,
    *,
    margin_weight,
    margin_over_classes,
    reconstruction_weight,
    reconstruction_over_pixels,
    reconstruction_over_batch,
):
    """The weighted margin and reconstruction loss of a batch; a reduction is "sum" or "mean"."""
    reduce = {"sum": np.sum, "mean": np.mean}
    margins, squares = [], []
    for index, label in enumerate(labels):
        terms = []
        for k, length in enumerate(output["lengths"][index]):
            present, absent = max(0, 0.9 - length) ** 2, 0.5 * max(0, length - 0.1) ** 2
            terms.append(present if k == label else absent)
        margins.append(reduce[margin_over_classes](terms))
        error = (output["reconstruction"][index] - images[index]) ** 2
        squares.append(reduce[reconstruction_over_pixels](error))
    margin = margin_weight * np.mean(margins)
    return margin, reconstruction_weight * reduce[reconstruction_over_batch](squares)
