"""Convolution in the frequency domain: its identity, its plan, its gradients and its chunks."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.kernels import conv
from capsjax.kernels.conv import fourier
from capsjax.kernels.conv import plan as plan_module
from capsjax.kernels.conv.fourier import make_matrices
from capsjax.kernels.conv.plan import Plan, make_plan, multiplications, num_frequencies
from tests.equations import equations

# Images, kernel and stride.
CASES = {
    "stride 1": ((2, 9, 7, 3), (5, 4, 3, 4), 1),
    "stride 2": ((2, 11, 12, 3), (5, 4, 3, 4), 2),
    "stride 3": ((2, 13, 12, 3), (5, 4, 3, 2), 3),
    "one tap": ((2, 7, 8, 3), (1, 1, 3, 4), 1),
    "one tap, and a kernel smaller than the stride": ((2, 7, 8, 3), (1, 2, 3, 4), 3),
    "a kernel of one row": ((2, 6, 12, 2), (1, 9, 2, 3), 2),
    "a kernel as large as the image": ((2, 9, 9, 2), (9, 9, 2, 3), 2),
    "a kernel larger than a transform": ((1, 15, 16, 1), (14, 13, 1, 2), 1),
    "phases that need padding": ((2, 21, 19, 2), (9, 9, 2, 3), 2),
    "rows that no output sees": ((2, 9, 20, 2), (4, 9, 2, 3), 2),
    "tiles of rows": ((2, 20, 9, 2), (9, 9, 2, 3), 1),
    "tiles of columns, the last in part": ((2, 5, 30, 2), (5, 5, 2, 3), 2),
    "tiles of both": ((2, 28, 28, 1), (9, 9, 1, 4), 1),
    "the paper's second layer": ((3, 20, 20, 4), (9, 9, 4, 5), 2),
}


def normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def operands_of(x, kernel):
    return normal(0, x), normal(1, kernel)


def weighted_in(form, stride, dtype="float32"):
    """Outputs and both gradients of a scalar that no symmetry of the outputs leaves unchanged."""

    def weighted(x, kernel):
        out = conv.conv2d(x, kernel, stride, form, dtype)
        return jnp.sum(normal(2, out.shape) * out), out

    def out_and_gradients(x, kernel):
        (dx, dkernel), out = jax.grad(weighted, (0, 1), has_aux=True)(x, kernel)
        return {"out": out, "dx": dx, "dkernel": dkernel}

    return out_and_gradients


def errors(got, expected):
    """By name, the largest difference relative to the largest number."""
    chex.assert_trees_all_equal_shapes_and_dtypes(got, expected)
    return {
        name: float(np.abs(got[name] - expected[name]).max() / np.abs(expected[name]).max())
        for name in expected
    }


@pytest.mark.parametrize(
    ("points", "taps", "tile"),
    [
        ((6, 6), (3, 3), (4, 4)),  # even
        ((5, 7), (2, 3), (4, 5)),  # odd
        ((4, 7), (2, 3), (3, 5)),  # even and odd
        ((10, 10), (5, 5), (6, 6)),  # of the paper's second layer
        ((1, 1), (1, 1), (1, 1)),
        ((2, 5), (2, 1), (1, 5)),
        ((1, 8), (1, 4), (1, 5)),
        ((8, 9), (3, 2), (4, 5)),  # more points than are needed
    ],
)
def test_three_matrices_make_a_correlation(points, taps, tile):
    A, B, C = (matrix.astype(np.float64) for matrix in make_matrices(points, taps, tile))
    g = num_frequencies(points)
    assert A.shape == (2 * g, points[0] * points[1])
    assert B.shape == (2 * g, taps[0] * taps[1])
    assert C.shape == (tile[0] * tile[1], 4 * g)
    x, kernel = (np.random.default_rng(0).normal(size=size) for size in (points, taps))
    expected = np.zeros(tile)
    for row, column in np.ndindex(tile):
        window = x[row : row + taps[0], column : column + taps[1]]
        expected[row, column] = (window * kernel).sum()
    # Both numbers of a frequency of the one by both of the other.
    of_x, of_kernel = (A @ x.ravel()).reshape(g, 2, 1), (B @ kernel.ravel()).reshape(g, 1, 2)
    got = C @ (of_x * of_kernel).ravel()
    # The matrices themselves are rounded to float32.
    np.testing.assert_allclose(got, expected.ravel(), atol=2e-6 * np.abs(expected).max())


# Half of those that are their own conjugates, rounded up, and one for each pair of the others.
@pytest.mark.parametrize(
    ("points", "frequencies"),
    [((1, 1), 1), ((2, 2), 2), ((3, 3), 1 + 4), ((1, 4), 1 + 1), ((3, 4), 1 + 5)],
)
def test_number_of_frequencies(points, frequencies):
    assert num_frequencies(points) == frequencies


def test_plan_of_the_papers_second_layer():
    plan = make_plan((20, 20), (9, 9), 2)
    assert plan == Plan(stride=2, outputs=(6, 6), taps=(5, 5), tile=(6, 6), tiles=(1, 1))
    assert plan.points == (10, 10)
    assert plan.padded == (20, 20)


def test_plan_with_tiles():
    # 12 rows: one tile of 10 and most of another would take 2 · 12 points, two of 6 take 2 · 8.
    # 20 columns: five tiles of 4, the largest that 12 points leave a kernel of 9.
    plan = make_plan((14, 28), (3, 9), 1)
    assert plan == Plan(stride=1, outputs=(12, 20), taps=(3, 9), tile=(6, 4), tiles=(2, 5))
    assert plan.points == (8, 12)
    assert plan.padded == (14, 28)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 4, 5, 9, 14])
def test_plan_covers_all_outputs(kernel, stride):
    for pixels in range(kernel, 50):
        plan = make_plan((pixels, pixels), (kernel, kernel), stride)
        outputs, taps, tile, tiles = (pair[0] for pair in plan[1:])
        assert outputs == conv.output_size(pixels, kernel, stride)
        assert tile * (tiles - 1) < outputs <= tile * tiles
        # The last tile ends where the image does, and the last output sees its last pixel.
        assert stride * (tile * (tiles - 1) + plan.points[0]) == plan.padded[0]
        assert plan.padded[0] >= stride * (outputs - 1) + kernel
        assert plan.points[0] <= max(plan_module.MAX_POINTS, taps)


def test_multiplications_of_the_papers_second_layer():
    plan = make_plan((20, 20), (9, 9), 2)
    # Four phases of 256 channels and 50 frequencies. 200 products; 100 columns for the image and
    # 36 rows for the outputs; and 25 columns for the kernel, once in 128 images.
    products = 200 * 1024 * 256
    transforms = 100 * 100 * 1024 + 36 * 200 * 256
    assert products + transforms == 64_512_000
    of_kernel = 100 * 25 * 1024 * 256 / 128
    assert of_kernel == 5_120_000
    assert multiplications(plan, 256, 256, 128) == 64_512_000 + 5_120_000


def test_multiplications_of_two_tiles():
    plan = Plan(stride=1, outputs=(4, 1), taps=(2, 1), tile=(2, 1), tiles=(2, 1))
    # Points (3, 1), so two frequencies; the kernel's transform is shared by the tiles.
    of_tile = 8 * 5 * 7 + 4 * 3 * 5 + 8 * 2 * 7
    assert multiplications(plan, 5, 7, 10) == 2 * of_tile + 4 * 2 * 5 * 7 / 10


def test_the_cases_are_what_they_say():
    plans = {
        name: make_plan(x[1:3], kernel[:2], stride) for name, (x, kernel, stride) in CASES.items()
    }
    assert plans["one tap"].taps == (1, 1)
    assert plans["a kernel as large as the image"].outputs == (1, 1)
    assert plans["a kernel larger than a transform"].points == (14, 13)
    assert plans["phases that need padding"].padded == (22, 20)
    assert plans["rows that no output sees"].padded == (8, 20)
    assert plans["tiles of rows"].tiles == (3, 1)
    assert plans["tiles of columns, the last in part"].outputs == (1, 13)
    assert plans["tiles of columns, the last in part"].tile == (1, 7)
    assert plans["tiles of columns, the last in part"].tiles == (1, 2)
    assert plans["tiles of both"].tiles == (5, 5)


@pytest.mark.slow
@pytest.mark.parametrize(("x", "kernel", "stride"), CASES.values(), ids=CASES)
def test_value_and_gradients_are_those_of_patches(x, kernel, stride):
    operands = operands_of(x, kernel)
    got = jax.jit(weighted_in("fourier", stride))(*operands)
    expected = jax.jit(weighted_in("patches", stride))(*operands)
    assert max(errors(got, expected).values()) < 1e-5


def test_pixels_that_no_output_sees_have_no_gradient():
    x, kernel, stride = CASES["rows that no output sees"]
    dx = jax.jit(weighted_in("fourier", stride))(*operands_of(x, kernel))["dx"]
    # Row 8 belongs to no phase, and column 19 to one that the kernel does not reach.
    np.testing.assert_array_equal(dx[:, 8], 0.0)
    np.testing.assert_allclose(dx[:, :, 19], 0.0, atol=1e-5)
    assert (np.abs(dx[:, :8, :19]).max(axis=(0, 3)) > 1e-2).all()


@pytest.mark.ci
def test_images_and_their_channels_are_kept_apart():
    (x, kernel), stride = operands_of((3, 9, 9, 2), (3, 3, 2, 4)), 2
    together = conv.conv2d(x, kernel, stride, "fourier")
    for n in range(3):
        alone = conv.conv2d(x[n : n + 1], kernel, stride, "fourier")
        np.testing.assert_allclose(together[n : n + 1], alone, atol=1e-5)
    without = conv.conv2d(x.at[..., 1].set(0.0), kernel, stride, "fourier")
    first = conv.conv2d(x[..., :1], kernel[:, :, :1], stride, "fourier")
    np.testing.assert_allclose(without, first, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("images", "at_once", "chunks"),
    # One image is always worked off.
    [(24, 7, 4), (24, 6, 4), (25, 7, 4), (12, 0.5, 12)],
)
def test_chunks_change_the_memory_alone(monkeypatch, images, at_once, chunks):
    check_chunks(monkeypatch, "the paper's second layer", images, at_once, chunks)


@pytest.mark.slow
def test_chunks_of_images_that_are_cut_into_tiles(monkeypatch):
    check_chunks(monkeypatch, "tiles of both", 6, 2, 3)


def check_chunks(monkeypatch, case, images, at_once, chunks):
    (_, *image), kernel, stride = CASES[case]
    operands = operands_of((images, *image), kernel)
    plan = make_plan(tuple(image[:2]), kernel[:2], stride)
    tiles = plan.tiles[0] * plan.tiles[1]
    of_image = 8 * num_frequencies(plan.points) * tiles * stride**2 * image[2]

    def run(at_once):
        monkeypatch.setattr(fourier, "MAX_CHUNK_BYTES", int(at_once * of_image))
        # Made anew each time, because a function is traced once.
        traced = jax.jit(weighted_in("fourier", stride)).trace(*operands)
        loops = [e for e in equations(traced.jaxpr.jaxpr) if e.primitive.name == "scan"]
        program = traced.lower().compile()
        memory = program.memory_analysis().temp_size_in_bytes
        return program(*operands), [loop.params["length"] for loop in loops], memory

    whole, no_loops, memory_of_whole = run(images)
    parts, loops, memory_of_parts = run(at_once)
    assert no_loops == []
    assert loops == [chunks, chunks]  # forward and backward
    assert max(errors(parts, whole).values()) < 2e-6
    if images % chunks == 0:  # the padding of images as small as these is more than is saved
        assert memory_of_parts < memory_of_whole


def test_vmap_over_kernels_is_a_loop():
    x, kernels = normal(0, (2, 11, 12, 3)), normal(1, (3, 5, 4, 3, 2))
    apply = weighted_in("fourier", 2)
    together = jax.jit(jax.vmap(apply, (None, 0)))(x, kernels)
    one_by_one = [jax.jit(apply)(x, kernel) for kernel in kernels]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one)
    assert max(errors(together, stacked).values()) < 2e-6


@pytest.mark.ci
def test_jit_is_eager():
    x, kernel, stride = CASES["one tap"]
    apply, operands = weighted_in("fourier", stride), operands_of(x, kernel)
    assert max(errors(jax.jit(apply)(*operands), apply(*operands)).values()) < 2e-6


@pytest.mark.parametrize("at_once", [None, 1])
def test_only_a_program_with_a_gradient_copies_its_images_first(monkeypatch, at_once):
    if at_once:
        monkeypatch.setattr(fourier, "MAX_CHUNK_BYTES", at_once)
    x, kernel, stride = CASES["the paper's second layer"]
    operands = operands_of(x, kernel)

    def alone(x, kernel):
        return conv.conv2d(x, kernel, stride, "fourier")

    def copied(f):
        jaxpr = jax.make_jaxpr(f)(*operands).jaxpr
        conditions = [e for e in equations(jaxpr) if e.primitive.name == "cond"]
        return {e.invars[-1].aval.size for e in conditions}

    with_gradients = weighted_in("fourier", stride)
    of_chunk = math.prod(x[1:]) * (at_once or x[0])
    assert copied(alone) == {math.prod(kernel)}
    assert copied(with_gradients) == {math.prod(kernel), of_chunk}
    expected = jax.jit(with_gradients)(*operands)["out"]
    np.testing.assert_allclose(jax.jit(alone)(*operands), expected, atol=1e-5)


@pytest.mark.parametrize("at_once", [None, 1])
def test_bfloat16_is_close_and_gives_float32(monkeypatch, at_once):
    if at_once:
        monkeypatch.setattr(fourier, "MAX_CHUNK_BYTES", at_once)
    x, kernel, stride = CASES["the paper's second layer"]
    operands = operands_of(x, kernel)
    rounded = jax.jit(weighted_in("fourier", stride, "bfloat16"))(*operands)
    exact = jax.jit(weighted_in("patches", stride))(*operands)
    # Operands have 8 bits: each is off by up to 1/512.
    assert all(1e-4 < error < 2e-2 for error in errors(rounded, exact).values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_operands_are_rounded_but_of_the_last_transform_and_the_gradients(dtype):
    x, kernel, stride = CASES["the paper's second layer"]
    traced = jax.make_jaxpr(weighted_in("fourier", stride, dtype))(*operands_of(x, kernel))
    kinds = {"of frequencies": [], "transforms": []}
    for equation in equations(traced.jaxpr):
        if equation.primitive.name == "dot_general":
            _, (batch, _) = equation.params["dimension_numbers"]
            types = [str(var.aval.dtype) for var in (*equation.invars, *equation.outvars)]
            kinds["of frequencies" if batch else "transforms"].append(types)
    # One forward and two backward; A and B forward, then C, and all three backward, C twice.
    assert kinds["of frequencies"] == [[dtype, dtype, "float32"]] * 3
    assert kinds["transforms"] == [[dtype, dtype, "float32"]] * 2 + [["float32"] * 3] * 5


def test_no_images_at_all():
    x, kernel = operands_of((0, 9, 9, 2), (5, 5, 2, 3))
    assert conv.conv2d(x, kernel, 2, "fourier").shape == (0, 3, 3, 3)


def test_it_has_no_forward_mode_gradient():
    x, kernel = operands_of((1, 5, 5, 1), (3, 3, 1, 1))
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: conv.conv2d(x, kernel, form="fourier"), (x,), (x,))
