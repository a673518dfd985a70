"""Routing without held votes: equal to routing with them, and they are indeed nowhere."""

import functools
import math
import re

import chex
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from capsjax.kernels import routing as from_poses
from capsjax.kernels.routing import couple, dynamic_routing_from_poses
from capsjax.notation import Routed
from capsjax.ops import predict_votes
from capsjax.routing import dynamic_routing, make_routing
from capsjax.routing.competition import leaky_softmax

N, LOWER, UPPER, D, P = 3, 5, 4, 2, 3
ROUNDS = (1, 2, 3, 5)


def held(u, W, num_iterations=3, **settings):
    return dynamic_routing(predict_votes(u, W), num_iterations, **settings)


def routed_and_gradients(route, num_iterations, u, W, bias, **settings):
    """What a form of routing gives, and the gradients of a scalar that no symmetry preserves."""

    def weighted(u, W, bias):
        # Without the logits, which this form sums up in another shape and does not return.
        routed = route(u, W, num_iterations, bias=bias, **settings)._replace(logits=None)
        return sum(jnp.sum(normal(seed, *x.shape) * x) for seed, x in enumerate(routed[:3])), routed

    gradients, routed = jax.grad(weighted, (0, 1, 2), has_aux=True)(u, W, bias)
    return routed, gradients


# Compiled once for all tests with the same settings: compiling is what takes the time here.
SETTINGS = ("gradient", "leaky", "eps", "eps_at")
with_traced = jax.jit(routed_and_gradients, static_argnums=0, static_argnames=SETTINGS)
with_python = jax.jit(routed_and_gradients, static_argnums=(0, 1), static_argnames=SETTINGS)
from_poses_only = functools.partial(with_python, dynamic_routing_from_poses)


def from_votes(rounds, u, W, bias, gradient="stop", **settings):
    """The plain form, which is compared with."""
    if gradient == "stop":
        return with_traced(held, jnp.array(rounds), u, W, bias, **settings)
    return with_python(held, rounds, u, W, bias, gradient=gradient, **settings)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def operands(*batch, with_bias=True):
    """Poses u, matrices W and a bias, from which couplings become far from alike."""
    u, W = normal(10, *batch, LOWER, P), normal(11, LOWER, UPPER, D, P)
    return u, W, normal(12, UPPER, D) if with_bias else None


def grouped(monkeypatch, images):
    """Route so many images at once, and trace anew."""
    monkeypatch.setattr(from_poses, "MAX_GROUP_BYTES", 1)
    monkeypatch.setattr(from_poses, "MIN_GROUP", images)


@pytest.mark.ci
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("leaky", "with_bias", "eps_at", "stop", "full"),
    # With the rounds under either gradient; a stopped one is compiled once for any number.
    [
        (False, True, "root", (1, 2, 3, 5), (2,)),
        (True, False, "norm", (1, 2, 3, 5), (3,)),
        (True, True, "root", (), (1, 2, 5)),
        (False, False, "norm", (3,), (2, 3)),
    ],
)
def test_it_is_routing_of_the_votes(leaky, with_bias, eps_at, stop, full):
    # An eps this large makes its two placements give different numbers.
    settings = {"leaky": leaky, "eps": 1e-2, "eps_at": eps_at}
    u, W, bias = operands(N, with_bias=with_bias)
    for gradient, all_rounds in (("stop", stop), ("full", full)):
        for rounds in all_rounds:
            expected = from_votes(rounds, u, W, bias, gradient=gradient, **settings)
            got = from_poses_only(rounds, u, W, bias, gradient=gradient, **settings)
            chex.assert_trees_all_close(got, expected, rtol=1e-9, atol=1e-12)
            # Couplings that are all alike would test little.
            assert rounds == 1 or np.ptp(got[0].c) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [1, 3])
def test_the_squash_is_the_one_that_is_named(rounds):
    u, W, bias = operands(N)
    settings = {"bias": bias, "squash": "exponential"}
    got = jax.jit(lambda u, W: dynamic_routing_from_poses(u, W, rounds, **settings))(u, W)
    expected = jax.jit(lambda u, W: held(u, W, rounds, **settings))(u, W)
    chex.assert_trees_all_close(got[:3], expected[:3], atol=1e-5)
    assert np.abs(got.v - held(u, W, rounds, bias=bias).v).max() > 0.01


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_the_gradient_is_the_one_that_is_asked_for():
    (_, stop), (_, full) = (
        from_poses_only(2, *operands(N), gradient=gradient, leaky=True, eps=1e-2, eps_at="root")
        for gradient in ("stop", "full")
    )
    assert all(np.abs(x - y).max() > 1e-2 for x, y in zip(stop, full, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("batch", [(), (N,), (2, 3)])
def test_any_leading_axes(batch):
    got, expected = (form(3, *operands(*batch)) for form in (from_poses_only, from_votes))
    chex.assert_trees_all_equal_shapes_and_dtypes(got, expected)
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-5)


def test_two_rounds_by_hand():
    # Two lower capsules vote 2 · 0.5 = 1 for upper capsule 0 and 0 for capsule 1.
    u, W = jnp.full((2, 1), 0.5), jnp.array([[[[2.0]], [[0.0]]]] * 2)
    routed = jax.jit(dynamic_routing_from_poses, static_argnums=2)(u, W, 2)
    # Round one: c = 1/2, s_0 = 1, v_0 = 1/2, so b_i0 = 1/2.
    c = math.exp(0.5) / (math.exp(0.5) + 1)
    np.testing.assert_allclose(routed.c, [[c, 1 - c]] * 2, rtol=1e-5)
    np.testing.assert_allclose(routed.v, [[(2 * c) ** 2 / (1 + (2 * c) ** 2)], [0.0]], rtol=1e-5)


@pytest.mark.parametrize("leaky", [False, True])
def test_traced_rounds_are_the_python_ones(leaky):
    for rounds in (1, 3):
        rounded = with_traced(
            dynamic_routing_from_poses, jnp.array(rounds), *operands(N), leaky=leaky
        )
        expected = from_votes(rounds, *operands(N), leaky=leaky)
        chex.assert_trees_all_close(rounded, expected, rtol=1e-5, atol=1e-5)


def test_traced_rounds_under_vmap_are_the_python_ones():
    def apply(rounds):
        return routed_and_gradients(dynamic_routing_from_poses, rounds, *operands(N))

    together = jax.jit(jax.vmap(apply))(jnp.array([1, 3]))
    one_by_one = [from_votes(rounds, *operands(N)) for rounds in (1, 3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one)
    chex.assert_trees_all_close(together, stacked, rtol=1e-5, atol=1e-5)


def test_traced_rounds_below_one_count_as_one():
    for rounds in (0, -3):
        few = with_traced(dynamic_routing_from_poses, jnp.array(rounds), *operands(N))
        once = from_votes(1, *operands(N))
        chex.assert_trees_all_close(few, once, rtol=1e-5, atol=1e-5)


def test_vmap_over_images_is_a_batch():
    u, W, bias = operands(N)
    mapped = jax.vmap(lambda u: dynamic_routing_from_poses(u, W, bias=bias))
    together, _ = from_poses_only(3, u, W, bias)
    chex.assert_trees_all_close(jax.jit(mapped)(u), together, rtol=1e-5, atol=1e-6)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("batch", "at_once", "groups", "gradient"),
    [
        ((N,), N, None, "stop"),
        ((2, 3), 4, 2, "full"),
        ((2, 3), 2, 3, "stop"),
        ((5,), 4, 2, "stop"),
    ],
)
def test_groups_of_images_make_no_difference(monkeypatch, batch, at_once, groups, gradient):
    expected = from_votes(3, *operands(*batch), gradient=gradient)
    grouped(monkeypatch, at_once)

    def apply(*operands):
        return routed_and_gradients(dynamic_routing_from_poses, 3, *operands, gradient=gradient)

    program = jax.jit(apply).trace(*operands(*batch))
    got = program.lower().compile()(*operands(*batch))
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-5)
    loops = re.findall(r"length=(\d+)", str(program.jaxpr))
    # Others are over the upper capsules and over rounds, of which the first and last stand apart.
    assert {int(length) for length in loops} - {UPPER, 1} == ({groups} if groups else set())


@pytest.mark.parametrize(
    ("images", "groups"),
    # 16 MiB hold 455 images of 8 x 1152 numbers of 4 bytes.
    [(1, 1), (128, 1), (455, 1), (456, 2), (457, 2), (1000, 3)],
)
def test_groups_of_the_paper(images, groups):
    u, W = jnp.zeros((1152, 8)), jnp.zeros((1152, 10, 16, 8))
    shape = jax.ShapeDtypeStruct((images, *u.shape), jnp.float32)
    program = str(jax.make_jaxpr(lambda u: dynamic_routing_from_poses(u, W, 1))(shape))
    loops = [int(length) for length in re.findall(r"length=(\d+)", program)]
    assert loops == ([groups] if groups > 1 else [])


def largest_array(program):
    """Number of elements of the largest array of a compiled program."""
    shapes = re.findall(r"\b[a-z]+[0-9]+\[([0-9,]+)\]", program.as_text())
    return max(math.prod(map(int, shape.split(","))) for shape in shapes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "gradient"), [("dynamic", "stop"), ("dynamic", "full"), ("uniform", "stop")]
)
def test_no_array_is_as_large_as_the_votes(name, gradient):
    # Votes are larger than W and u, but smaller than c_ij u_i for all upper capsules: what the
    # loops over these would hold for the gradient, if they did not compute it again.
    n, i, j, d, p = 32, 48, 5, 6, 8
    votes = n * i * j * d
    u, W, bias = normal(0, n, i, p), normal(1, i, j, d, p), normal(2, j, d)
    rounds = {"gradient": gradient} if name == "dynamic" else {}
    routing = make_routing(name, use_bias=True, **rounds)

    def of_poses(u, W, _, *, bias):
        return routing.route_poses(u, W, {"bias": bias})

    def of_votes(u, W, _, *, bias):
        return routing(predict_votes(u, W), jnp.ones((n, i)), {"bias": bias})

    without, plain = (with_python.lower(f, 0, u, W, bias).compile() for f in (of_poses, of_votes))
    assert largest_array(plain) >= votes
    assert largest_array(without) < votes
    memory, memory_of_plain = (x.memory_analysis().temp_size_in_bytes for x in (without, plain))
    assert memory < 0.8 * memory_of_plain


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dynamic", "uniform"])
def test_route_poses_is_the_call_with_the_votes_and_all_settings(name):
    rounds = {"num_iterations": 2, "gradient": "full"} if name == "dynamic" else {}
    routing = make_routing(name, use_bias=True, leaky=True, eps=1e-2, eps_at="norm", **rounds)

    def of_poses(u, W, _, *, bias):
        return routing.route_poses(u, W, {"bias": bias})

    def of_votes(u, W, _, *, bias):
        return routing(predict_votes(u, W), jnp.ones((N, LOWER)), {"bias": bias})

    got, expected = (with_python(form, 0, *operands(N)) for form in (of_poses, of_votes))
    assert isinstance(got[0], Routed)
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-5)
    alike = np.ptp(got[0].c) < 1e-6
    assert alike == (name == "uniform")


def test_route_poses_needs_no_bias():
    u, W, _ = operands(N)
    routing = make_routing("dynamic", num_iterations=1)
    without = jax.jit(lambda u: routing.route_poses(u, W, {}))(u)
    with_zeros = jax.jit(lambda u: routing.route_poses(u, W, {"bias": jnp.zeros((UPPER, D))}))(u)
    chex.assert_trees_all_close(without, with_zeros, rtol=1e-6)


@pytest.mark.parametrize("rounds", [1, 3])
def test_couplings_sum_to_one_or_less_when_leaky(rounds):
    (tight, _), (leaky, _) = (from_poses_only(rounds, *operands(N), leaky=x) for x in (False, True))
    np.testing.assert_allclose(tight.c.sum(axis=-1), np.ones((N, LOWER)), rtol=1e-6)
    assert (leaky.c > 0).all()
    assert (leaky.c.sum(axis=-1) < 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("eps_at", ["root", "norm"])
def test_gradients_are_finite_at_zero_poses(eps_at):
    u, W, bias = operands(N)
    settings = {"gradient": "full", "leaky": True, "eps_at": eps_at}
    routed, gradients = from_poses_only(3, 0 * u, W, 0 * bias, **settings)
    chex.assert_tree_all_finite(gradients)
    np.testing.assert_array_equal(routed.v, 0.0)
    np.testing.assert_allclose(routed.c, 1 / (UPPER + 1), rtol=1e-6)


@pytest.mark.ci
@pytest.mark.parametrize("leaky", [False, True])
def test_large_logits_do_not_overflow(leaky):
    u, W, bias = operands(N)
    got, gradients = from_poses_only(3, 1e4 * u, W, bias, gradient="full", leaky=leaky)
    expected, _ = from_votes(3, 1e4 * u, W, bias, gradient="full", leaky=leaky)
    chex.assert_tree_all_finite((got, gradients))
    chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-4)
    # Most couplings have come to 0 or 1: exp of such logits is infinite in float32.
    assert ((got.c < 1e-6) | (got.c > 1 - 1e-6)).mean() > 0.9


@pytest.mark.parametrize(
    ("u", "W"),
    [
        ((2, 5, 3), (6, 4, 2, 3)),
        ((2, 5, 3), (5, 4, 2, 6)),
        ((2, 5, 3), (5, 4, 3)),
        ((3,), (5, 4, 2, 3)),
    ],
    ids=["lower capsules", "pose size", "no axis d in W", "no capsule axis in u"],
)
def test_shapes_that_do_not_fit(monkeypatch, u, W):
    # Without type checking, which is on in tests alone and has errors of its own.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match="does not fit W"):
        dynamic_routing_from_poses(jnp.ones(u), jnp.ones(W))


def softmax(b):
    return jax.nn.softmax(b, axis=0)


def softmax_with_a_leak(b):
    return jnp.moveaxis(leaky_softmax(jnp.moveaxis(b, 0, -1)), -1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1.0, 1e4])
@pytest.mark.parametrize(("leaky", "plain"), [(False, softmax), (True, softmax_with_a_leak)])
def test_couple_is_softmax_over_the_first_axis(leaky, plain, size):
    # The first column has negative logits alone: the leak's, zero, is the largest.
    b = (size * normal(0, UPPER, 3, 2)).at[:, 0, 0].set(-size * jnp.arange(1.0, UPPER + 1))
    weights = normal(1, *b.shape)
    got, expected = (
        jax.value_and_grad(lambda b, f=f: (jnp.sum(weights * f(b)), f(b)), has_aux=True)(b)
        for f in (lambda b: couple(b, leaky), plain)
    )
    chex.assert_tree_all_finite(got)
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-6)


def test_couple_by_hand():
    b = jnp.log(jnp.array([[1.0], [3.0]]))
    np.testing.assert_allclose(couple(b), [[1 / 4], [3 / 4]], rtol=1e-6)
    np.testing.assert_allclose(couple(b, leaky=True), [[1 / 5], [3 / 5]], rtol=1e-6)


def in_float32(x):
    return None if x is None else x.astype(jnp.float32)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("rounds", "gradient", "leaky", "with_bias"),
    [
        (1, "stop", True, True),
        (2, "full", False, True),
        (3, "stop", False, False),
        (5, "full", True, True),
    ],
)
def test_all_at_once_is_one_at_a_time(rounds, gradient, leaky, with_bias):
    settings = {"gradient": gradient, "leaky": leaky, "eps": 1e-2, "eps_at": "root"}
    u, W, bias = map(in_float32, operands(N, with_bias=with_bias))
    at_once = functools.partial(dynamic_routing_from_poses, at_once=True)
    got = with_python(at_once, rounds, u, W, bias, **settings)
    expected = from_poses_only(rounds, u, W, bias, **settings)
    # Rounding grows with the rounds that are differentiated: poses of length 1 make large logits.
    chex.assert_trees_all_close(got, expected, rtol=1e-3, atol=1e-3)
    assert rounds == 1 or np.ptp(got[0].c) > 0.1


@pytest.mark.ci
@pytest.mark.parametrize("gradient", ["stop", "full"])
def test_all_at_once_with_rounded_operands_is_close_on_an_accelerator(monkeypatch, gradient):
    u, W, bias = (0.3 * in_float32(x) for x in operands(N))
    exact = from_poses_only(3, u, W, bias, gradient=gradient)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    rounded = functools.partial(dynamic_routing_from_poses, dtype="bfloat16")
    got = routed_and_gradients(rounded, 3, u, W, bias, gradient=gradient)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(exact), strict=True):
        assert a.dtype == jnp.float32
        assert float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)) < 2e-2
    assert np.abs(got[0].v - exact[0].v).max() > 1e-5


@pytest.mark.ci
def test_all_at_once_takes_as_many_images_as_memory_allows(monkeypatch):
    form = from_poses.AllAtOnce("bfloat16")
    # 10 x 1152 x 8 numbers an image, of four bytes on a CPU; at 96x96 pixels 51,200 capsules.
    assert form.size_of_groups(128, 10, 1152, 8) == 128
    assert form.size_of_groups(128, 10, 51200, 8) == 32
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert from_poses.AllAtOnce("bfloat16").size_of_groups(128, 10, 51200, 8) == 64
    monkeypatch.undo()
    u, W, bias = map(in_float32, operands(N))
    whole = dynamic_routing_from_poses(u, W, bias=bias, at_once=True)
    monkeypatch.setattr(from_poses, "MAX_BYTES_AT_ONCE", 1)
    parts = dynamic_routing_from_poses(u, W, bias=bias, at_once=True)
    chex.assert_trees_all_close(parts, whole, rtol=1e-5, atol=1e-6)


def test_all_at_once_holds_rounded_numbers_alone_for_a_gpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    u, W = jnp.ones((16, 48, 8)), jnp.ones((48, 10, 16, 8))

    def loss(u, W):
        return jnp.sum(dynamic_routing_from_poses(u, W, dtype="bfloat16").v ** 2)

    traced = jax.jit(jax.grad(loss, (0, 1))).trace(u, W)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    # Results of products that are as large as c_ij u_ip: (p, j, n, i).
    of_votes = re.findall(r"dot_general .*-> tensor<8x10x16x48x(\w+)>", text)
    assert len(of_votes) >= 3
    assert set(of_votes) == {"bf16"}
