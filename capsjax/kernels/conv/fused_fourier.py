"""`conv2d_fourier` on an NVIDIA GPU, with all rearrangements inside the transforms.

The transforms by A, B and C take rows that lie apart: the pixels of one phase of an image, the
taps of one phase of a kernel, the frequencies of one image. XLA copies them together before each
transform and apart after it, which takes as long as the transforms. Here they are read and written
where they lie. The relu before the convolution and its gradient are part of two of the kernels.

In all arrays below channels come last and a row is what has one place in all other axes:

    images (n, h, w, c)            transformed (2g, n, phases, c)
    kernel (kh, kw, c, o)          transformed (g, phases, c, 2, o)
    outputs (n, y, x, o)           transformed (g, 2, n, 2, o)

so that the product for a frequency is one of plain matrices, (2n, phases · c) by
(phases · c, 2 · o).
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from capsjax.kernels import triton
from capsjax.kernels.conv.fourier import MAX_CHUNK_BYTES, conv2d_fourier, make_matrices
from capsjax.kernels.conv.plan import Plan, make_plan, num_frequencies
from capsjax.products import OperandType

HELD = jnp.bfloat16


def conv2d_fused_fourier(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw c o"],
    stride: int,
    dtype: OperandType = "float32",
    rectify: bool = False,
) -> Float[Array, "n y x o"]:
    """Compute `conv2d_fourier` of x, or of max(x, 0), equal up to rounding.

    Where the kernels are not compiled, or do not fit (see `fits`), it is `conv2d_fourier`.
    """
    if triton.runs() and dtype == "bfloat16" and fits(x.shape, kernel.shape, stride):
        transforms = _Transforms(x.shape, kernel.shape, stride)
        return _convolve(transforms, rectify, x.astype(HELD), kernel.astype(jnp.float32))
    return conv2d_fourier(jax.nn.relu(x) if rectify else x, kernel, stride, dtype)


def fits(x: tuple[int, ...], kernel: tuple[int, ...], stride: int) -> bool:
    """Return whether the kernels can take such images and such a kernel.

    They take images that are one tile, all at once, and channels and features in sixteens.

    >>> fits((128, 20, 20, 256), (9, 9, 256, 256), 2)
    True
    >>> fits((128, 28, 28, 1), (9, 9, 1, 256), 1)
    False
    """
    plan = make_plan(x[1:3], kernel[:2], stride)
    held = 2 * num_frequencies(plan.points) * stride**2 * x[0] * x[3] * jnp.dtype(HELD).itemsize
    return (
        0 < held <= MAX_CHUNK_BYTES
        and plan.tiles == (1, 1)
        and all(a >= b for a, b in zip(plan.padded, x[1:3], strict=True))
        and all(
            triton.multiplies_rows(matrix, columns)
            for matrix in make_matrices(plan.points, plan.taps, plan.tile)
            for columns in (x[3], kernel[3])
        )
    )


@dataclasses.dataclass(frozen=True)
class _Transforms:
    """The six transforms of a convolution, as products with rows of its arrays.

    Attributes:
      images: shape of the images, (n, h, w, c).
      kernel: shape of the kernel, (kh, kw, c, o).
      stride: stride of the convolution.
    """

    images: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: int

    @functools.cached_property
    def _plan(self) -> Plan:
        return make_plan(self.images[1:3], self.kernel[:2], self.stride)

    @functools.cached_property
    def _matrices(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return make_matrices(self._plan.points, self._plan.taps, self._plan.tile)

    @property
    def _phases(self) -> int:
        return self.stride**2

    def of_images(self, x: Array, rectify: bool) -> Float[Array, "g t pc"]:
        """Transform images, or the positive part of their numbers."""
        (A, _, _), (n, *_, c) = self._matrices, self.images
        X = triton.rows_product(
            A,
            x,
            (self._phases, n),
            self._row_of_image,
            self._row_of_transformed_image,
            _held(len(A), n, self._phases, c),
            name="transform_images",
            rectify=rectify,
        )
        return X.reshape(len(A) // 2, 2 * n, self._phases * c)

    def to_images(self, dX: Float[Array, "g t pc"], where: Array | None) -> Float[Array, "n h w c"]:
        """Transform the gradient of transformed images back, to where the images are positive."""
        (A, _, _), (n, *_, c) = self._matrices, self.images
        return triton.rows_product(
            A.T,
            dX.reshape(len(A), n, self._phases, c),
            (self._phases, n),
            self._row_of_transformed_image,
            self._row_of_image,
            _held(*self.images),
            name="to_images",
            where=where,
        )

    def of_kernel(self, kernel: Float[Array, "kh kw c o"]) -> Float[Array, "g pc o2"]:
        """Transform a kernel."""
        (_, B, _), (*_, c, o) = self._matrices, self.kernel
        W = triton.rows_product(
            B,
            kernel,
            (c, self._phases),
            self._row_of_kernel,
            self._row_of_transformed_kernel,
            _held(len(B) // 2, self._phases, c, 2, o),
            name="transform_kernel",
        )
        return W.reshape(len(B) // 2, self._phases * c, 2 * o)

    def to_kernel(self, dW: Float[Array, "g pc o2"]) -> Float[Array, "kh kw c o"]:
        """Transform the gradient of a transformed kernel back."""
        (_, B, _), (*_, c, o) = self._matrices, self.kernel
        return triton.rows_product(
            B.T,
            dW.reshape(len(B) // 2, self._phases, c, 2, o),
            (c, self._phases),
            self._row_of_transformed_kernel,
            self._row_of_kernel,
            _held(*self.kernel),
            name="to_kernel",
        )

    def to_outputs(self, Y: Float[Array, "g t o2"]) -> Float[Array, "n y x o"]:
        """Transform the products back, to outputs."""
        (_, _, C), n, o = self._matrices, self.images[0], self.kernel[3]
        return triton.rows_product(
            C,
            Y.reshape(len(Y), 2, n, 2, o),
            (n,),
            self._row_of_transformed_output,
            self._row_of_output,
            jax.ShapeDtypeStruct((n, *self._plan.tile, o), jnp.float32),
            name="to_outputs",
        )

    def of_outputs(self, dy: Float[Array, "n y x o"]) -> Float[Array, "g t o2"]:
        """Transform the gradient of the outputs."""
        (_, _, C), n, o = self._matrices, self.images[0], self.kernel[3]
        dY = triton.rows_product(
            C.T,
            dy,
            (n,),
            self._row_of_output,
            self._row_of_transformed_output,
            _held(C.shape[1] // 4, 2, n, 2, o),
            name="transform_outputs",
        )
        return dY.reshape(C.shape[1] // 4, 2 * n, 2 * o)

    # Rows of the arrays above, by numbers of a set and by the indices of the set.

    def _row_of_image(self, point: Array, phase: Array, n: Array) -> Array:
        _, h, w, _ = self.images
        y, x = self._in_phase(point, self._plan.points[1], phase)
        return jnp.where((y < h) & (x < w), (n * h + y) * w + x, -1)

    def _row_of_transformed_image(self, number: Array, phase: Array, n: Array) -> Array:
        return (number * self.images[0] + n) * self._phases + phase

    def _row_of_kernel(self, tap: Array, c: Array, phase: Array) -> Array:
        kh, kw, channels, _ = self.kernel
        y, x = self._in_phase(tap, self._plan.taps[1], phase)
        return jnp.where((y < kh) & (x < kw), (y * kw + x) * channels + c, -1)

    def _row_of_transformed_kernel(self, number: Array, c: Array, phase: Array) -> Array:
        row = (number // 2 * self._phases + phase) * self.kernel[2] + c
        return 2 * row + number % 2

    def _row_of_output(self, pixel: Array, n: Array) -> Array:
        return n * math.prod(self._plan.tile) + pixel

    def _row_of_transformed_output(self, number: Array, n: Array) -> Array:
        return 2 * (number // 2 * self.images[0] + n) + number % 2

    def _in_phase(self, number: Array, columns: int, phase: Array) -> tuple[Array, Array]:
        """Return the row and column of a number that counts the places of one phase."""
        s = self.stride
        return number // columns * s + phase // s, number % columns * s + phase % s


def _held(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, HELD)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _convolve(transforms, rectify, x, kernel):
    return _forward(transforms, rectify, x, kernel)[0]


def _forward(transforms, rectify, x, kernel):
    X, W = transforms.of_images(x, rectify), transforms.of_kernel(kernel)
    Y = jnp.einsum("gtc,gco->gto", X, W, preferred_element_type=HELD)
    return transforms.to_outputs(Y), (x if rectify else None, X, W)


def _backward(transforms, rectify, saved, dy):
    x, X, W = saved
    dY = transforms.of_outputs(dy)
    dX = jnp.einsum("gto,gco->gtc", dY, W, preferred_element_type=HELD)
    dW = jnp.einsum("gtc,gto->gco", X, dY, preferred_element_type=HELD)
    dx, dkernel = transforms.to_images(dX, x), transforms.to_kernel(dW)
    return dx, dkernel.astype(jnp.float32)


_convolve.defvjp(_forward, _backward)
