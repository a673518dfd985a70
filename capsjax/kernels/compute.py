"""How a network is computed: settings that change its results by rounding only."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from capsjax.kernels.conv import FORMS, choose_form
from capsjax.products import OPERAND_TYPES, OperandType
from capsjax.registry import look_up

# Number types, and the precision of JAX's products where float32 means more than one thing: on a
# GPU, which rounds the operands of float32 products to TF32 unless told otherwise.
DTYPES = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": None}
VOTES = dict.fromkeys(("auto", "held", "recomputed"))
# What a model's `chosen_forms` has besides the forms of its convolutions by layer name.
NOT_LAYERS = ("dtype", "votes")


@dataclasses.dataclass(frozen=True)
class Compute:
    """Settings of the computations in a network's layers.

    Attributes:
      dtype: type that the operands of convolutions and votes are rounded to: "float32"; "tf32",
        which is float32 on a machine without such products; "bfloat16"; or "auto", the fastest of
        them. Parameters, sums, squash, routing logits, dense decoders, losses and the votes of
        matrices of a pose's size are always float32. On an accelerator, results of products that
        are operands themselves are rounded too, as are the gradients of kernels and matrices, and
        with "bfloat16" the decoder's products are in TF32.
      conv: form of all convolutions, see `capsjax.kernels.conv.conv2d`, or of each by layer name:
        "conv:gathered,primary_caps:fourier". Layers that are not named have "auto".
      votes: "held" in memory for the whole batch; "recomputed" where routing needs them and never
        held, or held for a few images at a time (for routing algorithms that can); or "auto".

    Raises:
      ValueError: for an unknown value; the message names the nearest one.
    """

    dtype: str = "float32"
    conv: str = "auto"
    votes: str = "auto"

    def __post_init__(self):
        look_up({"auto": None, **DTYPES}, self.dtype, "number type (model.compute.dtype)")
        for form in self._forms().values():
            look_up({"auto": None, **FORMS}, form, "form of convolution (model.compute.conv)")
        look_up(VOTES, self.votes, "vote mode (model.compute.votes)")

    @property
    def chosen_dtype(self) -> str:
        """The dtype, with "auto" resolved for this machine."""
        return fastest_dtype() if self.dtype == "auto" else self.dtype

    @property
    def operands(self) -> OperandType:
        """Type that operands are rounded to before multiplication."""
        return self.chosen_dtype if self.chosen_dtype in OPERAND_TYPES else "float32"

    @property
    def matmul_precision(self) -> str | None:
        """Precision of float32 products, as `jax.default_matmul_precision` takes it."""
        return None if jax.default_backend() == "cpu" else DTYPES[self.chosen_dtype]

    def in_precision(self, function: Callable) -> Callable:
        """Wrap a function so that it is traced with `matmul_precision`."""

        @functools.wraps(function)
        def traced(*arguments, **settings):
            with jax.default_matmul_precision(self.matmul_precision):
                return function(*arguments, **settings)

        return traced

    @property
    def layers(self) -> list[str]:
        """Names of the layers whose convolutions have a form of their own."""
        return [name for name in self._forms() if name]

    def of_layer(self, name: str) -> "Compute":
        """Return the settings of one convolution, with its own form or that of all."""
        forms = self._forms()
        return dataclasses.replace(self, conv=forms.get("", forms.get(name, "auto")))

    def form_of(self, x: tuple[int, ...], kernel: tuple[int, ...], stride: int) -> str:
        """Return the form of one convolution of given shapes, with "auto" resolved as by conv2d."""
        if self.conv != "auto":
            return self.conv
        return choose_form(x, kernel, stride, self.operands)

    def recomputes_votes(self, routing, n: Any = 1) -> bool:
        """Return whether a routing algorithm recomputes its votes: the one place that decides.

        It does where it can: routing is then four times as fast on a CPU, a training step of the
        paper's network takes a sixth less time on a GPU, and large images need no more memory than
        a group of them does.

        Args:
          routing: a routing algorithm.
          n: number of images. A program that is exported for any number of them, which is a symbol
            there, is one for other devices, too, and holds its votes.

        Raises:
          ValueError: if it is required to and cannot.
        """
        can = hasattr(routing, "route_poses")
        if self.votes == "recomputed" and not can and not _can_group(routing):
            raise ValueError(
                f"{type(routing).__name__} has no form that recomputes its votes: "
                "model.compute.votes is 'held' or 'auto'"
            )
        return can and self.votes != "held" and not jax.export.is_symbolic_dim(n)

    def routes_in_groups(self, routing) -> bool:
        """Return whether a layer routes groups of images, with the votes of one group at a time.

        Algorithms that pass over the votes many times, those with `IN_GROUPS`, then find them in
        the cache of a CPU: a training step takes a third of the time, and little memory.
        """
        chosen = self.votes == "recomputed" or (
            self.votes == "auto" and jax.default_backend() == "cpu"
        )
        return chosen and _can_group(routing)

    def grouped_or_held(self, routing) -> "Compute":
        """Return the settings of layers that route in groups where they can and hold votes else.

        All layers of a network have this one form, so that a run resumes in it.
        """
        votes = "recomputed" if self.routes_in_groups(routing) else "held"
        return dataclasses.replace(self, votes=votes)

    def form_of_votes(self, routing) -> str:
        """Return the form of a layer's votes, "recomputed" or "held", with "auto" resolved."""
        recomputed = self.recomputes_votes(routing) or self.routes_in_groups(routing)
        return "recomputed" if recomputed else "held"

    def _forms(self) -> dict[str, str]:
        """Return the forms by layer name, with "" for all layers."""
        if ":" not in self.conv:
            return {"": self.conv}
        return dict(part.strip().partition(":")[::2] for part in self.conv.split(","))


def _can_group(routing) -> bool:
    return getattr(routing, "IN_GROUPS", False)


def fastest_dtype() -> str:
    """Return the number type of operands that this machine computes fastest with."""
    fast = jax.default_backend() != "cpu" or processor_multiplies_bfloat16()
    return "bfloat16" if fast else "float32"


@functools.cache
def processor_multiplies_bfloat16() -> bool:
    """Return whether Linux reports that the processor has instructions for bfloat16 products."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def completed_forms(forms: Mapping[str, str], chosen: Mapping[str, str]) -> dict[str, str]:
    """Return the forms that a run began with, and that of votes if there was one only.

    Args:
      forms: what a model's `chosen_forms` returned when the run began.
      chosen: what they return now. Networks that had no form of votes to choose held them.

    >>> completed_forms({"conv": "lax"}, {"conv": "phases", "votes": "recomputed"})
    {'votes': 'held', 'conv': 'lax'}
    """
    return {**({"votes": "held"} if "votes" in chosen else {}), **forms}


def with_forms(settings: Mapping[str, str], forms: Mapping[str, str]) -> dict[str, str]:
    """Return settings of `Compute` with the chosen forms in place of "auto".

    Args:
      settings: fields of `config.model.compute`.
      forms: a model's `chosen_forms`: "dtype", "votes" if it has any, and the form of each
        convolution by layer name.

    >>> with_forms({"dtype": "auto", "conv": "auto"}, {"dtype": "float32", "conv_0": "lax"})
    {'dtype': 'float32', 'conv': 'conv_0:lax'}
    """
    # A layer may be called "conv", like the field for all layers.
    layers = ",".join(f"{name}:{form}" for name, form in forms.items() if name not in NOT_LAYERS)
    chosen = {name: forms[name] for name in NOT_LAYERS if name in forms}
    # A network of a user's own may have no layer with several forms.
    return {**settings, **chosen, **({"conv": layers} if layers else {})}
