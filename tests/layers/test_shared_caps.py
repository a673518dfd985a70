"""Capsules whose kernel is shared by child types: against types with kernels of their own."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.layers import ConvCaps, SharedConvCaps
from capsjax.notation import Capsules
from capsjax.ops import safe_norm
from capsjax.routing import make_routing

# The default generator takes longer to compile than all that is tested here.
KEY = jax.random.key(0, impl="rbg")
TYPES, P, J, D = 3, 4, 2, 5


@functools.cache
def capsules():
    poses = np.random.default_rng(0).normal(size=(2, 4, 5, TYPES, P))
    poses = jnp.asarray(poses, jnp.float32)
    return Capsules(poses, safe_norm(poses))


@functools.cache
def params():
    kernel = np.random.default_rng(1).normal(size=(3, 3, P, J * D))
    bias = np.random.default_rng(2).normal(size=(J, D))
    return jax.tree.map(jnp.float32, {"conv": {"kernel": kernel}, "bias": bias})


def layer_of(over="all", routing="agreement_3d", **settings):
    return SharedConvCaps(J, D, make_routing(routing), over=over, **settings)


def look(layer, below):
    apply = jax.jit(functools.partial(layer.apply, mutable=["intermediates"]))
    (above, _), shown = apply({"params": params()}, below)
    return above, shown["intermediates"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("over", "routing", "stride"), [("all", "agreement_3d", 1), ("types", "uniform", 2)]
)
def test_it_is_a_layer_of_summed_windows_whose_types_have_one_kernel(over, routing, stride):
    above, shown = look(layer_of(over, routing, stride=stride), capsules())
    settings = {"padding": "SAME", "windows": "summed", "over": over, "stride": stride}
    of_types = ConvCaps(J, D, make_routing(routing), **settings)
    W = params()["conv"]["kernel"].reshape(9, P, J, D).transpose(0, 2, 3, 1)
    variables = {"params": {"W": np.repeat(W, TYPES, axis=0), "bias": params()["bias"]}}
    apply = jax.jit(functools.partial(of_types.apply, mutable=["intermediates"]))
    (expected, _), inside = apply(variables, capsules())
    chex.assert_trees_all_close(above, expected, rtol=1e-4, atol=1e-5)
    couplings = inside["intermediates"]["couplings"]
    np.testing.assert_allclose(shown["couplings"], couplings, rtol=1e-4, atol=1e-6)


class RoutingThatRemembers:
    """Uniform routing whose memory is the activations of the children."""

    def learned_arrays(self, i, j, p, d):
        return {}

    def __call__(self, votes, activations, learned, *, competition):
        uniform = make_routing("uniform")
        routed = uniform(votes, activations, learned, competition=competition)
        return routed._replace(memory=activations)


def test_activations_of_children_are_the_largest_in_the_window():
    layer = SharedConvCaps(J, D, RoutingThatRemembers(), stride=2)
    _, found = jax.jit(layer.apply)({"params": params()}, capsules())
    a = np.pad(capsules().activations, ((0, 0), (0, 1), (1, 1), (0, 0)))
    windows = [a[:, y : y + 3, x : x + 3].max((1, 2)) for y in (0, 2) for x in (0, 2, 4)]
    np.testing.assert_allclose(found, np.stack(windows, axis=1), rtol=1e-6)


@pytest.mark.slow
def test_permuted_child_types_have_permuted_votes_and_the_same_parents():
    order = np.array([2, 0, 1])
    above, shown = look(layer_of(), capsules())
    moved = jax.tree.map(lambda x: x[:, :, :, order], capsules())
    again, inside = look(layer_of(), moved)
    for name in ("votes", "couplings"):
        np.testing.assert_allclose(inside[name], shown[name][:, :, order], rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(again, above, rtol=1e-4, atol=1e-5)


def test_it_starts_with_the_deviation_of_a_window_of_one_type():
    layer = SharedConvCaps(32, 8, make_routing("agreement_3d"))
    below = Capsules(jnp.zeros((1, 1, 1, 2, 8)), jnp.zeros((1, 1, 1, 2)))
    started = jax.jit(layer.init)(KEY, below)["params"]
    chex.assert_shape(started["conv"]["kernel"], (3, 3, 8, 256))
    np.testing.assert_allclose(started["conv"]["kernel"].std(), (2 / 72) ** 0.5, rtol=0.03)
    np.testing.assert_array_equal(started["bias"], jnp.full((32, 8), 0.1))


def test_capsules_without_a_grid_are_refused():
    below = Capsules(jnp.ones((2, 6, P)), jnp.ones((2, 6)))
    with pytest.raises(ValueError, match="needs capsules on a grid"):
        layer_of().init(KEY, below)
