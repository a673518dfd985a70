"""Depthwise convolution, the capsules that it makes, and the norms between convolutions."""

import chex
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax import lax

from capsjax.kernels.conv import depthwise_conv2d
from capsjax.layers import DepthwiseCaps
from capsjax.layers.feature_norm import FeatureNorm

# The default generator takes longer to compile than all that is tested here.
KEY = jax.random.key(0, impl="rbg")


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def plain(x, kernel, stride):
    """XLA's own form: a group for each channel."""
    c = x.shape[-1]
    numbers = ("NHWC", "HWIO", "NHWC")
    strides = (stride, stride)
    return lax.conv_general_dilated(
        x, kernel[:, :, None], strides, "VALID", dimension_numbers=numbers, feature_group_count=c
    )


@pytest.mark.parametrize(
    ("size", "kernel", "stride"),
    # The last three have one window: all of the image, a part of it, and a part a third as large.
    [((7, 6), 3, 1), ((7, 8), 3, 2), ((5, 5), 5, 1), ((6, 6), 5, 2), ((3, 3), 1, 3)],
)
def test_value_and_gradients_are_those_of_the_plain_form(size, kernel, stride):
    x, weights = normal(0, 2, *size, 3), normal(1, kernel, kernel, 3)

    @jax.jit
    def both(x, weights):
        def of(convolve):
            def weighted(x, weights):
                out = convolve(x, weights, stride)
                return jnp.vdot(out, normal(2, *out.shape)), out

            return jax.value_and_grad(weighted, (0, 1), has_aux=True)(x, weights)

        return of(depthwise_conv2d), of(plain)

    chex.assert_trees_all_close(*both(x, weights), atol=1e-5)


def test_an_image_that_is_smaller_than_the_kernel():
    with pytest.raises(ValueError, match=r"needs at least 5x5 pixels .* gets 4x6"):
        depthwise_conv2d(jnp.ones((1, 4, 6, 2)), jnp.ones((5, 5, 2)))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_kernel_for_other_channels(monkeypatch, channels):
    # Without type checking, which is on in tests alone and has errors of its own.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=rf"\(1, 6, 6, 2\) .* \(5, 5, {channels}\)"):
        depthwise_conv2d(jnp.ones((1, 6, 6, 2)), jnp.ones((5, 5, channels)))


@pytest.mark.slow
def test_capsules_are_neighbouring_channels_squashed():
    # One pixel and a kernel of ones: the features are the channels.
    x = jnp.array([3.0, 4.0, 0.0, 0.0, 6.0, 8.0]).reshape(1, 1, 1, 6)
    layer = DepthwiseCaps(pose_size=2, kernel_size=1, kernel_init="constant(1.0)")
    capsules, variables = layer.init_with_output(KEY, x)
    chex.assert_shape(variables["params"]["kernel"], (1, 1, 1, 6))
    lengths = 1 - np.exp([-5.0, 0.0, -10.0])
    expected = lengths[:, None] * np.array([[0.6, 0.8], [0, 0], [0.6, 0.8]])
    chex.assert_shape(capsules.poses, (1, 1, 1, 3, 2))
    np.testing.assert_allclose(capsules.poses[0, 0, 0], expected, atol=1e-6)
    np.testing.assert_allclose(capsules.activations[0, 0, 0], lengths, atol=1e-3)


@pytest.mark.slow
def test_the_bias_is_that_of_each_channel():
    layer = DepthwiseCaps(pose_size=1, kernel_size=2, squash="rational", bias_init="constant(2.0)")
    capsules, variables = layer.init_with_output(KEY, jnp.zeros((1, 3, 2, 4)))
    chex.assert_shape(variables["params"]["bias"], (4,))
    np.testing.assert_allclose(capsules.poses, np.full((1, 2, 1, 4, 1), 0.8), atol=1e-6)


@pytest.mark.slow
def test_initial_weights_are_counted_by_channel():
    # Keras: 81 weights into a channel, and 81 · 128 out of a pixel.
    variables = DepthwiseCaps().init(KEY, jnp.zeros((1, 9, 9, 128)))
    kernel = np.asarray(variables["params"]["kernel"])
    bound = (6 / (81 * 129)) ** 0.5
    assert 0.99 * bound < np.abs(kernel).max() <= bound


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "axes"), [("batch", (0, 1, 2)), ("instance", (1, 2))])
def test_norms_by_hand(kind, axes):
    x = normal(0, 4, 3, 5, 2) + 7
    layer = FeatureNorm(kind, epsilon=0.1, scale_init="constant(2.0)", bias_init="constant(3.0)")
    variables = layer.init(KEY, x, training=False)
    apply = jax.jit(lambda: layer.apply(variables, x, training=True, mutable=["batch_stats"]))
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    expected = 2 * (x - mean) / np.sqrt(var + 0.1) + 3
    np.testing.assert_allclose(apply()[0], expected, atol=1e-4)


def test_an_instance_is_normalised_in_testing_too():
    x, layer = normal(0, 4, 3, 5, 2), FeatureNorm("instance")
    variables = layer.init(KEY, x, training=False)
    assert set(variables) == {"params"}
    chex.assert_trees_all_equal(*(layer.apply(variables, x, training=t) for t in (False, True)))
