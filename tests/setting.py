"""A network on data, with its compiled steps, for tests of training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from capsjax.data import load_training
from capsjax.training.build import build, build_train_steps


class Setting:
    """What a config describes, ready to take steps."""

    def __init__(self, config: ConfigDict):
        self.config = config
        self.training, self.validation = load_training(**config.data)
        self.images = jnp.asarray(self.training.images)
        self.labels = jnp.asarray(self.training.labels)
        self.built = build(
            config, self.training.image_shape, self.training.num_classes, len(self.training)
        )
        self.pure_steps = build_train_steps(config, self.built)
        self.steps = jax.jit(self.pure_steps)

    @functools.cache  # noqa: B019 (a setting lives as long as its test module)
    def start(self, seed=0):
        return jax.jit(self.built.init_state)(seed)

    def run(self, state, *cuts):
        for cut in cuts:
            state, health = self.steps(state, self.images, self.labels, np.int32(cut))
            assert bool(health.finite)
        return state
