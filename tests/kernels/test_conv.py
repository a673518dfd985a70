"""The forms of the convolution are one function; which is chosen; sizes without padding."""

import chex
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from capsjax.kernels import conv
from capsjax.kernels.conv.strips import MAX_STRIP, _cut

FORMS = ("patches", "strips", "gathered", "fourier", "phases", "lax")

# Neither the images nor the kernels are square, and there are several channels.
SHAPES = {
    "plain": ((2, 9, 7, 3), (3, 2, 3, 4)),
    "kernel as large as the image": ((2, 4, 5, 2), (4, 5, 2, 3)),
    "one pixel": ((2, 4, 5, 2), (1, 1, 2, 3)),
    "one image, one channel": ((1, 6, 8, 1), (3, 3, 1, 1)),
    "a strip that the outputs fill in part": ((2, 4, 11, 2), (2, 3, 2, 3)),
}


# What is called as it is would be compiled operation by operation.
conv2d = jax.jit(conv.conv2d, static_argnames=("stride", "form", "dtype"))


def normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def operands(request):
    x, kernel = request.param
    return normal(0, x), normal(1, kernel)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_forms_agree_in_value_and_gradients(operands, stride):
    def weighted(x, kernel, form):
        out = conv.conv2d(x, kernel, stride, form)
        return jnp.sum(normal(2, out.shape) * out), out

    results = {}
    for form in FORMS:
        gradient = jax.grad(weighted, (0, 1), has_aux=True)
        (dx, dkernel), out = jax.jit(gradient, static_argnums=2)(*operands, form)
        results[form] = {"out": out, "dx": dx, "dkernel": dkernel}
    for form in FORMS:
        chex.assert_trees_all_close(results[form], results["lax"], atol=2e-5)


@pytest.mark.ci
@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_on_an_accelerator_is_close(monkeypatch, form):
    # What is rounded there alone: the results of products that are operands of others.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    x, kernel, bias = normal(0, (2, 13, 12, 3)), normal(1, (5, 4, 3, 4)), normal(3, (4,))

    def weighted(x, kernel, bias, dtype):
        out = conv.conv2d(x, kernel, 2, form, dtype, bias)
        return jnp.sum(normal(2, out.shape) * out), out

    gradient = jax.jit(jax.grad(weighted, (0, 1, 2), has_aux=True), static_argnums=3)
    exact, rounded = (gradient(x, kernel, bias, dtype) for dtype in ("float32", "bfloat16"))
    for a, b in zip(jax.tree.leaves(rounded), jax.tree.leaves(exact), strict=True):
        assert a.dtype == jnp.float32
        error = float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))
        assert error < 1e-2
    assert float(jnp.linalg.norm(rounded[1] - exact[1]) / jnp.linalg.norm(exact[1])) > 1e-3


@pytest.mark.ci
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_networks_side_by_side_convolve_as_each_alone(monkeypatch, form, backend):
    # As in a population under vmap: images and kernels of their own.
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    x, kernels, biases = normal(0, (3, 2, 9, 8, 2)), normal(1, (3, 4, 3, 2, 3)), normal(3, (3, 3))

    def value_and_gradients(x, kernel, bias):
        def weighted(*operands):
            out = conv.conv2d(operands[0], operands[1], 2, form, bias=operands[2])
            return jnp.sum(normal(2, out.shape) * out), out

        return jax.grad(weighted, (0, 1, 2), has_aux=True)(x, kernel, bias)

    together = jax.jit(jax.vmap(value_and_gradients))(x, kernels, biases)
    one = jax.jit(value_and_gradients)
    alone = [one(*each) for each in zip(x, kernels, biases, strict=True)]
    alone = jax.tree.map(lambda *parts: np.stack(parts), *alone)
    chex.assert_trees_all_close(together, alone, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("form", [*FORMS, "auto"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_against_loops(stride, form):
    x, kernel = np.asarray(normal(0, (2, 7, 5, 2))), np.asarray(normal(1, (3, 2, 2, 3)))
    kh, kw = kernel.shape[:2]
    rows, columns = (7 - kh) // stride + 1, (5 - kw) // stride + 1
    expected = np.zeros((2, rows, columns, 3))
    for n, row, column, o in np.ndindex(expected.shape):
        top, left = stride * row, stride * column
        window = x[n, top : top + kh, left : left + kw].astype(np.float64)
        expected[n, row, column, o] = (window * kernel[..., o]).sum()
    np.testing.assert_allclose(conv2d(x, kernel, stride, form), expected, atol=1e-5)


def test_the_kernel_is_not_flipped():
    x = jnp.array([1.0, 2.0, 4.0]).reshape(1, 1, 3, 1)
    kernel = jnp.array([10.0, 1.0]).reshape(1, 2, 1, 1)
    for form in FORMS:
        out = conv2d(x, kernel, form=form)
        np.testing.assert_allclose(out.ravel(), [12.0, 24.0], rtol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_the_sizes_of_the_paper(form):
    # VALID: 28 -> 20 -> 6; with Flax's default, SAME, it would be 28 -> 14.
    def first_and_second(images):
        first = conv.conv2d(images, jnp.ones((9, 9, 1, 2)), 1, form)
        return first, conv.conv2d(first, jnp.ones((9, 9, 2, 4)), 2, form)

    first, second = jax.eval_shape(first_and_second, jnp.ones((3, 28, 28, 1)))
    assert first.shape == (3, 20, 20, 2)
    assert second.shape == (3, 6, 6, 4)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [(28, 9, 1, 20), (20, 9, 2, 6), (9, 9, 2, 1), (10, 9, 2, 1), (11, 9, 2, 2), (7, 1, 3, 3)],
)
def test_output_size(size, kernel, stride, expected):
    assert conv.output_size(size, kernel, stride) == expected


@pytest.mark.parametrize("size", [(8, 8), (8, 20), (20, 8)])
@pytest.mark.parametrize("form", FORMS)
def test_an_image_that_is_too_small_is_refused_with_both_sizes(size, form):
    with pytest.raises(ValueError, match=f"9x9 kernel and gets {size[0]}x{size[1]}"):
        conv.conv2d(jnp.ones((1, *size, 1)), jnp.ones((9, 9, 1, 2)), form=form)


def test_check_fits_accepts_an_image_as_large_as_the_kernel():
    conv.check_fits((9, 5), (9, 5), "the convolution")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("form", [*FORMS, "auto"])
def test_a_kernel_for_other_channels_is_refused_with_both_shapes(monkeypatch, channels, form):
    # Without type checking, which is on in tests alone and has errors of its own.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    x, kernel = jnp.ones((1, 6, 6, 2)), jnp.ones((3, 3, channels, 4))
    shapes = rf"\(1, 6, 6, 2\) .* \(3, 3, {channels}, 4\)"
    with pytest.raises(ValueError, match=shapes):
        conv.conv2d(x, kernel, form=form)


def test_unknown_form_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'patches'"):
        conv.conv2d(jnp.ones((1, 4, 4, 1)), jnp.ones((2, 2, 1, 1)), form="patch")


@pytest.mark.parametrize("form", [*FORMS, "auto"])
def test_unknown_number_type_names_the_nearest(monkeypatch, form):
    # Without type checking, which is on in tests alone and has errors of its own.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match="'float31'; did you mean 'float32'"):
        conv.conv2d(jnp.ones((1, 4, 4, 1)), jnp.ones((2, 2, 1, 1)), form=form, dtype="float31")


# Images, kernel and stride of the two convolutions of the paper, at its batch size.
FIRST = (128, 28, 28, 1), (9, 9, 1, 256), 1
SECOND = (128, 20, 20, 256), (9, 9, 256, 256), 2


@pytest.mark.parametrize(("layer", "form"), [(FIRST, "patches"), (SECOND, "fourier")])
def test_chosen_form_of_the_paper_on_a_cpu(layer, form):
    # The first has one channel: its transforms would cost more than the products that they save.
    assert conv.choose_form(*layer) == form


@pytest.mark.parametrize(
    ("layer", "form"),
    [
        (((128, 28, 28, 1), (9, 9, 1, 64), 1), "strips"),  # the first of the small network
        (((1, 28, 28, 1), (9, 9, 1, 64), 1), "strips"),
        (((128, 32, 32, 3), (9, 9, 3, 64), 1), "strips"),
        (((128, 28, 28, 1), (9, 9, 1, 128), 1), "patches"),  # the zeros cost too much
        (((128, 28, 28, 1), (3, 3, 1, 32), 1), "patches"),
        (((128, 28, 28, 1), (9, 9, 1, 64), 2), "patches"),
        (((1, 28, 28, 4), (9, 9, 4, 64), 1), "patches"),  # not measured
    ],
)
def test_strips_are_for_few_channels_and_features(layer, form):
    assert conv.choose_form(*layer) == form


@pytest.mark.parametrize("layer", [FIRST, SECOND])
def test_chosen_form_where_nothing_was_measured_is_xlas_own(monkeypatch, layer):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert conv.choose_form(*layer) == "lax"


@pytest.mark.parametrize(
    ("layer", "form", "rounded"),
    [
        (FIRST, "gathered", "gathered"),
        (SECOND, "fourier", "fused_fourier"),
        # The second layer of `paper,small`.
        (((128, 20, 20, 64), (9, 9, 64, 64), 2), "fourier", "fused_fourier"),
        # Channels that are no multiple of 16, and several tiles.
        (((128, 20, 20, 72), (9, 9, 72, 64), 2), "fourier", "fourier"),
        (((128, 28, 28, 64), (9, 9, 64, 64), 1), "fourier", "fourier"),
        # Few images, for which the kernel's transform is too much; small kernels.
        (((8, 20, 20, 256), (9, 9, 256, 256), 2), "phases", "phases"),
        (((128, 26, 26, 32), (3, 3, 32, 64), 1), "phases", "phases"),
    ],
)
def test_chosen_form_on_a_gpu(monkeypatch, layer, form, rounded):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert conv.choose_form(*layer) == form
    assert conv.choose_form(*layer, "float32") == form
    assert conv.choose_form(*layer, "bfloat16") == rounded


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("channels", [1, 256])
def test_a_kernel_of_one_pixel_is_not_transformed(channels, stride):
    assert conv.choose_form((128, 20, 20, channels), (1, 1, channels, 256), stride) == "patches"


def test_the_kernel_is_not_transformed_for_a_single_image():
    # 148 products of 25 · 1024 · 256 for the kernel alone, against 36 · 81 · 256 · 256.
    (_, *image), kernel, stride = SECOND
    assert conv.choose_form((1, *image), kernel, stride) == "patches"


@pytest.mark.parametrize(("images", "form"), [(1, "patches"), (128, "fourier")])
def test_auto_computes_in_the_chosen_form(images, form):
    (_, *image), kernel, stride = SECOND
    operands = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((images, *image), kernel)]
    programs = {
        form: str(jax.make_jaxpr(lambda *xs, form=form: conv.conv2d(*xs, stride, form))(*operands))
        for form in (*FORMS, "auto")
    }
    assert [name for name in FORMS if programs[name] == programs["auto"]] == [form]


@pytest.mark.parametrize("columns", range(1, 30))
def test_strips_cover_a_row_and_little_else(columns):
    strip, strips = _cut(columns)
    assert 1 <= strip <= MAX_STRIP
    assert strip * strips - strips < columns <= strip * strips


def test_strips_of_several_operations_at_once():
    x, kernels = normal(0, (3, 2, 7, 9, 1)), normal(1, (3, 3, 4, 1, 2))
    batched = jax.vmap(lambda x, kernel: conv2d(x, kernel, form="strips"))(x, kernels)
    for got, *operands in zip(batched, x, kernels, strict=True):
        np.testing.assert_allclose(got, conv2d(*operands, form="lax"), atol=1e-5)


@pytest.mark.ci
@pytest.mark.parametrize("stride", [1, 2])
def test_strips_round_as_patches_do(stride):
    x, kernel = normal(0, (2, 12, 11, 1)), normal(1, (3, 4, 1, 5))

    def weighted(kernel, form):
        out = conv.conv2d(x, kernel, stride, form, "bfloat16")
        return jnp.sum(normal(2, out.shape) * out), out

    gradient = jax.jit(jax.grad(weighted, has_aux=True), static_argnums=1)
    chex.assert_trees_all_close(gradient(kernel, "strips"), gradient(kernel, "patches"), atol=1e-4)


def test_patches_are_flattened_by_row_column_channel():
    x = jnp.arange(2 * 4 * 5 * 3, dtype=jnp.float32).reshape(2, 4, 5, 3)
    patches = conv.extract_patches(x, (2, 3), 2)
    chex.assert_shape(patches, (2, 2, 2, 18))
    for n, row, column in np.ndindex(2, 2, 2):
        window = np.asarray(x)[n, 2 * row : 2 * row + 2, 2 * column : 2 * column + 3]
        np.testing.assert_array_equal(np.asarray(patches)[n, row, column], window.ravel())
