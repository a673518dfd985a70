"""Moments of votes: values and gradients of the fast forms are those of plain sums."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.kernels.moments import squared_distances, weighted_squares, weighted_sum

N, J, I, D = 2, 3, 5, 4  # noqa: E741 (the number of lower capsules)


def plain_sum(w, x):
    return jnp.sum(w[..., None] * x, axis=-2)


def plain_squares(w, x, centre):
    return plain_sum(w, jnp.square(x - centre[..., None, :]))


def plain_distances(x, centre, precision):
    return jnp.sum(jnp.square(x - centre[..., None, :]) * precision[..., None, :], axis=-1)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


W, VOTES, CENTRE, PRECISION = (
    normal(seed, N, J, *sizes) for seed, sizes in enumerate(((I,), (I, D), (D,), (D,)))
)
FORMS = {
    "sum": (weighted_sum, plain_sum, (W, VOTES)),
    "squares": (weighted_squares, plain_squares, (W, VOTES, CENTRE)),
    "distances": (squared_distances, plain_distances, (VOTES, CENTRE, PRECISION)),
}


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("name", FORMS)
def test_values_and_gradients_are_those_of_plain_sums(monkeypatch, name, backend):
    fast, plain, operands = FORMS[name]
    monkeypatch.setattr(jax, "default_backend", lambda: backend)

    def with_gradients(function, *operands):
        out, pull = jax.vjp(function, *operands)
        return out, pull(jnp.cos(jnp.arange(float(out.size))).reshape(out.shape))

    got, expected = with_gradients(fast, *operands), with_gradients(plain, *operands)
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-5)


def test_deviations_of_votes_far_from_zero_are_precise():
    """Mean square minus squared mean would be wrong in all digits."""
    centre = jnp.round(1000 * CENTRE)
    deviations = jnp.round(4 * VOTES) / 4
    votes = centre[..., None, :] + deviations
    shares = jnp.full((N, J, I), 1 / I)
    expected = np.square(np.asarray(deviations, np.float64))
    np.testing.assert_allclose(weighted_squares(shares, votes, centre), expected.mean(2), rtol=1e-6)
    distances = squared_distances(votes, centre, jnp.ones_like(centre))
    np.testing.assert_allclose(distances, expected.sum(3), rtol=1e-6)
