"""Rearranging by `rearrange`: what it computes, and that the compiler leaves it alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.kernels.rearrangement import rearrange


def transposed(x):
    return x.transpose(2, 0, 1)


@pytest.mark.parametrize("first", [-1.0, 0.0, 1.0, np.nan])
def test_it_is_the_function_whatever_the_numbers_are(first):
    x = jnp.arange(24.0).reshape(2, 3, 4).at[0, 0, 0].set(first)
    np.testing.assert_array_equal(jax.jit(lambda x: rearrange(transposed, x))(x), transposed(x))


@pytest.mark.parametrize("first", [-1.0, 1.0, np.nan])
def test_it_is_the_function_whatever_it_waits_for(first):
    x, other = jnp.arange(24.0).reshape(2, 3, 4), jnp.full((3, 3), first)
    waited = jax.jit(lambda x, other: rearrange(transposed, x, after=other))(x, other)
    np.testing.assert_array_equal(waited, transposed(x))


def test_the_compiler_does_not_join_it_with_what_follows():
    def product(x):
        return jnp.ones((5, 4)) @ rearrange(transposed, x).reshape(4, -1)

    program = jax.jit(product).lower(jnp.ones((20, 30, 4))).compile().as_text()
    assert " conditional(" in program


def test_no_numbers_at_all():
    assert rearrange(transposed, jnp.zeros((0, 3, 4))).shape == (4, 0, 3)
    assert rearrange(transposed, jnp.zeros((2, 3, 4)), after=jnp.zeros(0)).shape == (4, 2, 3)
