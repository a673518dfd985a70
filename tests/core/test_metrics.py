"""Metrics: uneven batches add up to the whole."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.metrics import add_means, is_correct, means_of, zero_sums


def test_is_correct():
    lengths = jnp.array([[0.1, 0.9, 0.0], [0.8, 0.2, 0.3], [0.1, 0.2, 0.3]])
    correct = is_correct(lengths, jnp.array([1, 1, 2]))
    np.testing.assert_array_equal(correct, [1.0, 0.0, 1.0])
    assert correct.dtype == jnp.float32


def test_is_correct_keeps_the_axis_of_a_batch_of_one():
    chex.assert_shape(is_correct(jnp.array([[0.1, 0.9]]), jnp.array([1])), (1,))


def test_two_uneven_batches_by_hand():
    sums = zero_sums(("loss", "correct"))
    sums = add_means(sums, {"loss": jnp.array(1.0), "correct": jnp.array(1.0)}, 3)
    sums = add_means(sums, {"loss": jnp.array(5.0), "correct": jnp.array(0.0)}, 1)
    # The mean of the batch means would be 3.0 and 0.5.
    assert means_of(sums) == {"loss": 2.0, "accuracy": 0.75, "error": 0.25}


@pytest.mark.parametrize("cuts", [(), (1,), (16,), (4, 8, 12, 16), (1, 2, 15)])
def test_any_batches_equal_the_whole(cuts):
    rng = np.random.default_rng(0)
    values = {"loss": rng.normal(size=17), "correct": rng.integers(0, 2, 17)}
    sums = zero_sums(("loss", "correct"))
    for indices in np.split(np.arange(17), cuts):
        means = {name: jnp.float32(value[indices].mean()) for name, value in values.items()}
        sums = add_means(sums, means, len(indices))
    assert sums.count == 17
    got = means_of(sums)
    np.testing.assert_allclose(got["loss"], values["loss"].mean(), rtol=1e-5)
    np.testing.assert_allclose(got["accuracy"], values["correct"].mean(), rtol=1e-5)
    np.testing.assert_allclose(got["error"], 1 - values["correct"].mean(), rtol=1e-5)


def test_means_are_python_numbers_under_their_own_names():
    means = means_of(add_means(zero_sums(("loss",)), {"loss": jnp.array(0.5)}, 2))
    assert means == {"loss": 0.5}
    assert type(means["loss"]) is float


def test_sums_pass_through_jit():
    add = jax.jit(add_means, static_argnums=2)
    sums = zero_sums(("loss",))
    for _ in range(3):
        sums = add(sums, {"loss": jnp.array(0.5)}, 4)
    chex.assert_trees_all_close(sums.totals, {"loss": jnp.array(6.0)})
    chex.assert_trees_all_close(sums.count, jnp.array(12.0))


def test_a_metric_that_was_not_asked_for_is_left_out():
    sums = add_means(zero_sums(("loss",)), {"loss": jnp.array(1.0), "extra": jnp.array(9.0)}, 2)
    assert means_of(sums) == {"loss": 1.0}
