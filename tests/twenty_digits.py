"""Twenty fixed digits of scikit-learn, and the training of a network on nothing else."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn.datasets import load_digits

from capsjax.training.build import build, build_evaluate, build_train_steps

COUNT = 20


def twenty_digits(image_shape=(28, 28, 1)):
    """The digits in pixels as large as fit into images of that shape, and their labels."""
    digits = load_digits()
    height, width, channels = image_shape
    size = min(height, width) // 8
    images = np.kron(digits.images[:COUNT, :, :, None], np.ones((1, size, size, channels)))
    top, left = (height - 8 * size) // 2, (width - 8 * size) // 2
    images = np.pad(
        images * 255 / 16,
        ((0, 0), (top, height - 8 * size - top), (left, width - 8 * size - left), (0, 0)),
    )
    return images.astype(np.uint8), digits.target[:COUNT].astype(np.int32)


def for_twenty_digits(config: ConfigDict) -> ConfigDict:
    """The config with all of them in a batch, and each as it is."""
    for name, value in config.augment.items():
        config.augment[name] = type(value)(0)
    config.train.batch_size = COUNT
    return config


def fit_twenty_digits(config: ConfigDict, *, steps: int, rounds: int = 1):
    """Train until all are recognised, with a look after each round of some steps.

    Returns:
      The states before the first step and after the last one.
    """
    images, labels = twenty_digits()
    built = build(for_twenty_digits(config), images.shape[1:], 10, COUNT)
    state = start = jax.jit(built.init_state)(0)
    train = jax.jit(build_train_steps(config, built))
    evaluate = jax.jit(build_evaluate(config, built))
    for _ in range(rounds):
        for _ in range(steps):
            state, health = train(state, images, labels, np.int32(1))
            assert bool(health.finite)
        sums = evaluate(state.variables, images, labels).sums
        correct = int(sums.totals["correct"])
        if correct == COUNT:
            return start, state
    pytest.fail(f"{correct} of {COUNT} images after {rounds * steps} steps")
