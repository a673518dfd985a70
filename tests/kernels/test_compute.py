"""How a network is computed changes what it computes by rounding alone."""

import dataclasses
import functools
import math
import re
import types

import chex
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from capsjax.config import make_config
from capsjax.kernels import compute as computing
from capsjax.kernels.compute import Compute, fastest_dtype
from capsjax.kernels.conv import conv2d
from capsjax.layers import Conv, DenseCaps
from capsjax.models import look_inside
from capsjax.notation import Capsules, Routed
from capsjax.ops import predict_votes, safe_norm
from capsjax.routing import make_routing
from capsjax.training.build import build
from tests.tiny import tiny_config

# The default generator takes longer to compile than all that is tested here.
KEY = jax.random.key(0, impl="rbg")
N, LOWER, P = 5, 6, 3


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@dataclasses.dataclass(frozen=True)
class FirstVote:
    """A routing algorithm that cannot do without votes: the first capsule's are the poses."""

    def learned_arrays(self, i, j, p, d):
        return {}

    def __call__(self, votes, activations, learned):
        v = votes[..., 0, :, :]
        return Routed(v, jnp.linalg.norm(v, axis=-1), jnp.ones(votes.shape[:-1]))


@pytest.fixture
def unchecked(monkeypatch):
    """Without type checking, which is on in tests alone and has errors of its own."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"conv": "fourrier"}, "compute.conv.*'fourrier'; did you mean 'fourier'"),
        ({"votes": "recompute"}, "compute.votes.*'recompute'; did you mean 'recomputed'"),
        ({"dtype": "bfloat"}, "compute.dtype.*'bfloat'; did you mean 'bfloat16'"),
        ({"dtype": "float16"}, "known: auto, bfloat16, float32, tf32"),
        ({"conv": "conv:lax,primary_caps:faurier"}, "compute.conv.*did you mean 'fourier'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_unknown_values_name_the_nearest(setting, message):
    with pytest.raises(ValueError, match=message):
        Compute(**setting)


@pytest.mark.usefixtures("unchecked")
def test_unknown_values_of_a_config_are_refused():
    for name in ("conv", "votes", "dtype"):
        config = tiny_config(**{f"model__compute__{name}": "other"})
        with pytest.raises(ValueError, match=rf"model\.compute\.{name}"):
            build(config, (8, 8, 1), 10, 128)


def test_auto_recomputes_votes_wherever_the_routing_can(monkeypatch):
    routings = [make_routing(name) for name in ("dynamic", "uniform")]
    for backend in ("cpu", "gpu", "tpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        for routing in routings:
            assert Compute().recomputes_votes(routing)
            assert Compute(votes="recomputed").recomputes_votes(routing)
            assert not Compute(votes="held").recomputes_votes(routing)


def test_images_are_routed_in_groups_on_a_cpu_or_if_asked(monkeypatch):
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        for routing in map(make_routing, ("em", "vb", "inverted_attention")):
            assert Compute().routes_in_groups(routing) == (backend == "cpu")
            assert Compute(votes="recomputed").routes_in_groups(routing)
            assert Compute(votes="recomputed").form_of_votes(routing) == "recomputed"
            assert not Compute(votes="held").routes_in_groups(routing)
        assert not Compute(votes="recomputed").routes_in_groups(make_routing("dynamic"))


@pytest.mark.slow
def test_routing_that_needs_votes_gets_them_or_is_refused():
    for votes in ("auto", "held"):
        assert not Compute(votes=votes).recomputes_votes(FirstVote())
        layer = DenseCaps(4, 2, FirstVote(), compute=Compute(votes=votes))
        params = layer.init(KEY, lower())
        routed = apply(layer, params, lower())
        np.testing.assert_array_equal(routed.v, routed.votes[:, 0])
    layer = DenseCaps(4, 2, FirstVote(), compute=Compute(votes="recomputed"))
    with pytest.raises(ValueError, match=r"FirstVote has no form .* 'held' or 'auto'"):
        layer.init(KEY, lower())


def lower():
    u = normal(0, N, LOWER, P)
    return Capsules(u, safe_norm(u))


def apply(layer, params, capsules):
    """What the layer returns and lets out, by name."""
    layer = jax.jit(functools.partial(layer.apply, mutable=["intermediates"]))
    (above, _), shown = layer(params, capsules)
    return types.SimpleNamespace(v=above.poses, a=above.activations, **shown["intermediates"])


def dense(votes, dtype="float32", **routing):
    compute = Compute(votes=votes, dtype=dtype)
    return DenseCaps(4, 2, make_routing("dynamic", use_bias=True, **routing), compute=compute)


@pytest.mark.slow
def test_held_and_recomputed_votes_route_alike():
    params = {"params": {"W": normal(1, LOWER, 4, 2, P), "bias": normal(2, 4, 2)}}
    held, recomputed = (
        apply(dense(votes, leaky=True), params, lower()) for votes in ("held", "recomputed")
    )
    names = ("v", "a", "couplings", "votes")
    held, recomputed = ({name: getattr(x, name) for name in names} for x in (held, recomputed))
    chex.assert_trees_all_close(recomputed, held, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(recomputed["votes"], held["votes"])
    expected = predict_votes(lower().poses, params["params"]["W"])
    np.testing.assert_allclose(held["votes"], expected, atol=1e-5)
    assert np.ptp(held["couplings"]) > 0.1


@pytest.mark.slow
def test_recomputed_votes_are_of_float32_and_the_shown_ones_are_rounded():
    params = {"params": {"W": normal(1, LOWER, 4, 2, P), "bias": normal(2, 4, 2)}}
    exact = apply(dense("recomputed"), params, lower())
    routed = apply(dense("recomputed", "bfloat16"), params, lower())
    np.testing.assert_array_equal(routed.v, exact.v)
    np.testing.assert_array_equal(routed.couplings, exact.couplings)
    assert 1e-4 < np.abs(routed.votes - exact.votes).max() < 5e-2
    from_rounded = apply(dense("held", "bfloat16"), params, lower())
    np.testing.assert_array_equal(from_rounded.votes, routed.votes)
    assert 1e-5 < np.abs(from_rounded.v - exact.v).max() < 2e-2


@pytest.mark.parametrize("votes", ["held", "recomputed"])
def test_recomputed_votes_exist_for_those_who_look_alone(votes):
    layer, u = dense(votes), jax.ShapeDtypeStruct((64, 48, P), jnp.float32)
    u = Capsules(u, jax.ShapeDtypeStruct((64, 48), jnp.float32))
    params = jax.eval_shape(layer.init, KEY, u)

    def has_votes(f):
        text = jax.jit(f).lower(params, u).compile().as_text()
        sizes = re.findall(r"f32\[([0-9,]+)\]", text)
        return max(math.prod(map(int, size.split(","))) for size in sizes) >= 64 * 48 * 4 * 2

    assert has_votes(functools.partial(layer.apply, mutable=["intermediates"]))
    assert has_votes(layer.apply) == (votes == "held")


@pytest.mark.slow
def test_conv_takes_its_form_and_its_type():
    x, kernel = normal(0, 2, 9, 8, 3), normal(1, 3, 3, 3, 4)
    params = {"params": {"kernel": kernel, "bias": jnp.zeros(4)}}
    for form in ("patches", "strips", "fourier", "lax"):
        for dtype in ("float32", "bfloat16"):
            layer = Conv(4, 3, 2, compute=Compute(conv=form, dtype=dtype))
            expected = jax.jit(functools.partial(conv2d, stride=2, form=form, dtype=dtype))
            np.testing.assert_array_equal(jax.jit(layer.apply)(params, x), expected(x, kernel))


def tiny_model(**compute):
    overrides = {f"model__compute__{name}": value for name, value in compute.items()}
    return build(tiny_config(**overrides), (8, 8, 1), 10, 128).model


@pytest.fixture(scope="module")
def params():
    """Variables of a whole network, such that poses are long and couplings differ."""
    params = tiny_model().init(KEY, jnp.zeros((1, 8, 8, 1)))["params"]
    params["class_layer"]["W"] *= 6.0
    params["primary_layer"]["conv"]["kernel"] *= 3.0
    # No feature is near zero, where rounding would decide whether the ReLU has a gradient.
    params["conv_layer"]["bias"] += 1.0
    return params


def apply_to(params, **compute):
    """Outputs and parameter gradients."""
    model = tiny_model(**compute)
    images, labels = jnp.abs(normal(0, N, 8, 8, 1)) / 3, jnp.arange(N) % 10

    def loss(params):
        out, inside = look_inside(model, {"params": params}, images, labels)
        weighted = jnp.sum(normal(1, *out.poses.shape) * out.poses)
        shown = {**out._asdict(), "couplings": inside["class_layer"]["couplings"]}
        return weighted + jnp.sum((out.reconstruction - images) ** 2), shown

    gradients, out = jax.jit(jax.grad(loss, has_aux=True))(params)
    return out, gradients


@pytest.fixture(scope="module")
def plain(params):
    return apply_to(params, conv="patches", votes="held")


def relative_errors(got, expected):
    """The largest difference in each array, relative to its largest number."""
    chex.assert_trees_all_equal_shapes_and_dtypes(got, expected)
    errors = jax.tree.map(lambda x, y: float(abs(x - y).max() / abs(y).max()), got, expected)
    return jax.tree.leaves(errors)


@pytest.mark.ci
@pytest.mark.parametrize(
    "compute",
    [
        {},
        {"conv": "fourier", "votes": "recomputed"},
        {"conv": "lax", "votes": "held"},
    ],
    ids=str,
)
def test_a_network_computes_the_same_in_any_way(params, plain, compute):
    assert np.ptp(plain[0]["couplings"]) > 0.1
    assert max(relative_errors(apply_to(params, **compute), plain)) < 1e-5


@pytest.mark.ci
def test_parameters_do_not_depend_on_how_it_is_computed():
    trees = [
        tiny_model(**compute).init(KEY, jnp.zeros((1, 8, 8, 1)))
        for compute in ({}, {"dtype": "bfloat16", "conv": "patches", "votes": "held"})
    ]
    chex.assert_trees_all_equal(*trees)
    assert {leaf.dtype for leaf in jax.tree.leaves(trees)} == {np.dtype("float32")}


@pytest.mark.ci
@pytest.mark.parametrize("conv", ["patches", "strips", "fourier", "lax"])
def test_bfloat16_is_close_and_all_that_is_seen_is_float32(params, plain, conv):
    out, gradients = apply_to(params, dtype="bfloat16", conv=conv, votes="held")
    assert {leaf.dtype for leaf in jax.tree.leaves((out, gradients))} == {np.dtype("float32")}
    assert (out["scores"] < 1).all()
    assert max(relative_errors(out, plain[0])) < 2e-2
    errors = relative_errors(gradients, plain[1])
    assert 1e-3 < max(errors) < 2e-2


def test_chosen_forms_of_the_paper(monkeypatch):
    def forms(batch_size=128, preset="paper", **compute):
        config = make_config(preset)
        config.model.compute.update(compute)
        return build(config, (28, 28, 1), 10, 1000).model.chosen_forms(batch_size)

    rest = {"votes": "recomputed", "dtype": "float32"}
    assert forms() == {"conv": "patches", "primary_caps": "fourier", **rest}
    assert forms(1) == {"conv": "patches", "primary_caps": "patches", **rest}
    small = {"conv": "strips", "primary_caps": "fourier", **rest}
    assert forms(preset="paper,small") == small
    asked = {"conv": "lax", "primary_caps": "lax", "votes": "held", "dtype": "bfloat16"}
    assert forms(conv="lax", votes="held", dtype="bfloat16") == asked
    own = {"conv": "patches", "primary_caps": "lax", **rest}
    assert forms(conv="primary_caps:lax,conv:patches") == own
    assert forms(conv="primary_caps:lax") == own
    monkeypatch.setattr(computing, "fastest_dtype", fastest_dtype)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    on_a_gpu = {"conv": "gathered", "primary_caps": "fused_fourier", "votes": "recomputed"}
    assert forms() == {**on_a_gpu, "dtype": "bfloat16"}
    for dtype in ("float32", "tf32"):
        assert forms(dtype=dtype) == {**on_a_gpu, "primary_caps": "fourier", "dtype": dtype}


def test_chosen_forms_can_be_had_on_any_machine(monkeypatch):
    config = make_config()
    monkeypatch.setattr(computing, "fastest_dtype", fastest_dtype)
    monkeypatch.setattr(computing, "processor_multiplies_bfloat16", lambda: False)

    def forms(stored=None):
        return build(config, (28, 28, 1), 10, 1000, stored).model.chosen_forms(128)

    here = forms()
    assert here == {
        "conv": "patches",
        "primary_caps": "fourier",
        "votes": "recomputed",
        "dtype": "float32",
    }
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert forms() != here
    assert forms(here) == here


@pytest.mark.parametrize(
    ("backend", "instructions", "chosen"),
    [("cpu", False, "float32"), ("cpu", True, "bfloat16"), ("gpu", False, "bfloat16")],
)
def test_auto_is_the_fastest_number_type(monkeypatch, backend, instructions, chosen):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(computing, "processor_multiplies_bfloat16", lambda: instructions)
    monkeypatch.setattr(computing, "fastest_dtype", fastest_dtype)
    assert Compute(dtype="auto").chosen_dtype == chosen
    assert Compute(dtype="auto").operands == chosen
    assert Compute(dtype="float32").chosen_dtype == "float32"


def test_flags_of_the_processor_tell_whether_it_multiplies_bfloat16(monkeypatch):
    ask = computing.processor_multiplies_bfloat16.__wrapped__
    for flags, fast in (("fma avx2 avx512f", False), ("avx512_bf16 amx_tile", True)):
        text = f"model name\t: X\nflags\t\t: {flags}\n"
        monkeypatch.setattr(computing.Path, "read_text", lambda *_, text=text, **__: text)
        assert ask() == fast


def test_a_system_that_does_not_tell_its_flags_has_no_fast_products(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError("/proc/cpuinfo")

    monkeypatch.setattr(computing.Path, "read_text", missing)
    assert not computing.processor_multiplies_bfloat16.__wrapped__()


def test_float32_is_exact_on_a_gpu_and_tf32_is_said(monkeypatch):
    def precisions(dtype):
        f = Compute(dtype=dtype).in_precision(lambda x: x @ x)
        return str(jax.make_jaxpr(f)(jnp.ones((2, 2))))

    assert len({precisions(dtype) for dtype in ("float32", "tf32", "bfloat16")}) == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "HIGHEST" in precisions("float32")
    assert "HIGH" in precisions("tf32")
    assert "HIGHEST" not in precisions("tf32")
    assert "HIGH" not in precisions("bfloat16")
    with jax.default_matmul_precision("highest"):
        assert "HIGHEST" not in precisions("bfloat16")
