"""Products of a constant matrix and rows that lie apart; where kernels run."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.kernels import triton
from capsjax.kernels.triton import multiplies_rows, rows_product

# Rows and columns of the matrix, columns of the rows, and sets of rows.
SIZES = [(3, 5, 16, 2), (50, 25, 48, 3), (17, 100, 256, 2), (16, 16, 128, 1)]


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def rounded(x):
    """Numbers as the kernel multiplies them, in float64."""
    return np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64)


def multiply(matrix, x, sets, out_type=jnp.float32, rectify=False, where=None):
    """Multiply rows of the sets that follow each other to rows that are interleaved."""
    m, k = matrix.shape

    def product(x, where):
        return rows_product(
            matrix,
            x,
            (sets,),
            lambda number, n: n * k + number,
            lambda number, n: number * sets + n,
            jax.ShapeDtypeStruct((m, sets, x.shape[-1]), out_type),
            name="multiply",
            rectify=rectify,
            where=where,
        )

    return jax.jit(product)(x, where)


def expected_of(matrix, x, rectify=False, where=None):
    x = rounded(np.maximum(x, 0) if rectify else x)
    out = np.einsum("mk,nkc->mnc", rounded(matrix), x)
    return out if where is None else np.where(where > 0, out, 0.0)


@pytest.mark.usefixtures("kernels_run")
@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("m", "k", "columns", "sets"), SIZES)
def test_rows_are_multiplied_by_the_matrix(m, k, columns, sets, masked, rectify):
    matrix, x = normal(0, m, k), normal(1, sets, k, columns)
    where = normal(2, m, sets, columns) if masked else None
    got = multiply(matrix, x, sets, rectify=rectify, where=where)
    assert got.dtype == jnp.float32
    # What is rounded are the operands alone, and those above are rounded too.
    np.testing.assert_allclose(got, expected_of(matrix, x, rectify, where), rtol=1e-5, atol=1e-4)


@pytest.mark.usefixtures("kernels_run")
def test_the_result_is_zero_where_the_other_array_is_zero_or_less():
    matrix, x = np.eye(16, dtype=np.float32), np.ones((1, 16, 16), np.float32)
    where = np.tile(np.array([-1.0, 0.0, -0.0, 1e-30], np.float32), 64).reshape(16, 1, 16)
    got = multiply(matrix, x, 1, where=where)
    np.testing.assert_array_equal(got, where > 0)


@pytest.mark.usefixtures("kernels_run")
def test_the_result_has_the_type_that_is_asked_for():
    matrix, x = normal(0, 20, 9), normal(1, 2, 9, 32)
    got = multiply(matrix, x, 2, jnp.bfloat16)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        got.astype(jnp.float32), expected_of(matrix, x), rtol=1e-2, atol=1e-4
    )


@pytest.mark.usefixtures("kernels_run")
def test_negative_rows_are_read_as_zeros_and_not_written():
    # Sets (row, column) of 3 x 2 rows: the last row of the second set is beyond the five there are.
    matrix, x = normal(0, 3, 3), normal(1, 5, 2, 16)

    def row(number, block, column):
        place = 3 * block + number
        return jnp.where(place < 5, 2 * place + column, -1)

    def product(x):
        out = jax.ShapeDtypeStruct((5, 2, 16), jnp.float32)
        return rows_product(matrix, x, (2, 2), row, row, out, name="multiply")

    blocks = np.pad(x, ((0, 1), (0, 0), (0, 0))).reshape(2, 3, 2, 16)
    expected = np.einsum("mk,bknc->bmnc", rounded(matrix), rounded(blocks)).reshape(6, 2, 16)[:5]
    np.testing.assert_allclose(jax.jit(product)(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("kernels_run")
def test_several_products_under_vmap_are_each_alone():
    matrix, x, where = normal(0, 9, 5), normal(1, 3, 2, 5, 48), normal(2, 3, 9, 2, 48)
    together = jax.vmap(lambda x, where: multiply(matrix, x, 2, rectify=True, where=where))
    for got, *operands in zip(together(x, where), x, where, strict=True):
        expected = expected_of(matrix, operands[0], True, operands[1])
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("kernels_run")
@pytest.mark.parametrize("rectify", [False, True])
def test_what_is_not_finite_shows(rectify):
    matrix, x = 1 + np.abs(normal(0, 3, 5)), normal(1, 2, 5, 16)
    x[0, 1, 2], x[1, 3, 4] = np.nan, np.inf
    got = multiply(matrix, x, 2, rectify=rectify)
    expected = np.zeros(got.shape, bool)
    expected[:, 0, 2] = expected[:, 1, 4] = True
    np.testing.assert_array_equal(~np.isfinite(got), expected)


@pytest.mark.parametrize(
    ("shape", "columns", "taken"),
    [((256, 1), 16, True), ((1, 256), 48, True), ((257, 1), 16, False), ((1, 257), 16, False)]
    + [((9, 9), columns, False) for columns in (1, 8, 24, 255)],
)
def test_which_products_the_kernel_can_take(shape, columns, taken):
    assert multiplies_rows(np.zeros(shape), columns) == taken


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="this machine has a GPU")
def test_kernels_do_not_run_on_a_cpu():
    assert not triton.available()
    assert not triton.runs()


@pytest.mark.parametrize(
    ("platform", "version", "capability", "available"),
    [
        ("gpu", "PJRT C API\ncuda 12080", "8.0", True),
        ("gpu", "PJRT C API\ncuda 13000", "10.0", True),
        ("gpu", "PJRT C API\ncuda 12080", "7.5", False),
        ("gpu", "PJRT C API\nrocm 60000", "gfx942", False),
        ("tpu", "PJRT C API\nTFRT TPU v5e", "", False),
        ("cpu", "cuda", "", False),
    ],
)
def test_kernels_are_compiled_for_newer_gpus_of_nvidia_alone(
    monkeypatch, platform, version, capability, available
):
    client = SimpleNamespace(platform_version=version)
    device = SimpleNamespace(platform=platform, client=client, compute_capability=capability)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert triton.available() == available
