"""A head of capsules on features: its layers, its shapes, its parameters and its errors."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.layers import CapsuleHead, DenseCaps
from capsjax.layers.votes import MatrixVotes
from capsjax.notation import Capsules
from capsjax.ops import squash
from capsjax.routing import ROUTING, make_routing

KEY = jax.random.key(0, impl="rbg")
BATCH_NORM = {"momentum": 0.9, "epsilon": 1e-5}
EQUICAPS = {
    "num_capsules": 32,
    "pose_size": 16,
    "routing": "self",
    "types": 32,
    "primary_pose_size": 16,
    "kernel_size": 3,
    "activations": "sigmoid",
    "batch_norm": BATCH_NORM,
    "kernel_init": "he_normal_child",
}


def normal(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def shapes_of(head, *shape, **settings):
    features = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(
        lambda features: head.init_with_output(KEY, features, **settings), features
    )


def drawn(head, *shape):
    """Random parameters, and statistics as they start."""
    rng = np.random.default_rng(1)
    _, variables = shapes_of(head, *shape)
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.asarray(
            rng.uniform(0.5, 1.5, x.shape) if path[-1].key == "var" else rng.normal(size=x.shape),
            x.dtype,
        ),
        variables,
    )


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def test_number_of_parameters_of_equicaps():
    # Features of a ResNet-18 on 256x256 pixels: 8x8 positions of 512 channels.
    capsules, variables = shapes_of(CapsuleHead(**EQUICAPS), 2, 8, 8, 512)
    chex.assert_shape(capsules.poses, (2, 32, 16))
    chex.assert_shape(capsules.activations, (2, 32))
    primary, classes = (variables["params"][f"{name}_layer"] for name in ("primary", "class"))
    norm = primary["norm"]
    assert primary["activation_kernel"].size == 9 * 512 * 32
    assert primary["kernel"].size == 9 * 512 * 32 * 16
    assert (count(norm["activations"]), count(norm["poses"])) == (2 * 32, 2 * 32 * 16)
    children = 8 * 8 * 32
    assert classes["W"].size == children * 32 * 16 * 16
    assert (classes["W_r"].size, classes["b_r"].size) == (children * 32 * 16, children * 32)
    assert count(variables["params"]) == 20_399_168
    assert count(variables["batch_stats"]) == 2 * 32 * 17


@pytest.mark.parametrize("name", ROUTING)
def test_every_algorithm_routes_features(name):
    capsules, _ = shapes_of(CapsuleHead(5, 9, name, types=3), 2, 1, 2, 6)
    chex.assert_shape(capsules.poses, (2, 5, 9))
    chex.assert_shape(capsules.activations, (2, 5))


def test_an_algorithm_has_settings_of_its_own():
    routing = make_routing("dynamic", num_iterations=1, use_bias=True)
    _, variables = shapes_of(CapsuleHead(5, 9, routing, types=3), 2, 6)
    assert set(variables["params"]["class_layer"]) == {"W", "bias"}


def test_lengths_are_those_of_the_squashed_poses_of_a_linear_layer():
    head = CapsuleHead(4, 5, "uniform", types=3, primary_pose_size=2)
    features, variables = normal(2, 6), drawn(head, 2, 6)
    apply = jax.jit(head.apply)
    found = apply(variables, features)
    layer = variables["params"]["primary_layer"]["conv"]
    classes = DenseCaps(4, 5, make_routing("uniform"))

    @jax.jit
    def by_hand(params, features):
        u = features @ layer["kernel"][0, 0] + layer["bias"][None]
        capsules = Capsules(squash(u.reshape(2, 3, 2)), jnp.ones((2, 3)))
        return classes.apply({"params": params["class_layer"]}, capsules)[0]

    expected = by_hand(variables["params"], features)
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-6)
    # Features of one position are those without a grid.
    chex.assert_trees_all_close(found, apply(variables, features[:, None, None]), rtol=1e-5)


@pytest.mark.slow
def test_sigmoids_are_normalised_by_the_batch_in_training_alone():
    settings = {**EQUICAPS, "num_capsules": 2, "types": 2, "primary_pose_size": 3, "pose_size": 4}
    head, features = CapsuleHead(**settings), normal(3, 2, 2, 4)
    variables = drawn(head, 3, 2, 2, 4)
    apply = jax.jit(head.apply, static_argnames=("training", "mutable"))
    others = features.at[1:].add(1.0)
    first = [apply(variables, x).poses[0] for x in (features, others)]
    np.testing.assert_allclose(*first, rtol=1e-5)
    (trained, changed), (other, _) = (
        apply(variables, x, training=True, mutable=("batch_stats",)) for x in (features, others)
    )
    assert float(jnp.abs(trained.poses[0] - first[0]).max()) > 1e-3
    assert float(jnp.abs(trained.poses[0] - other.poses[0]).max()) > 1e-3
    old, new = (x["batch_stats"]["primary_layer"] for x in (variables, changed))
    assert all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x != y).any()), old, new)))


def test_the_settings_of_the_class_layer_reach_it():
    head = CapsuleHead(5, 4, "em", types=3, primary_pose_size=4, votes=MatrixVotes())
    _, variables = shapes_of(head, 1, 2, 2, 6)
    assert variables["params"]["class_layer"]["W"].shape == (12, 5, 2, 2)
    _, variables = shapes_of(head.clone(shared="positions", norm="layer"), 1, 2, 2, 6)
    assert variables["params"]["class_layer"]["W"].shape == (3, 5, 2, 2)
    assert "norm" in variables["params"]["class_layer"]


def test_capsules_without_poses():
    capsules, variables = shapes_of(CapsuleHead(5, 0, "self", types=3), 2, 6)
    chex.assert_shape(capsules.activations, (2, 5))
    assert set(variables["params"]["class_layer"]) == {"W_r", "b_r"}


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ({}, (2, 3, 6), r"\(batch, channels\), not of shape \(2, 3, 6\)"),
        ({"kernel_size": 3}, (2, 6), "have one position: kernel_size is 1, not 3"),
        ({"routing": "dinamic"}, (2, 6), "unknown routing .* did you mean 'dynamic'"),
        ({"activations": "lengths"}, (2, 6), "unknown kind of activations .* mean 'length'"),
        ({"batch_norm": BATCH_NORM}, (2, 6), "batch_norm needs activations='sigmoid'"),
        ({"norm": "rmss"}, (2, 6), "unknown norm 'rmss'; did you mean 'rms'"),
        ({"votes": MatrixVotes()}, (2, 6), "one square number of dimensions, not 8 and 16"),
        ({"pose_size": 0}, (2, 6), "DynamicRouting makes activations of votes.*at least 1"),
    ],
)
def test_settings_that_do_not_work(settings, shape, message):
    with pytest.raises(ValueError, match=message):
        shapes_of(CapsuleHead(**{"num_capsules": 5, **settings}), *shape)
