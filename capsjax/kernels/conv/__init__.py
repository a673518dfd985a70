"""Convolution in whichever form is fast on the machine.

XLA's CPU backend has no fast path for the gradients of a convolution with many channels: one
training step of the full CapsNet at batch 128 takes 30 s on two cores with `lax.conv`, and
1.1 to 2.0 s as patches times a matrix. In the frequency domain it takes a third of the
multiplications. On a GPU cuDNN is fast only at stride 1, and slower than the frequency domain for
large kernels. PERFORMANCE.md has the measurements.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from capsjax.kernels.conv.depthwise import depthwise_conv2d
from capsjax.kernels.conv.fourier import conv2d_fourier
from capsjax.kernels.conv.fused_fourier import conv2d_fused_fourier, fits
from capsjax.kernels.conv.gathered import conv2d_gathered
from capsjax.kernels.conv.patches import conv2d_patches, extract_patches
from capsjax.kernels.conv.phases import conv2d_phases
from capsjax.kernels.conv.plan import make_plan, multiplications
from capsjax.kernels.conv.sizes import check_channels, check_fits, output_size
from capsjax.kernels.conv.strips import conv2d_strips, zeros_of_strips
from capsjax.kernels.conv.transposed import border_of_transposed, transposed_conv2d
from capsjax.products import OPERAND_TYPES, OperandType
from capsjax.registry import look_up

__all__ = [
    "FORMS",
    "border_of_transposed",
    "check_fits",
    "choose_form",
    "conv2d",
    "depthwise_conv2d",
    "extract_patches",
    "output_size",
    "transposed_conv2d",
]


def conv2d(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw c o"],
    stride: int = 1,
    form: str = "auto",
    dtype: OperandType = "float32",
    bias: Float[Array, "o"] | None = None,
    rectify: bool = False,
) -> Float[Array, "n y x o"]:
    """Convolve (cross-correlate) images in two dimensions without padding ("VALID").

        out[n, y, x, o] = Σ_{k, l, c} input[n, stride·y + k, stride·x + l, c] · kernel[k, l, c, o]

    Args:
      x: images, (n, h, w, c).
      kernel: (kh, kw, c, o).
      stride: stride of both rows and columns.
      form: "patches" (patches times a matrix), "strips" (wide patches, each for a strip of
        outputs), "gathered" (patches for few channels on a GPU), "fourier" (in the frequency
        domain), "fused_fourier" (the same with kernels for a GPU, in bfloat16), "phases" (XLA's own
        at stride 1), "lax" (XLA's own), or "auto" (`choose_form`). They differ only in rounding.
      dtype: type that operands are rounded to; sums are float32. XLA's own form rounds its result
        too, as do all forms on accelerators.
      bias: added to every pixel, (o,); "gathered" rounds it as an operand.
      rectify: convolve relu(x).

    Returns:
      (n, (h - kh) // stride + 1, (w - kw) // stride + 1, o).

    Raises:
      ValueError: if the image is smaller than the kernel or has other channels, or the form or
        dtype is unknown.

    >>> conv2d(jnp.ones((1, 28, 28, 1)), jnp.ones((9, 9, 1, 4))).shape
    (1, 20, 20, 4)
    """
    check_fits(x.shape[1:3], kernel.shape[:2], "the convolution")
    check_channels(x.shape, kernel.shape, "the convolution")
    look_up(OPERAND_TYPES, dtype, "number type of operands")
    if form == "auto":
        form = choose_form(x.shape, kernel.shape, stride, dtype)
    convolve = look_up(FORMS, form, "form of convolution")
    if form == "fused_fourier":
        convolve = functools.partial(convolve, rectify=rectify)
    elif rectify:
        x = jax.nn.relu(x)
    if form == "gathered":
        return convolve(x, kernel, stride, dtype, bias)
    out = convolve(x, kernel, stride, dtype)
    return out if bias is None else out + bias.reshape(1, 1, 1, -1)


def choose_form(
    x: tuple[Any, ...], kernel: tuple[int, ...], stride: int, dtype: OperandType = "float32"
) -> str:
    """Choose the form for given shapes on the default device: the one place that decides.

    The number of images is a symbol in a program that is exported for any number of them.

    >>> choose_form((128, 28, 28, 1), (9, 9, 1, 256), 1) == "fourier"
    False
    """
    (n, h, w, c), (kh, kw, _, o) = x, kernel
    backend = jax.default_backend()
    # A program for any number of images is one for other devices, too.
    if backend not in FOURIER_PAYS_BELOW or jax.export.is_symbolic_dim(n):
        return "lax"
    plan = make_plan((h, w), (kh, kw), stride)
    direct = math.prod(plan.outputs) * kh * kw * c * o
    fewer = multiplications(plan, c, o, max(n, 1)) < FOURIER_PAYS_BELOW[backend] * direct
    if backend == "cpu":
        zeros = zeros_of_strips(plan.outputs[1], kw, stride, o)
        few = c <= STRIPS_PAY_TO and zeros < STRIPS_PAY_BELOW
        return "fourier" if fewer else "strips" if few else "patches"
    if kh * kw * c <= MOST_GATHERED:
        return "gathered"
    if fewer and dtype == "bfloat16" and fits(x, kernel, stride):
        return "fused_fourier"
    return "fourier" if fewer else "phases"


# Share of the direct form's multiplications below which the frequency domain is faster. Its
# smaller products run at a lower rate; on a CPU the passes over memory between them cost as much
# as the passes over the patches, and on a GPU cuDNN makes no such passes.
FOURIER_PAYS_BELOW = {"cpu": 1.0, "gpu": 0.6}
# Multiplications by zero that cost less than one number of the patches on a CPU, and the most
# channels for which that was measured.
STRIPS_PAY_BELOW, STRIPS_PAY_TO = 32, 3
# Largest patch, in numbers, for which cuDNN is slower than patches times a matrix.
MOST_GATHERED = 128


def _conv2d_lax(x: Array, kernel: Array, stride: int, dtype: str) -> Array:
    x, kernel = x.astype(OPERAND_TYPES[dtype]), kernel.astype(OPERAND_TYPES[dtype])
    out = lax.conv_general_dilated(
        x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return out.astype(jnp.float32)


FORMS = {
    "patches": conv2d_patches,
    "strips": conv2d_strips,
    "gathered": conv2d_gathered,
    "fourier": conv2d_fourier,
    "fused_fourier": conv2d_fused_fourier,
    "phases": conv2d_phases,
    "lax": _conv2d_lax,
}
