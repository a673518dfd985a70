"""The decoder of a single pose: its transposed convolutions are TensorFlow's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from capsjax.layers import PoseDecoder

# The default generator takes longer to compile than all that is tested here.
KEY = jax.random.key(0, impl="rbg")


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 5, 6])
def test_padding_is_same_for_every_stride(stride):
    decoder = PoseDecoder((2 * stride, 3 * stride, 1), 2, features=(4,), stride=(stride,))
    pose = jnp.ones((2, 3))
    variables = jax.jit(decoder.init, static_argnums=2)(KEY, pose, False)

    params = jax.tree.map(np.asarray, variables["params"])

    def grow(x, name, stride):
        out = lax.conv_transpose(
            x, params[f"{name}_kernel"], (stride, stride), "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"), transpose_kernel=True,
        )  # fmt: skip
        return np.asarray(out) + params[f"{name}_bias"]

    x = np.asarray(pose) @ params["map"]["kernel"] + params["map"]["bias"]
    # The running mean and variance are 0 and 1.
    x = np.maximum(x, 0).reshape(2, 2, 3, 2) / np.float32(1 + decoder.epsilon) ** 0.5
    expected = np.maximum(grow(grow(x, "deconv_0", stride), "pixels", 1), 0)
    assert expected.max() > 0
    found = jax.jit(decoder.apply, static_argnums=2)(variables, pose, False)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
