"""Groups of images: the values and gradients of all images at once, in less memory."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.kernels.compute import Compute
from capsjax.layers import ConvCaps, DenseCaps, groups
from capsjax.notation import Capsules
from capsjax.routing import make_routing

N, SIDE, TYPES, P = 5, 3, 2, 4
# Votes of an image: 4 windows of 2x2 positions, each with 8 children; 18 children.
LAYERS = {
    "conv": (functools.partial(ConvCaps, kernel_size=2), 4 * 8 * 3 * P),
    "dense": (DenseCaps, SIDE * SIDE * TYPES * 3 * P),
}


def layer_of(kind, routing, votes):
    make, _ = LAYERS[kind]
    return make(3, P, routing=make_routing(routing), compute=Compute(votes=votes))


def below():
    rng = np.random.default_rng(0)
    poses = rng.normal(size=(N, SIDE, SIDE, TYPES, P)).astype(np.float32)
    activations = rng.uniform(0.1, 1, size=poses.shape[:-1]).astype(np.float32)
    return Capsules(jnp.asarray(poses), jnp.asarray(activations))


def loss(layer, params, capsules):
    above, memory = layer.apply(params, capsules)
    if memory is not None:  # an algorithm that goes on from its last call
        above, memory = layer.apply(params, capsules, 0.5 * memory)
    weights = jnp.cos(jnp.arange(float(above.poses.size))).reshape(above.poses.shape)
    return jnp.sum(weights * above.poses) + jnp.sum(above.activations), above


@pytest.fixture
def pairs_of_images(monkeypatch):
    """A function that lets a layer route two images at once, so that the last pair is not full."""

    def limit(kind):
        monkeypatch.setitem(groups.GROUP_BYTES, "cpu", 2 * 4 * LAYERS[kind][1])

    return limit


@pytest.mark.parametrize(
    ("kind", "routing"),
    [
        ("conv", "em"),
        ("dense", "em"),
        pytest.param("conv", "vb", marks=pytest.mark.ci),
        ("conv", "inverted_attention"),
    ],
)
def test_groups_give_the_values_and_gradients_of_all_at_once(pairs_of_images, kind, routing):
    pairs_of_images(kind)
    held, grouped = (layer_of(kind, routing, votes) for votes in ("held", "auto"))
    params = jax.jit(held.init)(jax.random.key(0), below())
    results = []
    for layer in (held, grouped):
        gradient = jax.value_and_grad(functools.partial(loss, layer), (0, 1), has_aux=True)
        compiled = jax.jit(gradient).lower(params, below()).compile()
        results.append(compiled(params, below()))
        assert (" while(" in compiled.as_text()) or layer is held
    chex.assert_trees_all_close(*results, rtol=1e-4, atol=1e-5)


def test_votes_of_one_group_are_held(monkeypatch):
    """More images add their poses and couplings, not their votes."""
    monkeypatch.setitem(groups.GROUP_BYTES, "cpu", 1)
    layer, sizes = layer_of("conv", "em", "auto"), []
    params = jax.jit(layer.init)(jax.random.key(0), below())
    for n in (20, 40):
        capsules = jax.tree.map(lambda x, n=n: jnp.tile(x, (n // N, *[1] * (x.ndim - 1))), below())
        gradient = jax.grad(functools.partial(loss, layer), has_aux=True)
        compiled = jax.jit(gradient).lower(params, capsules).compile()
        sizes.append(compiled.memory_analysis().temp_size_in_bytes)
    assert sizes[1] - sizes[0] < 20 * 4 * LAYERS["conv"][1]


@pytest.mark.ci
def test_what_is_inside_is_shown_of_all_images(pairs_of_images):
    pairs_of_images("conv")
    layer = layer_of("conv", "em", "auto")
    params = layer.init(jax.random.key(0), below())
    apply = jax.jit(functools.partial(layer.apply, mutable=["intermediates"]))
    _, shown = apply(params, below())
    assert shown["intermediates"]["votes"].shape == (N, 4, 8, 3, P)


def test_a_program_for_any_number_of_images_has_no_groups(monkeypatch):
    monkeypatch.setitem(groups.GROUP_BYTES, "cpu", 1)
    layer = layer_of("dense", "em", "auto")
    params = jax.jit(layer.init)(jax.random.key(0), below())
    poses = jax.jit(lambda capsules: layer.apply(params, capsules)[0].poses)
    n, *_ = jax.export.symbolic_shape("n")
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype), below())
    # What is stored has no type of its own for capsules.
    program = jax.export.export(jax.jit(lambda *parts: poses(Capsules(*parts))))(*shapes)
    np.testing.assert_allclose(program.call(*below()), poses(below()), rtol=1e-4, atol=1e-5)
