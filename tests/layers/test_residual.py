"""Residual and plain convolutions against numpy, in testing and in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.layers.plain import PlainNet
from capsjax.layers.residual import ResidualNet
from tests.numpy_capsnet import convolve

KEY = jax.random.key(0, impl="rbg")
SETTINGS = {"features": (3, 4), "blocks": (1, 2), "stride": (1, 2), "momentum": 0.8}


@pytest.fixture(scope="module")
def network():
    """A network with random parameters and statistics, and its images."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 5, 6, 2))
    net = ResidualNet(**SETTINGS)
    shapes = jax.eval_shape(lambda: net.init(KEY, jnp.zeros(images.shape), training=False))
    variables = jax.tree_util.tree_map_with_path(
        lambda path, x: (
            rng.uniform(0.5, 1.5, x.shape) if path[-1].key == "var" else rng.normal(size=x.shape)
        ),
        shapes,
    )
    return net, variables, images


def normalise(x, name, variables, training):
    norm = variables["params"][f"{name}_norm"]
    of = variables["batch_stats"][f"{name}_norm"]
    mean, var = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if training else (of["mean"], of["var"])
    return (x - mean) / np.sqrt(var + 1e-5) * norm["scale"] + norm["bias"]


def reference(variables, x, training):
    def unit(x, name, stride):
        kernel = variables["params"][name]["kernel"]
        border = len(kernel) // 2
        x = np.pad(x, ((0, 0), (border, border), (border, border), (0, 0)))
        return normalise(convolve(x, kernel, stride), name, variables, training)

    def relu(x):
        return np.maximum(x, 0)

    x = relu(unit(x, "stem", 1))
    for name, stride in (("block_0_0", 1), ("block_1_0", 2), ("block_1_1", 1)):
        inner = unit(relu(unit(x, f"{name}_first", stride)), f"{name}_second", 1)
        shortcut = f"{name}_shortcut"
        x = relu(inner + (unit(x, shortcut, stride) if shortcut in variables["params"] else x))
    return x


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_it_is_the_numpy_network(network, training):
    net, variables, images = network
    apply = jax.jit(net.apply, static_argnames=("training", "mutable"))
    found, changed = apply(
        jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), variables),
        jnp.asarray(images, jnp.float32),
        training=training,
        mutable=("batch_stats",),
    )
    assert found.shape == (2, 3, 3, 4)
    np.testing.assert_allclose(found, reference(variables, images, training), rtol=1e-3, atol=1e-4)
    old = variables["batch_stats"]["stem_norm"]["mean"]
    kernel = variables["params"]["stem"]["kernel"]
    stem = convolve(np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0))), kernel, 1)
    expected = 0.8 * old + 0.2 * stem.mean((0, 1, 2)) if training else old
    new = changed["batch_stats"]["stem_norm"]["mean"]
    np.testing.assert_allclose(new, expected, rtol=1e-4, atol=1e-5)


def test_only_a_block_of_another_size_has_a_shortcut(network):
    net, variables, _ = network
    names = [each.name for each in net.convolutions((5, 6, 2))]
    assert {name for name in names if "shortcut" in name} == {"block_1_0_shortcut"}
    kernels = {name for name, layer in variables["params"].items() if "kernel" in layer}
    assert set(names) == kernels
    assert all(set(variables["params"][name]) == {"kernel"} for name in names)
    outputs = {each.name: each.output for each in net.convolutions((5, 6, 2))}
    assert outputs["block_0_0_second"] == (5, 6, 3)
    assert outputs["block_1_1_second"] == (3, 3, 4)
    padded = {each.name: each.padded_image for each in net.convolutions((5, 6, 2))}
    assert padded["block_1_0_first"] == (7, 8, 3)
    assert padded["block_1_0_shortcut"] == (5, 6, 3)


def test_a_stage_without_its_stride_is_named():
    net = ResidualNet(features=(3, 4), blocks=(1, 2), stride=(1,))
    with pytest.raises(ValueError, match=r"value for each stage, not \(3, 4\), \(1, 2\) and \(1,"):
        net.init(KEY, jnp.zeros((1, 4, 4, 1)), training=False)


def test_a_stride_alone_needs_a_shortcut():
    net = ResidualNet(features=(3,), blocks=(1,), stride=(2,))
    names = [each.name for each in net.convolutions((4, 4, 3))]
    assert names == ["stem", "block_0_0_first", "block_0_0_second", "block_0_0_shortcut"]


@pytest.mark.slow
def test_a_padded_shortcut_skips_pixels_and_adds_zeros_around_the_channels():
    net = ResidualNet(features=(2, 5), blocks=(1, 1), stride=(1, 2), shortcut="padded")
    images = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 4, 1)), jnp.float32)
    variables = jax.jit(net.init, static_argnames="training")(KEY, images, training=False)
    assert not any("shortcut" in name for name in variables["params"])
    names = [each.name for each in net.convolutions((5, 4, 1))]
    assert names[1:] == [
        f"block_{stage}_0_{part}" for stage in "01" for part in ("first", "second")
    ]
    # Without scales the residuals are 0, and a block passes on what is positive.
    zeros = {
        name: jax.tree.map(jnp.zeros_like, layer) if name.endswith("second_norm") else layer
        for name, layer in variables["params"].items()
    }
    apply = jax.jit(net.apply, static_argnames="training")
    found = apply({**variables, "params": zeros}, images, training=False)
    kernel = np.asarray(variables["params"]["stem"]["kernel"])
    stem = convolve(np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0))), kernel, 1)
    stem = np.maximum(stem / np.sqrt(1 + 1e-5), 0)
    # Three more channels: one before, two after.
    expected = np.pad(stem[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (1, 2)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shortcut": "padding"}, "unknown shortcut .*'padding'; did you mean 'padded'"),
        ({"features": (4, 3), "shortcut": "padded"}, "no fewer channels .* use .*='convolution'"),
    ],
)
def test_shortcuts_that_do_not_work(settings, message):
    net = ResidualNet(**{**SETTINGS, **settings})
    with pytest.raises(ValueError, match=message):
        list(net.convolutions((4, 4, 1)))


def test_plain_convolutions_have_a_norm_and_a_relu_each():
    net = PlainNet(features=(3, 2), stride=(2, 1))
    images = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 4, 1)), jnp.float32)
    variables = jax.jit(net.init, static_argnames="training")(KEY, images, training=False)
    x = np.asarray(images, np.float64)
    for index, stride in ((0, 2), (1, 1)):
        kernel = np.asarray(variables["params"][f"plain_{index}"]["kernel"], np.float64)
        x = convolve(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), kernel, stride)
        x = np.maximum(x / np.sqrt(1 + 1e-5), 0)
    found = jax.jit(net.apply, static_argnames="training")(variables, images, training=False)
    assert found.shape == (2, 3, 2, 2)
    np.testing.assert_allclose(found, x, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match=r"value for each convolution, not \(3, 2\) and \(2,"):
        list(PlainNet(features=(3, 2), stride=(2,)).convolutions((5, 4, 1)))
