"""Which forms of which library are measured on which device."""

from typing import NamedTuple

# The plain reference form of capsjax and the form that it takes by itself.
PLAIN = {"conv": "patches", "votes": "held"}
FAST = {"conv": "auto", "votes": "auto"}

INSTALL = 'PyTorch is not installed, so it is not measured: `pip install -e ".[bench]"`'


class CapsjaxRow(NamedTuple):
    """Attributes:
    name: in the table.
    precision: "float32", "tf32" or "bfloat16".
    compute: fields of `config.model.compute`.
    matmul_precision: of `jax.default_matmul_precision`; None leaves JAX's default.
    """

    name: str
    precision: str
    compute: dict[str, str]
    matmul_precision: str | None = None


class TorchRow(NamedTuple):
    """Attributes:
    precision: "float32", "tf32" or "bfloat16" (autocast).
    channels_last: layout of images and kernels.
    compiled: with torch.compile.
    """

    precision: str
    channels_last: bool = False
    compiled: bool = False

    @property
    def layout(self) -> str:
        """Layout and torch.compile, for people."""
        layout = "channels_last" if self.channels_last else "default layout"
        return f"{layout}, torch.compile" if self.compiled else layout

    @property
    def name(self) -> str:
        """In the table."""
        titles = {"float32": "float32", "tf32": "TF32", "bfloat16": "bfloat16 autocast"}
        return f"PyTorch {titles[self.precision]}, {self.layout}"


def capsjax_rows(device: str) -> list[CapsjaxRow]:
    """The rows of capsjax on "cpu" or "cuda".

    A GPU multiplies float32 matrices in TF32 unless told not to, so there it is told both.
    """
    exact, rows = None, []
    if device == "cuda":
        exact = "highest"
        rows = [CapsjaxRow("capsjax TF32", "tf32", {"dtype": "float32", **FAST}, "tensorfloat32")]
    return [
        CapsjaxRow("capsjax float32, plain", "float32", {"dtype": "float32", **PLAIN}, exact),
        CapsjaxRow("capsjax float32", "float32", {"dtype": "float32", **FAST}, exact),
        *rows,
        CapsjaxRow("capsjax bfloat16", "bfloat16", {"dtype": "bfloat16", **FAST}),
    ]


def torch_rows(device: str, quick: bool) -> list[TorchRow]:
    """The rows of PyTorch on "cpu" or "cuda"."""
    if quick:
        rows = [TorchRow("float32"), TorchRow("float32", True), TorchRow("bfloat16", True)]
        return [*rows, TorchRow("tf32", True)] if device == "cuda" else rows
    if device == "cuda":
        # torch.compile is given the precisions that people train in: on a GPU not full float32.
        eager, compiled = ("float32", "tf32", "bfloat16"), ("tf32", "bfloat16")
    else:
        eager, compiled = ("float32", "bfloat16"), ("float32",)
    layouts = (False, True)
    rows = [TorchRow(precision, layout) for precision in eager for layout in layouts]
    return rows + [
        TorchRow(precision, layout, True) for precision in compiled for layout in layouts
    ]
