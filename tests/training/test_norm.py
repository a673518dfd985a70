"""The norm of all gradients: that of Optax, in fewer operations."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from capsjax.training.norm import MOST_AT_ONCE, tree_norm

# Large arrays have rows of one, of an odd number and of a power of two numbers.
SHAPES = {
    "scalar": (),
    "odd": (3, 5, 7),
    "even": (6, 4),
    "none": (0, 4),
    "as many as at once": (MOST_AT_ONCE,),
    "large and odd": (MOST_AT_ONCE + 1,),
    "large": (3, 2**15),
    "large with an odd factor": (81, 256, 4),
}


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def tree_of(names):
    random = np.random.default_rng(0)
    arrays = {name: random.normal(size=SHAPES[name]) for name in names}
    # Each array has a part in the norm that can be seen.
    return {
        name: jnp.asarray(100 * x / max(1, x.size) ** 0.5, jnp.float32)
        for name, x in arrays.items()
    }


@pytest.mark.parametrize("names", [SHAPES, *([name] for name in SHAPES)], ids=["all", *SHAPES])
def test_it_is_the_norm_of_optax(names):
    tree = tree_of(names)
    expected = jax.jit(optax.tree.norm)(tree)
    np.testing.assert_allclose(jax.jit(tree_norm)(tree), expected, rtol=1e-5)


def test_it_is_the_norm_of_optax_on_a_cpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    tree = tree_of(SHAPES)
    assert float(tree_norm(tree)) == float(optax.tree.norm(tree))


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "none"])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_shows(name, number):
    tree = tree_of(["odd", name])
    tree[name] = tree[name].at[(-1,) * tree[name].ndim].set(number)
    norm = float(jax.jit(tree_norm)(tree))
    assert np.isnan(norm) == np.isnan(number)
    assert not np.isfinite(norm)


def test_several_norms_under_vmap_are_each_alone():
    trees = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), tree_of(["odd", "large"]))
    norms = jax.jit(jax.vmap(tree_norm))(trees)
    alone = [optax.tree.norm(jax.tree.map(lambda x, k=k: x[k], trees)) for k in range(2)]
    np.testing.assert_allclose(norms, alone, rtol=1e-5)
