"""Dropout that does not depend on how a batch is divided."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


class Dropout(nn.Module):
    """Dropout with a key for each image, (n, ...) -> (n, ...).

    It sets each number to zero at a rate, and scales the others up. The mask of an image depends on
    its key alone: not on the rest of the batch, nor on the device. (Flax's dropout draws one mask
    for the batch.)

    Attributes:
      rate: share of numbers that are dropped, from 0 to below 1.
      index: number of this layer among a network's dropouts; each draws other random numbers.

    Raises:
      ValueError: at a call, for a rate that is not allowed.

    Source: Srivastava et al. 2014, section 4, with the scaling in training.
    """

    rate: float
    index: int = 0

    @nn.compact
    def __call__(
        self, x: Float[Array, "n *rest"], keys: Key[Array, "n"] | None
    ) -> Float[Array, "n *rest"]:
        """Drop numbers; without keys, as in testing, drop nothing."""
        if not 0.0 <= self.rate < 1.0:
            raise ValueError(f"a rate of dropout is from 0 to below 1, not {self.rate}")
        if keys is None or self.rate == 0.0:
            return x

        def kept(key):
            return jax.random.bernoulli(
                jax.random.fold_in(key, self.index), 1.0 - self.rate, x.shape[1:]
            )

        return jnp.where(jax.vmap(kept)(keys), x / (1.0 - self.rate), 0.0)
