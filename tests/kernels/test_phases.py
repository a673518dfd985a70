"""The convolution of any stride as one of stride 1 over the phases of the pixels."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.kernels import conv
from capsjax.kernels.conv.phases import split_phases


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_phases_of_an_image_by_hand():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    phases, _ = split_phases(x, jnp.ones((2, 2, 1, 1)), 2)
    # At every place the pixel, its right neighbour, that below, and that below on the right.
    assert phases[0, 0, 0].tolist() == [0, 1, 4, 5]
    assert phases[0, 1, 1].tolist() == [10, 11, 14, 15]


def test_a_kernel_is_padded_to_whole_phases_with_zeros():
    _, kernel = split_phases(jnp.ones((1, 9, 9, 2)), jnp.ones((3, 3, 2, 5)), 2)
    chex.assert_shape(kernel, (2, 2, 8, 5))
    assert float(kernel.sum()) == 3 * 3 * 2 * 5
    # The odd phases of the last tap are beyond the kernel.
    assert kernel[1, 1, :2].tolist() == jnp.ones((2, 5)).tolist()
    assert float(jnp.abs(kernel[1, 1, 2:]).sum()) == 0


# Images, kernel and stride: sizes that divide and that do not, even and odd kernels, a kernel
# smaller than the stride, one as large as the image, rows that no output sees.
CASES = {
    "the paper's second layer": ((2, 20, 20, 3), (9, 9, 3, 4), 2),
    "even kernel": ((2, 12, 10, 2), (4, 6, 2, 3), 2),
    "stride 3": ((2, 13, 12, 3), (5, 4, 3, 2), 3),
    "rows that no output sees": ((2, 10, 21, 2), (4, 9, 2, 3), 2),
    "a kernel smaller than the stride": ((2, 7, 8, 3), (1, 2, 3, 4), 3),
    "a kernel as large as the image": ((1, 9, 9, 2), (9, 9, 2, 3), 2),
    "stride 1": ((2, 6, 7, 2), (3, 3, 2, 4), 1),
}


@pytest.mark.slow
@pytest.mark.parametrize(("x", "kernel", "stride"), CASES.values(), ids=CASES)
def test_value_and_gradients_are_those_of_patches(x, kernel, stride):
    def weighted(x, kernel, form):
        out = conv.conv2d(x, kernel, stride, form)
        return jnp.sum(normal(2, *out.shape) * out), out

    gradient = jax.jit(jax.grad(weighted, (0, 1), has_aux=True), static_argnums=2)
    operands = normal(0, *x), normal(1, *kernel)
    got, expected = gradient(*operands, "phases"), gradient(*operands, "patches")
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=2e-5)


def test_the_program_for_a_gpu_convolves_at_stride_one_alone():
    def loss(x, kernel):
        return jnp.sum(conv.conv2d(x, kernel, 2, "phases", "bfloat16") ** 2)

    operands = jnp.ones((2, 20, 20, 3)), jnp.ones((9, 9, 3, 4))
    lowered = jax.jit(jax.grad(loss, (0, 1))).trace(*operands)
    text = lowered.lower(lowering_platforms=("cuda",)).as_text()
    lines = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert len(lines) == 3
    for line in lines:
        assert not any(
            f"{name} = [2, 2]" in line for name in ("stride", "lhs_dilate", "rhs_dilate")
        )
        assert "bf16" in line
