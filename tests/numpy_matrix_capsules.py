"""A slow network of matrix capsules in numpy float64, with EM or variational Bayes routing.

It imports nothing of the library that it is the reference for.
"""

import itertools

import numpy as np

from tests.numpy_capsnet import convolve
from tests.routing.slow_mixtures import slow_em, slow_vb


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def batch_norm(x, axis, norm, training, epsilon=1e-5):
    """Mean 0 and variance 1 over all axes but one, then scale and bias if there are any."""
    others = tuple(each for each in range(x.ndim) if each != axis % x.ndim)
    statistics = norm["statistics"]
    mean = x.mean(others) if training else statistics["mean"]
    var = x.var(others) if training else statistics["var"]
    shape = [1] * x.ndim
    shape[axis] = -1
    x = (x - mean.reshape(shape)) / np.sqrt(var.reshape(shape) + epsilon)
    scale, bias = norm.get("scale", np.ones_like(mean)), norm.get("bias", np.zeros_like(mean))
    return x * scale.reshape(shape) + bias.reshape(shape)


def window_votes(poses, a, W, kernel, stride):
    """Votes (o, i, j, d), activations (o, i) and children (o, i) of one image."""
    rows, columns, types, d = poses.shape
    r = W.shape[-1]
    votes, activations, children = [], [], []
    for y, x in itertools.product(
        range((rows - kernel) // stride + 1), range((columns - kernel) // stride + 1)
    ):
        of_window = []
        for k, m, t in itertools.product(range(kernel), range(kernel), range(types)):
            of_window.append((stride * y + k, stride * x + m, t))
        children.append([(p * columns + q) * types + t for p, q, t in of_window])
        activations.append([a[place] for place in of_window])
        votes.append(
            [
                [(poses[place].reshape(r, r) @ matrix).reshape(d) for matrix in W[i]]
                for i, place in enumerate(of_window)
            ]
        )
    return np.array(votes), np.array(activations), np.array(children)


def rivals_of_stride_1(rows, columns, kernel, types):
    """Numbers of the children that windows would have if their stride were 1."""
    return np.array(
        [
            [
                ((y + k) * (columns + kernel - 1) + x + m) * types + t
                for k, m, t in itertools.product(range(kernel), range(kernel), range(types))
            ]
            for y, x in itertools.product(range(rows), range(columns))
        ]
    )


def class_votes(poses, a, W, coordinates):
    """The same for the class capsules: one position; each type has its matrices everywhere."""
    rows, columns, types, d = poses.shape
    r = W.shape[-1]
    of_rows, of_columns, entries = coordinates
    votes = np.zeros((1, rows * columns * types, W.shape[1], d))
    for i, (y, x, t) in enumerate(itertools.product(range(rows), range(columns), range(types))):
        for j in range(W.shape[1]):
            vote = (poses[y, x, t].reshape(r, r) @ W[t, j]).reshape(d)
            vote[entries[0]] += of_rows[y]
            vote[entries[1]] += of_columns[x]
            votes[0, i, j] = vote
    return votes, a.reshape(1, -1), np.arange(votes.shape[1])[None]


def route(name, cut, capsules, over, start, layer, settings, betas):
    """Route each image of a batch: means (n, o, j, d) and logits (n, o, j)."""
    means, logits = [], []
    for poses, a in zip(*capsules, strict=True):
        votes, of_children, children = cut(poses, a)
        among = "positions" if over == "released" else over
        if over == "released":
            children = rivals_of_stride_1(*layer)
        if name == "em":
            routed = slow_em(votes, of_children, *betas, 3, children, among, start, **settings)
        else:
            of_logits = dict(zip(("beta_u", "beta_a"), betas, strict=True))
            routed = slow_vb(votes, of_children, 3, children, among, start, **of_logits, **settings)
        means.append(routed[0])
        logits.append(routed[1])
    return np.array(means), np.array(logits)


def forward(variables, images, *, name, layers, over, start, offset, em, coordinates, training):
    """Activations and poses of the class capsules.

    Args:
      variables: parameters and statistics, in float64.
      images: (n, h, w, c).
      name: "em" or "vb".
      layers: kernel and stride of the convolution and of each convolution of capsules.
      over, start: who competes in the convolutions of capsules.
      offset: of the logits of the primary capsules.
      em: scales of the two betas, settings of the layers, and settings of the classes.
      coordinates: of rows and of columns, and their entries.
      training: whether batch norms take statistics of the batch.
    """
    params, statistics = variables["params"], variables.get("batch_stats", {})

    def norm(x, axis, *path):
        if not statistics:
            return x
        found, learned = statistics, params
        for key in path:
            found, learned = found[key], learned.get(key, {})
        return batch_norm(x, axis, {"statistics": found, **learned}, training)

    def betas(layer):
        return [
            scale * layer[beta] for scale, beta in zip(em[0], ("beta_u", "beta_a"), strict=True)
        ]

    (kernel, stride), *windows = layers
    conv, primary = params["conv_layer"], params["primary_layer"]
    x = convolve(images, conv["kernel"], stride) + conv.get("bias", 0.0)
    x = np.maximum(norm(x, -1, "conv_norm", "batch"), 0)
    poses = convolve(x, primary["kernel"], 1)
    a = convolve(x, primary["activation_kernel"], 1) + offset
    poses = poses.reshape(*a.shape, -1)
    poses = norm(poses, -2, "primary_layer", "norm", "poses")
    a = sigmoid(norm(a, -1, "primary_layer", "norm", "activations"))
    for index, (kernel, stride) in enumerate(windows):
        layer = params[f"conv_caps_{index}"]
        rows, columns = ((size - kernel) // stride + 1 for size in poses.shape[1:3])
        means, logits = route(
            name,
            lambda p, q, W=layer["W"], k=kernel, s=stride: window_votes(p, q, W, k, s),
            (poses, a),
            over,
            start,
            (rows, columns, kernel, a.shape[-1]),
            em[1],
            betas(layer),
        )
        grid = (len(images), rows, columns)
        poses, logits = (x.reshape(*grid, *x.shape[2:]) for x in (means, logits))
        poses = norm(poses, -2, f"conv_norm_{index}", "poses")
        a = sigmoid(norm(logits, -1, f"conv_norm_{index}", "activations"))
    layer = params["class_layer"]
    means, logits = route(
        name,
        lambda p, q: class_votes(p, q, layer["W"], coordinates),
        (poses, a),
        "types",
        "types",
        None,
        em[2],
        betas(layer),
    )
    poses = norm(means[:, 0], -2, "class_norm", "poses")
    return sigmoid(norm(logits[:, 0], -1, "class_norm", "activations")), poses
