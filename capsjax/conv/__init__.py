"""Convolution, written as whichever form the machine runs fast.

XLA's CPU backend has no fast path for the gradients of a convolution with many channels: one
training step of the full CapsNet at batch 128 takes 30 s on two cores with `lax.conv`, and
1.1 to 2.0 s as patches times a matrix. In the frequency domain it takes a third of the
multiplications. On accelerators `lax.conv` is the fast one. PERFORMANCE.md has the measurements.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from capsjax.conv.fourier import conv2d_fourier, make_plan, multiplications
from capsjax.conv.patches import conv2d_patches, extract_patches
from capsjax.conv.sizes import check_fits, output_size
from capsjax.conv.strips import conv2d_strips, zeros_of_strips
from capsjax.products import OPERAND_TYPES, OperandType
from capsjax.registry import look_up

__all__ = [
    "FORMS",
    "check_fits",
    "choose_form",
    "conv2d",
    "extract_patches",
    "output_size",
]


def conv2d(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw c o"],
    stride: int = 1,
    form: str = "auto",
    dtype: OperandType = "float32",
) -> Float[Array, "n y x o"]:
    """Two-dimensional convolution (cross-correlation) without padding ("VALID").

        out[n, y, x, o] = Σ_{k, l, c} input[n, stride·y + k, stride·x + l, c] · kernel[k, l, c, o]

    Args:
      x: images, (n, h, w, c).
      kernel: (kh, kw, c, o).
      stride: the same for rows and columns.
      form: "patches" (patches times a matrix), "strips" (wide patches, each for a strip of
        outputs), "fourier" (in the frequency domain), "lax" (XLA's own), or "auto"
        (`choose_form`). They differ in rounding alone.
      dtype: what operands are rounded to; sums are float32. XLA's own form rounds its result too.

    Returns:
      (n, (h - kh) // stride + 1, (w - kw) // stride + 1, o).

    Raises:
      ValueError: if the image is smaller than the kernel, or the form or dtype is unknown.

    >>> conv2d(jnp.ones((1, 28, 28, 1)), jnp.ones((9, 9, 1, 4))).shape
    (1, 20, 20, 4)
    """
    check_fits(x.shape[1:3], kernel.shape[:2], "the convolution")
    look_up(OPERAND_TYPES, dtype, "number type of operands")
    if form == "auto":
        form = choose_form(x.shape, kernel.shape, stride)
    return look_up(FORMS, form, "form of convolution")(x, kernel, stride, dtype)


def choose_form(x: tuple[int, ...], kernel: tuple[int, ...], stride: int) -> str:
    """The form that suits those shapes and the default device: the one place that decides.

    >>> choose_form((128, 28, 28, 1), (9, 9, 1, 256), 1) == "fourier"
    False
    """
    if jax.default_backend() != "cpu":
        return "lax"
    (n, h, w, c), (kh, kw, _, o) = x, kernel
    plan = make_plan((h, w), (kh, kw), stride)
    direct = math.prod(plan.outputs) * kh * kw * c * o
    fewer = multiplications(plan, c, o, max(n, 1)) < FOURIER_PAYS_BELOW * direct
    if fewer:
        return "fourier"
    zeros = zeros_of_strips(plan.outputs[1], kw, stride, o)
    return "strips" if c <= STRIPS_PAY_TO and zeros < STRIPS_PAY_BELOW else "patches"


# The smaller products run at a lower rate, and the passes over memory between them cost as much as
# the passes over the patches.
FOURIER_PAYS_BELOW = 1.0
# Multiplications by zero that cost less than a number of the patches does, and the most channels
# for which that was measured.
STRIPS_PAY_BELOW, STRIPS_PAY_TO = 32, 3


def _conv2d_lax(x: Array, kernel: Array, stride: int, dtype: str) -> Array:
    x, kernel = x.astype(OPERAND_TYPES[dtype]), kernel.astype(OPERAND_TYPES[dtype])
    out = lax.conv_general_dilated(
        x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return out.astype(jnp.float32)


FORMS = {
    "patches": conv2d_patches,
    "strips": conv2d_strips,
    "fourier": conv2d_fourier,
    "lax": _conv2d_lax,
}
