"""Convolution in the frequency domain by kernels for a GPU, with the relu before it."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.kernels import conv, triton
from capsjax.kernels.compute import Compute
from capsjax.kernels.conv import fused_fourier
from capsjax.kernels.conv.fourier import conv2d_fourier
from capsjax.kernels.conv.fused_fourier import fits
from capsjax.layers import Conv, PrimaryCaps

# Images, kernel and stride.
CASES = {
    "the paper's second layer": ((2, 20, 20, 16), (9, 9, 16, 16), 2),
    "images that end before their last phase": ((2, 13, 11, 16), (5, 3, 16, 32), 2),
    "pixels that no output sees": ((2, 14, 12, 32), (5, 4, 32, 16), 2),
    "stride 1": ((3, 8, 7, 48), (4, 3, 48, 16), 1),
}
PAPER, SMALL = CASES["the paper's second layer"], CASES["stride 1"]
OF_PAPER = (128, 20, 20, 256), (9, 9, 256, 256), 2


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def operands_of(x, kernel):
    return normal(0, *x), normal(1, *kernel)


def weighted(convolve):
    """Outputs and both gradients of a scalar that no symmetry of the outputs leaves unchanged."""

    def value(x, kernel):
        out = convolve(x, kernel)
        return jnp.sum(normal(2, *out.shape) * out), out

    def out_and_gradients(x, kernel):
        (dx, dkernel), out = jax.grad(value, (0, 1), has_aux=True)(x, kernel)
        return {"out": out, "dx": dx, "dkernel": dkernel}

    # A function of its own each time, because one is traced once, whatever a test has patched.
    return jax.jit(out_and_gradients)


def in_form(form, stride, rectify=False, dtype="bfloat16"):
    return weighted(
        functools.partial(conv.conv2d, stride=stride, form=form, dtype=dtype, rectify=rectify)
    )


def patches_of_relu(stride):
    return weighted(lambda x, kernel: conv.conv2d(jax.nn.relu(x), kernel, stride, "patches"))


def errors(got, expected):
    """By name, the norm of the difference relative to that of what is expected."""
    chex.assert_trees_all_equal_shapes_and_dtypes(got, expected)
    return {
        name: float(jnp.linalg.norm(got[name] - x) / jnp.linalg.norm(x))
        for name, x in expected.items()
    }


def num_kernels(f, *operands):
    return str(jax.make_jaxpr(f)(*operands)).count("pallas_call[")


def test_the_cases_fit_and_are_what_they_say():
    assert all(fits(*case) for case in CASES.values())
    plans = {name: fused_fourier.make_plan(x[1:3], k[:2], s) for name, (x, k, s) in CASES.items()}
    assert plans["images that end before their last phase"].padded == (14, 12)
    plan = plans["pixels that no output sees"]
    assert (plan.padded, plan.outputs) == ((14, 12), (5, 5))


@pytest.mark.slow
@pytest.mark.usefixtures("kernels_run")
@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize(("x", "kernel", "stride"), CASES.values(), ids=CASES)
def test_value_and_gradients_are_those_of_patches(x, kernel, stride, rectify):
    operands = operands_of(x, kernel)
    got = in_form("fused_fourier", stride, rectify)(*operands)
    plain = patches_of_relu(stride) if rectify else in_form("patches", stride, dtype="float32")
    assert all(0 < error < 1e-2 for error in errors(got, plain(*operands)).values())


@pytest.mark.usefixtures("kernels_run")
def test_it_runs_six_kernels_and_nothing_around_them():
    x, kernel, stride = PAPER
    operands = operands_of(x, kernel)
    assert num_kernels(in_form("fused_fourier", stride, True), *operands) == 6
    program = str(jax.make_jaxpr(in_form("fused_fourier", stride, True))(*operands))
    assert "transpose[" not in program


@pytest.mark.slow
@pytest.mark.usefixtures("kernels_run")
def test_the_gradient_is_zero_where_the_relu_is_and_where_nothing_is_seen():
    x, kernel, stride = CASES["pixels that no output sees"]
    x, kernel = operands_of(x, kernel)
    x = x.at[0, 3].set(0.0)
    dx = in_form("fused_fourier", stride, True)(x, kernel)["dx"]
    np.testing.assert_array_equal(dx[x <= 0], 0.0)
    seen = np.abs(dx) > 0.1
    # Row 13 is beyond the last output.
    assert not seen[:, 13].any()
    assert seen[:, :13].any(axis=(0, 2, 3)).all()


@pytest.mark.usefixtures("kernels_run")
@pytest.mark.parametrize("rectify", [False, True])
def test_it_rounds_as_the_form_without_kernels(monkeypatch, rectify):
    # There, too, the results of the products for each frequency are rounded.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    x, kernel, stride = PAPER
    operands = operands_of(x, kernel)
    got, plain = (in_form(form, stride, rectify) for form in ("fused_fourier", "fourier"))
    assert max(errors(got(*operands), plain(*operands)).values()) < 4e-3


@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize(
    ("case", "dtype", "run"),
    [
        (SMALL, "bfloat16", False),
        (SMALL, "float32", True),
        # Channels that are no multiple of 16, and three tiles.
        (((2, 8, 7, 8), (4, 3, 8, 16), 1), "bfloat16", True),
        (((2, 20, 9, 16), (9, 9, 16, 16), 1), "bfloat16", True),
    ],
    ids=["no kernels", "float32", "channels", "tiles"],
)
def test_elsewhere_it_is_the_form_without_kernels(monkeypatch, case, dtype, run, rectify):
    monkeypatch.setattr(triton, "runs", lambda: run)
    monkeypatch.setattr(triton, "call_kernel", None)
    x, kernel, stride = case

    def plain(x, kernel):
        return conv2d_fourier(jax.nn.relu(x) if rectify else x, kernel, stride, dtype)

    operands = operands_of(x, kernel)
    got = in_form("fused_fourier", stride, rectify, dtype)(*operands)
    chex.assert_trees_all_equal(got, weighted(plain)(*operands))


@pytest.mark.parametrize(
    ("x", "kernel", "stride", "fit"),
    [
        (*OF_PAPER, True),
        # 204,800 bytes for each transformed image: 1310 take up 256 MiB.
        ((1310, *OF_PAPER[0][1:]), *OF_PAPER[1:], True),
        ((1311, *OF_PAPER[0][1:]), *OF_PAPER[1:], False),
        ((0, *OF_PAPER[0][1:]), *OF_PAPER[1:], False),
        # Channels and features in sixteens.
        ((2, 20, 20, 8), (9, 9, 8, 16), 2, False),
        ((2, 20, 20, 24), (9, 9, 24, 16), 2, False),
        ((2, 20, 20, 16), (9, 9, 16, 10), 2, False),
        ((2, 20, 20, 48), (9, 9, 48, 80), 2, True),
        # Three tiles of rows, of columns, and of both.
        ((2, 20, 9, 16), (9, 9, 16, 16), 1, False),
        ((2, 9, 20, 16), (9, 9, 16, 16), 1, False),
        ((2, 28, 28, 16), (9, 9, 16, 16), 1, False),
        # Transforms of 12 by 10 points, and of 12 by 12.
        ((2, 12, 10, 16), (5, 3, 16, 16), 1, True),
        ((2, 12, 12, 16), (5, 5, 16, 16), 1, False),
        # A row and a column that belong to no phase.
        ((2, 9, 8, 16), (4, 4, 16, 16), 2, False),
        ((2, 8, 9, 16), (4, 4, 16, 16), 2, False),
        ((2, 8, 8, 16), (4, 4, 16, 16), 2, True),
    ],
)
def test_what_the_kernels_can_take(x, kernel, stride, fit):
    assert fits(x, kernel, stride) == fit


@pytest.mark.slow
@pytest.mark.usefixtures("kernels_run")
def test_networks_side_by_side_convolve_as_each_alone():
    # As in a population under vmap: images and kernels of their own.
    x, kernel, stride = CASES["images that end before their last phase"]
    xs, kernels = normal(0, 2, *x), normal(1, 2, *kernel)
    apply = in_form("fused_fourier", stride, True)
    together = jax.vmap(apply)(xs, kernels)
    alone = [apply(*each) for each in zip(xs, kernels, strict=True)]
    stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *alone)
    # The last bit of a rounded result may differ with the order of its sum.
    assert max(errors(together, stacked).values()) < 1e-3


@pytest.mark.parametrize("form", conv.FORMS)
def test_every_form_convolves_the_relu(form):
    x, kernel, bias = normal(0, 2, 8, 8, 2), normal(1, 3, 3, 2, 4), normal(3, 4)

    def of_relu(x, kernel):
        return conv.conv2d(jax.nn.relu(x), kernel, 2, form, bias=bias)

    def rectified(x, kernel):
        return conv.conv2d(x, kernel, 2, form, bias=bias, rectify=True)

    got, expected = (weighted(f)(x, kernel) for f in (rectified, of_relu))
    chex.assert_trees_all_equal(got, expected)


@pytest.mark.usefixtures("kernels_run")
def test_the_kernels_add_a_bias_after_the_relu():
    (x, kernel, stride), bias = SMALL, normal(3, 16)
    operands = operands_of(x, kernel)
    settings = {"stride": stride, "form": "fused_fourier", "dtype": "bfloat16", "rectify": True}
    convolve = jax.jit(functools.partial(conv.conv2d, **settings))
    got, without = convolve(*operands, bias=bias), convolve(*operands)
    expected = without + bias.reshape(1, 1, 1, -1)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [Conv(4, 3), Conv(4, 3, scale=0.5), Conv(4, 3, padded=True), PrimaryCaps(2, 2, kernel_size=3)],
    ids=["conv", "scaled", "padded", "primary capsules"],
)
def test_layers_convolve_the_relu(layer):
    x = normal(0, 2, 8, 8, 3)
    variables = layer.init(jax.random.key(0, impl="rbg"), x)
    got, expected = layer.apply(variables, x, rectify=True), layer.apply(variables, jax.nn.relu(x))
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-6)
    without = layer.apply(variables, x)
    assert all(map(jnp.any, jax.tree.leaves(jax.tree.map(jnp.not_equal, got, without))))


@pytest.mark.usefixtures("kernels_run")
def test_a_layer_passes_the_relu_on_to_the_kernels():
    x, _, stride = SMALL
    layer = Conv(16, 3, stride, compute=Compute(conv="fused_fourier", dtype="bfloat16"))
    x = normal(0, *x)
    variables = layer.init(jax.random.key(0, impl="rbg"), x)
    apply = functools.partial(layer.apply, variables, rectify=True)
    program = str(jax.make_jaxpr(apply)(x))
    assert program.count("pallas_call[") == 3
    assert "relu" not in program
