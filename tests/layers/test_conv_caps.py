"""Capsules in a convolution: against a dense layer, against loops, and in depth."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.layers import ConvCaps, DenseCaps
from capsjax.layers.votes import FullVotes, MatrixVotes
from capsjax.notation import Capsules
from capsjax.ops import safe_norm, squash
from capsjax.routing import make_routing

# The default generator takes longer to compile than all that is tested here.
KEY = jax.random.key(0, impl="rbg")


def capsules(n, *shape, seed=0):
    poses = jnp.asarray(np.random.default_rng(seed).normal(size=(n, *shape)), jnp.float32)
    return Capsules(poses, safe_norm(poses))


def layer_of(routing="dynamic", **settings):
    return ConvCaps(types=3, pose_size=4, routing=make_routing(routing), kernel_size=3, **settings)


@pytest.mark.ci
@pytest.mark.parametrize("over", ["types", "all"])
@pytest.mark.parametrize("routing", ["dynamic", "uniform"])
def test_a_kernel_of_the_whole_grid_is_a_dense_layer(routing, over):
    below = capsules(2, 3, 3, 2, 5)
    layer = layer_of(routing, over=over)
    params = jax.jit(layer.init)(KEY, below)["params"]
    above, _ = layer.apply({"params": params}, below)
    chex.assert_shape(above.poses, (2, 1, 1, 3, 4))
    dense = DenseCaps(num_capsules=3, pose_size=4, routing=make_routing(routing))
    expected, _ = dense.apply({"params": params}, below)
    np.testing.assert_allclose(above.poses[:, 0, 0], expected.poses, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(above.activations[:, 0, 0], expected.activations, rtol=1e-4)


@pytest.mark.ci
@pytest.mark.parametrize(("stride", "padding"), [(1, "VALID"), (2, "VALID"), (2, "SAME")])
def test_uniform_routing_over_types_is_a_squashed_convolution(stride, padding):
    below = capsules(2, 5, 6, 2, 4)
    layer = layer_of("uniform", stride=stride, padding=padding, over="types")
    (above, _), variables = jax.jit(layer.init_with_output)(KEY, below)
    W = variables["params"]["W"].reshape(3, 3, 2, 3, 4, 4)
    kernel = W.transpose(0, 1, 2, 5, 3, 4).reshape(3, 3, 8, 12)
    sums = jax.lax.conv_general_dilated(
        below.poses.reshape(2, 5, 6, 8), kernel, (stride, stride), padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    expected = squash(sums.reshape(*sums.shape[:3], 3, 4) / 3)
    np.testing.assert_allclose(above.poses, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(above.activations, safe_norm(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.ci
@pytest.mark.parametrize("over", ["types", "all"])
def test_summed_windows_route_the_types(over):
    below = capsules(2, 4, 4, 2, 4)
    layer = layer_of(windows="summed", over=over)
    params = jax.jit(layer.init)(KEY, below)["params"]
    (above, _), shown = layer.apply({"params": params}, below, mutable=["intermediates"])
    shown = shown["intermediates"]
    chex.assert_shape(shown["votes"], (2, 4, 2, 3, 4))
    chex.assert_shape(above.poses, (2, 2, 2, 3, 4))
    totals = shown["couplings"].sum((-1,) if over == "types" else (1, -1))
    np.testing.assert_allclose(totals, 1.0, rtol=1e-5)
    # Without a competition both ways to see a window are the same sum.
    gathered = layer_of("uniform", over="types").apply({"params": params}, below)[0]
    summed = layer_of("uniform", over="types", windows="summed").apply({"params": params}, below)
    np.testing.assert_allclose(summed[0].poses, gathered.poses, rtol=1e-4, atol=1e-6)


@pytest.mark.ci
def test_scrambled_windows_take_the_numbers_of_a_pose_from_several_windows():
    below = capsules(2, 4, 5, 2, 4)
    layer = layer_of("uniform", windows="scrambled", over="types")
    params = jax.jit(layer.init)(KEY, below)["params"]
    _, shown = layer.apply({"params": params}, below, mutable=["intermediates"])
    poses = np.asarray(below.poses)
    for y, x, row, column, kind in np.ndindex(2, 3, 3, 3, 2):
        # The released code: stacked with the 6 windows last, and read as if the pose came last.
        stacked = [poses[:, r + row, c + column, kind] for r in range(2) for c in range(3)]
        flat = np.stack(stacked, axis=-1).reshape(2, 24)
        pose = flat[:, 4 * (3 * y + x) : 4 * (3 * y + x) + 4]
        place = (3 * row + column) * 2 + kind
        expected = np.einsum("np,jdp->njd", pose, params["W"][place])
        found = shown["intermediates"]["votes"][:, 3 * y + x, place]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.ci
@pytest.mark.parametrize("windows", ["gathered", "scrambled"])
def test_parents_move_with_an_image_that_moves_by_the_stride(windows):
    below = capsules(1, 7, 7, 2, 4)
    layer = layer_of(windows=windows, stride=2, over="types")
    params = jax.jit(layer.init)(KEY, below)["params"]
    above, _ = layer.apply({"params": params}, below)
    moved, _ = layer.apply({"params": params}, jax.tree.map(lambda x: x[:, 2:], below))
    same = np.allclose(moved.poses, above.poses[:, 1:], rtol=1e-4, atol=1e-6)
    assert same == (windows == "gathered")


@pytest.mark.slow
def test_what_is_looked_at_has_the_upper_positions_first():
    below = capsules(2, 4, 5, 2, 4)
    layer = layer_of()
    params = jax.jit(layer.init)(KEY, below)["params"]
    _, shown = layer.apply({"params": params}, below, mutable=["intermediates"])
    shapes = jax.tree.map(jnp.shape, shown["intermediates"])
    assert shapes["votes"] == (2, 6, 18, 3, 4)
    assert shapes["couplings"] == shapes["logits"] == (2, 6, 18, 3)


@pytest.mark.slow
def test_positions_share_their_matrices_in_a_dense_layer():
    below = capsules(2, 2, 3, 5, 4)
    layer = DenseCaps(
        num_capsules=3, pose_size=4, routing=make_routing("dynamic"), shared="positions"
    )
    (above, _), variables = jax.jit(layer.init_with_output)(KEY, below)
    chex.assert_shape(variables["params"]["W"], (5, 3, 4, 4))
    moved = Capsules(below.poses[:, ::-1, ::-1], below.activations[:, ::-1, ::-1])
    again, _ = layer.apply(variables, moved)
    np.testing.assert_allclose(again.poses, above.poses, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_matrix_votes_are_products_of_matrices():
    u = capsules(2, 3, 16).poses
    W = capsules(3, 2, 4, 4, seed=1).poses
    votes = MatrixVotes()(u, W, "float32")
    expected = u[1, 2].reshape(4, 4) @ W[2, 1]
    np.testing.assert_allclose(votes[1, 2, 1].reshape(4, 4), expected, rtol=1e-5)
    assert FullVotes().shape_of_matrices(3, 2, 4, 5) == (3, 2, 4, 5)
    with pytest.raises(ValueError, match="square number of dimensions, not 8 and 8"):
        MatrixVotes().shape_of_matrices(3, 2, 8, 8)


def test_matrix_votes_route_in_a_convolution():
    below = capsules(2, 4, 4, 2, 16)
    layer = ConvCaps(types=3, pose_size=16, routing=make_routing("dynamic"), votes=MatrixVotes())
    (above, _), variables = jax.jit(layer.init_with_output)(KEY, below)
    chex.assert_shape(variables["params"]["W"], (18, 3, 4, 4))
    chex.assert_shape(above.poses, (2, 2, 2, 3, 16))


def test_capsules_without_a_grid_are_refused():
    with pytest.raises(ValueError, match="needs capsules on a grid"):
        layer_of().init(KEY, capsules(2, 6, 4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"windows": "sumed"}, "did you mean 'summed'"),
        ({"norm": "rmss"}, "did you mean 'rms'"),
        ({"over": "type"}, "over of a competition"),
        ({"over": "released", "windows": "summed"}, "'released' needs windows='gathered'"),
    ],
)
def test_settings_that_do_not_work_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        layer_of(**settings).init(KEY, capsules(2, 4, 4, 2, 4))


def lengths_in_depth(norm, kernel_init):
    """The mean length of the capsules of each of four layers of routing, as they begin."""
    below, lengths = capsules(4, 9, 9, 4, 8), []
    below = Capsules(squash(0.3 * below.poses), below.activations)
    for depth in range(4):
        layer = ConvCaps(
            types=4,
            pose_size=8,
            routing=make_routing("dynamic"),
            norm=norm,
            kernel_init=kernel_init,
            over="types",
        )
        (below, _), _ = jax.jit(layer.init_with_output)(jax.random.key(depth, impl="rbg"), below)
        lengths.append(float(below.activations.mean()))
    return lengths


@pytest.mark.ci
def test_lengths_vanish_with_depth_unless_norm_and_init_keep_them():
    vanishing = lengths_in_depth("none", "truncated_normal(0.1)")
    assert vanishing[-1] < 1e-3
    kept = lengths_in_depth("rms", "unit_votes(1.0)")
    assert all(0.3 < length < 0.8 for length in kept), kept
