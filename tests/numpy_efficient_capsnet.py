"""A slow Efficient-CapsNet in numpy float64, written as plain loops from its equations."""

import numpy as np

from tests.numpy_capsnet import convolve


def squash(s):
    length = np.sqrt(sum(component**2 for component in s))
    return (1 - np.exp(-length)) * s / length


def normalise(x, layer, epsilon, axes, running=None):
    """Normalise (n, h, w, c) over axes, or by running statistics."""
    mean = x.mean(axes, keepdims=True) if running is None else running["mean"]
    var = x.var(axes, keepdims=True) if running is None else running["var"]
    return (x - mean) / np.sqrt(var + epsilon) * layer["scale"] + layer["bias"]


def primary_capsules(x, kernel, bias, stride, pose_size):
    """Poses (n, i, p): positions row by row, at each of them the capsules of its channels."""
    size, channels = kernel.shape[0], x.shape[-1]
    n, h, w, _ = x.shape
    poses = []
    for y in range((h - size) // stride + 1):
        for column in range((w - size) // stride + 1):
            features = np.tile(bias, (n, 1))
            for k in range(size):
                for m in range(size):
                    pixel = x[:, stride * y + k, stride * column + m]
                    features = features + pixel * kernel[k, m, 0]
            for first in range(0, channels, pose_size):
                poses.append([squash(each) for each in features[:, first : first + pose_size]])
    return np.swapaxes(np.array(poses), 0, 1)


def class_capsules(u, W, beta, attention=True):
    """Poses (n, j, d) and couplings (n, i, j); without attention all couplings are alike."""
    votes = np.einsum("ijdp,nip->nijd", W, u)
    n, i, j, d = votes.shape
    couplings = np.full((n, i, j), 1 / j)
    if attention:
        for image in range(n):
            for child in range(i):
                logits = [
                    sum(votes[image, child, k] @ votes[image, other, k] for other in range(i))
                    / np.sqrt(d)
                    for k in range(j)
                ]
                couplings[image, child] = np.exp(logits) / np.sum(np.exp(logits))
    s = np.einsum("nij,nijd->njd", couplings + beta, votes)
    return np.array([[squash(each) for each in image] for image in s]), couplings


def forward(variables, images, *, strides, kind, slope, primary, attention=True, training=False):
    """Poses of the class capsules, and couplings; `primary` has stride and pose_size."""
    params = variables["params"]
    x = images
    for index, stride in enumerate(strides):
        layer = params[f"conv_{index}"]
        x = convolve(x, layer["kernel"], stride) + layer["bias"]
        x = np.where(x > 0, x, slope * x)
        axes, running = (1, 2), None
        if kind == "batch":
            axes = (0, 1, 2)
            running = None if training else variables["batch_stats"][f"norm_{index}"]["batch"]
        x = normalise(x, params[f"norm_{index}"][kind], 1e-3, axes, running)
    layer = params["primary_layer"]
    u = primary_capsules(x, layer["kernel"], layer["bias"], **primary)
    classes = params["class_layer"]
    beta = classes["bias"] if "bias" in classes else np.zeros(classes["W"].shape[:2])
    return class_capsules(u, classes["W"], beta, attention)
