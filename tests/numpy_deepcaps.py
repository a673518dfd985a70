"""A slow DeepCaps in numpy float64, written as plain loops from its equations."""

import numpy as np

from tests.numpy_capsnet import convolve
from tests.numpy_efficient_capsnet import normalise


def squash(s):
    squared = np.sum(s**2, axis=-1, keepdims=True)
    return squared / (1 + squared) * s / np.sqrt(squared + 1e-7)


def pad_same(x, size, stride):
    """Zeros around images (n, h, w, c), an odd row or column of them at the end."""
    widths = []
    for length in x.shape[1:3]:
        missing = max((-(-length // stride) - 1) * stride + size - length, 0)
        widths.append((missing // 2, missing - missing // 2))
    return np.pad(x, ((0, 0), *widths, (0, 0)))


def capsules(x, kernel, stride, pose_size):
    """Squashed poses (n, y, x, i, p) of a convolution of channels."""
    features = convolve(pad_same(x, kernel.shape[0], stride), kernel, stride)
    return squash(features.reshape(*features.shape[:3], -1, pose_size))


def route(votes, bias, rounds):
    """Poses and couplings of votes (n, o, i, j, d), where a child divides itself among all o, j."""
    b = np.zeros(votes.shape[:-1])
    for _ in range(rounds):
        e = np.exp(b)
        c = e / e.sum((1, 3), keepdims=True)
        v = squash(np.einsum("noij,noijd->nojd", c, votes) + bias)
        b = b + np.einsum("noijd,nojd->noij", votes, v)
    return v, c


def volume(poses, kernel, bias, rounds):
    """Capsules whose votes are one convolution of the poses of each child type."""
    n, h, w, i, _ = poses.shape
    j, d = bias.shape
    size = kernel.shape[0]
    of_types = [
        convolve(pad_same(poses[:, :, :, each], size, 1), kernel, 1).reshape(n, h * w, j, d)
        for each in range(i)
    ]
    v, c = route(np.stack(of_types, axis=2), bias, rounds)
    return v.reshape(n, h, w, j, d), c


def flat(poses):
    return poses.reshape(*poses.shape[:3], -1)


def cell(x, layers, stride, pose_size, rounds):
    """Poses of a cell, and the couplings of its skip, if it is routed."""
    down = capsules(x, layers["down"]["conv"]["kernel"], stride, pose_size)
    first = capsules(flat(down), layers["first"]["conv"]["kernel"], 1, pose_size)
    second = capsules(flat(first), layers["second"]["conv"]["kernel"], 1, pose_size)
    kernel, couplings = layers["skip"]["conv"]["kernel"], None
    if "bias" in layers["skip"]:
        skip, couplings = volume(down, kernel, layers["skip"]["bias"], rounds)
    else:
        skip = capsules(flat(down), kernel, 1, pose_size)
    return second + skip, couplings


def grow(x, kernel, bias, stride):
    """A transposed convolution: each pixel adds its kernel (k, k, o, c) to a window."""
    n, h, w, _ = x.shape
    size, _, features, _ = kernel.shape
    before = max(size - stride, 0) // 2
    wide = np.zeros((n, stride * h + size, stride * w + size, features))
    for y in range(h):
        for column in range(w):
            window = np.einsum("klof,nf->nklo", kernel, x[:, y, column])
            top, left = stride * y, stride * column
            wide[:, top : top + size, left : left + size] += window
    return wide[:, before : before + stride * h, before : before + stride * w] + bias


def decode(pose, variables, first_shape, strides):
    params, statistics = variables["params"]["decoder_layer"], variables["batch_stats"]
    x = np.maximum(pose @ params["map"]["kernel"] + params["map"]["bias"], 0)
    running = statistics["decoder_layer"]["norm"]["batch"]
    x = normalise(x.reshape(-1, *first_shape), params["norm"]["batch"], 1e-3, None, running)
    for index, stride in enumerate(strides):
        kernel, bias = params[f"deconv_{index}_kernel"], params[f"deconv_{index}_bias"]
        x = grow(x, kernel, bias, stride)
    return np.maximum(grow(x, params["pixels_kernel"], params["pixels_bias"], 1), 0)


def forward(variables, images, *, pose_sizes, strides, rounds=3):
    """Poses of the class capsules (n, j, d), and couplings of the last cell's skip."""
    params = variables["params"]
    stem = params["stem_layer"]
    x = convolve(pad_same(images, stem["kernel"].shape[0], 1), stem["kernel"], 1) + stem["bias"]
    running = variables["batch_stats"]["norm_layer"]["batch"]
    x = normalise(np.maximum(x, 0), params["norm_layer"]["batch"], 1e-3, None, running)
    of_cells = []
    for index, (pose_size, stride) in enumerate(zip(pose_sizes, strides, strict=True)):
        layers = {
            part: params[f"cell_{index}_{part}"] for part in ("down", "first", "second", "skip")
        }
        poses, couplings = cell(x, layers, stride, pose_size, rounds)
        of_cells.append(poses)
        x = flat(poses)
    last = [poses.reshape(len(images), -1, poses.shape[-1]) for poses in of_cells[:-3:-1]]
    u = np.concatenate(last, axis=1)
    classes = params["class_layer"]
    votes = np.einsum("ijdp,nip->nijd", classes["W"], u)
    poses, of_classes = route(votes[:, None], classes["bias"], rounds)
    return poses[:, 0], couplings, of_classes[:, 0]
