"""Locally routed capsules: against loops in numpy, and with their votes held or in bands."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.kernels.compute import Compute
from capsjax.layers import LocalConvCaps, LocalDeconvCaps, local_caps
from capsjax.notation import Capsules
from capsjax.routing import make_routing

TYPES, POSE, H, W, P = 2, 3, 5, 4, 2
I = 3  # noqa: E741 (the number of lower types)
LAYERS = {
    "conv": (LocalConvCaps, {"kernel_size": 3}),
    "strided": (LocalConvCaps, {"kernel_size": 3, "stride": 2}),
    "deconv": (LocalDeconvCaps, {"kernel_size": 4}),
}


def layer_of(kind, votes="held", routing="dynamic"):
    settings = {"gradient": "full"} if routing == "dynamic" else {}
    algorithm = make_routing(routing, use_bias=True, **settings)
    make, sizes = LAYERS[kind]
    return make(TYPES, POSE, algorithm, compute=Compute(votes=votes, conv="lax"), **sizes)


def poses_below():
    return np.random.default_rng(0).normal(size=(2, H, W, I, P)).astype(np.float32)


@functools.cache
def arrays(kind):
    size = LAYERS[kind][1]["kernel_size"]
    rng = np.random.default_rng(1)
    numbers = (TYPES * POSE, P) if kind == "deconv" else (P, TYPES * POSE)
    kernel = rng.normal(size=(size, size, *numbers)).astype(np.float32)
    bias = rng.normal(size=(TYPES, POSE)).astype(np.float32)
    return {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}


def votes_by_loops(kind, u, kernel):
    size, stride = kernel.shape[0], 1 if kind == "conv" else 2
    if kind == "deconv":
        votes = np.zeros((2, 2 * H, 2 * W, I, TYPES * POSE))
        for y, x, k, m in np.ndindex(H, W, size, size):
            row, column = 2 * y + k - 1, 2 * x + m - 1
            if 0 <= row < 2 * H and 0 <= column < 2 * W:
                votes[:, row, column] += u[:, y, x] @ kernel[k, m].T
    else:
        rows, columns = -(-H // stride), -(-W // stride)
        # The smaller half of what is missing at the border comes before the image.
        before = [
            max((count - 1) * stride + size - length, 0) // 2
            for count, length in ((rows, H), (columns, W))
        ]
        votes = np.zeros((2, rows, columns, I, TYPES * POSE))
        for y, x, k, m in np.ndindex(rows, columns, size, size):
            row, column = y * stride + k - before[0], x * stride + m - before[1]
            if 0 <= row < H and 0 <= column < W:
                votes[:, y, x] += u[:, row, column] @ kernel[k, m]
    return votes.reshape(*votes.shape[:-1], TYPES, POSE)


def route_by_loops(votes, bias, rounds):
    b = np.zeros(votes.shape[:-1])
    for _ in range(rounds):
        e = np.exp(b)
        c = e / e.sum(axis=-1, keepdims=True)
        s = (c[..., None] * votes).sum(axis=-3) + bias
        length = np.linalg.norm(s, axis=-1, keepdims=True)
        v = length / (1 + length**2) * s
        b = b + (votes * v[..., None, :, :]).sum(axis=-1)
    return v, c


@pytest.mark.parametrize("kind", LAYERS)
def test_votes_and_three_rounds_are_those_of_loops(kind):
    u, params = poses_below(), arrays(kind)
    below = Capsules(jnp.asarray(u), jnp.ones(u.shape[:-1]))
    apply = jax.jit(functools.partial(layer_of(kind).apply, mutable=["intermediates"]))
    (above, memory), sown = apply({"params": params}, below)
    inside = sown["intermediates"]
    votes = votes_by_loops(kind, u, np.asarray(params["kernel"]))
    np.testing.assert_allclose(inside["votes"], votes, rtol=1e-4, atol=1e-5)
    bias = np.asarray(params["bias"])
    poses, couplings = route_by_loops(votes, bias, 3)
    np.testing.assert_allclose(above.poses, poses, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(above.activations, np.linalg.norm(poses, axis=-1), atol=1e-3)
    np.testing.assert_allclose(inside["couplings"], couplings, rtol=1e-3, atol=1e-5)
    assert memory is None
    one_round, _ = route_by_loops(votes, bias, 1)
    assert np.abs(one_round - poses).max() > 0.05


def test_the_control_has_equal_couplings():
    below = Capsules(jnp.asarray(poses_below()), jnp.ones((2, H, W, I)))
    layer = layer_of("conv", routing="uniform")
    apply = jax.jit(functools.partial(layer.apply, mutable=["intermediates"]))
    _, sown = apply({"params": arrays("conv")}, below)
    np.testing.assert_allclose(sown["intermediates"]["couplings"], 0.5, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["strided", pytest.param("deconv", marks=pytest.mark.ci)])
def test_bands_of_rows_change_nothing(kind, monkeypatch):
    below = jnp.asarray(poses_below())

    def loss(votes, params, poses):
        (above, _), sown = layer_of(kind, votes).apply(
            {"params": params}, Capsules(poses, jnp.ones(poses.shape[:-1])),
            mutable=["intermediates"],
        )  # fmt: skip
        return jnp.sum(jnp.sin(above.poses)), (above.poses, sown["intermediates"]["votes"])

    def compute(votes):
        return jax.jit(
            jax.value_and_grad(functools.partial(loss, votes), argnums=(0, 1), has_aux=True)
        )(arrays(kind), below)

    monkeypatch.setitem(local_caps.BAND_BYTES, "cpu", 1)  # a row at a time
    bands, held = compute("recomputed"), compute("held")
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4), bands, held)


@pytest.mark.slow
def test_votes_in_bands_are_not_held(monkeypatch):
    """What the compiled gradient needs grows with the image where votes are held alone."""
    monkeypatch.setitem(local_caps.BAND_BYTES, "cpu", 64 * TYPES * POSE * I * 4)
    poses = jax.ShapeDtypeStruct((1, 64, 64, I, P), jnp.float32)

    def bytes_of(votes):
        def loss(params, poses):
            layer = layer_of("conv", votes)
            above, _ = layer.apply({"params": params}, Capsules(poses, jnp.ones(poses.shape[:-1])))
            return jnp.sum(jnp.sin(above.poses))

        compiled = jax.jit(jax.grad(loss)).lower(arrays("conv"), poses).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert bytes_of("auto") < bytes_of("held") / 2


@pytest.mark.slow
def test_gradients_are_finite_where_everything_is_zero():
    layer = layer_of("strided")

    def loss(params, poses):
        above, _ = layer.apply({"params": params}, Capsules(poses, jnp.ones(poses.shape[:-1])))
        return jnp.sum(above.poses) + jnp.sum(above.activations)

    zeros = jax.tree.map(jnp.zeros_like, (arrays("strided"), jnp.asarray(poses_below())))
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(*zeros)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(gradients))


def test_capsules_without_a_grid_are_refused():
    below = Capsules(jnp.zeros((2, I, P)), jnp.zeros((2, I)))
    with pytest.raises(ValueError, match=r"on a grid \(n, h, w, i, p\), not of shape \(2, 3, 2\)"):
        jax.eval_shape(layer_of("conv").init, jax.random.key(0), below)
