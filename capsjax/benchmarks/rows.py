"""The rows of the benchmarks: the forms of each library that are measured on each device."""

from typing import NamedTuple

# The plain reference form of capsjax, the form that it chooses itself, and XLA's own convolutions.
PLAIN = {"conv": "patches", "votes": "held"}
FAST = {"conv": "auto", "votes": "auto"}
LAX = {"conv": "lax", "votes": "held"}

INSTALL = 'PyTorch is not installed, so it is not measured: `pip install -e ".[bench]"`'


class CapsjaxRow(NamedTuple):
    """A form of capsjax to measure.

    Attributes:
      name: name in the table.
      precision: "float32", "tf32" or "bfloat16".
      compute: fields of `config.model.compute`.
    """

    name: str
    precision: str
    compute: dict[str, str]


# Modes of torch.compile that record CUDA graphs and replay them.
GRAPH_MODES = ("reduce-overhead", "max-autotune")


class TorchRow(NamedTuple):
    """A form of PyTorch to measure.

    Attributes:
      precision: "float32", "tf32" or "bfloat16" (autocast).
      channels_last: whether images and kernels have this layout.
      mode: mode of torch.compile: "default", "reduce-overhead" or "max-autotune"; "" for none.
    """

    precision: str
    channels_last: bool = False
    mode: str = ""

    @property
    def compiled(self) -> bool:
        """Whether torch.compile is used."""
        return bool(self.mode)

    @property
    def graphs(self) -> bool:
        """Whether CUDA graphs are used, on a GPU."""
        return self.mode in GRAPH_MODES

    @property
    def layout(self) -> str:
        """Layout and torch.compile, for people."""
        layout = "channels_last" if self.channels_last else "default layout"
        if not self.compiled:
            return layout
        return f"{layout}, torch.compile{'' if self.mode == 'default' else f' {self.mode}'}"

    @property
    def name(self) -> str:
        """Name in the table."""
        titles = {"float32": "float32", "tf32": "TF32", "bfloat16": "bfloat16 autocast"}
        return f"PyTorch {titles[self.precision]}, {self.layout}"


def capsjax_rows(device: str, quick: bool = False) -> list[CapsjaxRow]:
    """Return the rows of capsjax on "cpu" or "cuda"; if `quick`, on a GPU, none in full float32."""
    bfloat16 = capsjax_row("capsjax bfloat16", "bfloat16", FAST)
    exact = [
        capsjax_row("capsjax float32, plain", "float32", PLAIN),
        capsjax_row("capsjax float32", "float32", FAST),
    ]
    if device != "cuda":
        return [*exact, bfloat16]
    return [
        *([] if quick else exact),
        capsjax_row("capsjax TF32", "tf32", FAST),
        capsjax_row("capsjax bfloat16, lax", "bfloat16", LAX),
        bfloat16,
    ]


def automatic_rows(device: str) -> list[CapsjaxRow]:
    """Return the quick rows whose form is the one that capsjax chooses itself."""
    return [row for row in capsjax_rows(device, True) if row.compute.items() >= FAST.items()]


def default_row(device: str) -> CapsjaxRow:
    """Return the row that stands for a device: bfloat16 on a GPU, float32 elsewhere."""
    name = "capsjax bfloat16" if device == "cuda" else "capsjax float32"
    return next(row for row in capsjax_rows(device) if row.name == name)


def capsjax_row(name: str, precision: str, form: dict[str, str]) -> CapsjaxRow:
    """Make a row of a form in a precision."""
    return CapsjaxRow(name, precision, {"dtype": precision, **form})


def torch_rows(device: str, quick: bool) -> list[TorchRow]:
    """Return the rows of PyTorch on "cpu" or "cuda"."""
    if device == "cuda":
        return _torch_rows_of_a_gpu(quick)
    if quick:
        return [TorchRow("float32"), TorchRow("float32", True), TorchRow("bfloat16", True)]
    layouts = (False, True)
    rows = [TorchRow(precision, last) for precision in ("float32", "bfloat16") for last in layouts]
    return rows + [TorchRow("float32", last, "default") for last in layouts]


def _torch_rows_of_a_gpu(quick: bool) -> list[TorchRow]:
    """Return the rows of PyTorch that a user would pick on a GPU.

    torch.compile is measured in the precisions that people train in, not full float32. CUDA graphs
    alone ("reduce-overhead") compile faster than "max-autotune", which also tries out kernels, so
    the quick measurement leaves out the latter.
    """
    precisions, layouts = ("tf32", "bfloat16"), (False, True)
    if quick:
        modes = ("", "default", "reduce-overhead")
        return [TorchRow(precision, True, mode) for mode in modes for precision in precisions]
    rows = [TorchRow(precision, last) for precision in ("float32", *precisions) for last in layouts]
    for mode in ("default", "reduce-overhead", "max-autotune"):
        for precision in precisions:
            # CUDA graphs do not change the kernels: the faster layout is enough for them.
            chosen = (True,) if mode == "reduce-overhead" else layouts
            rows += [TorchRow(precision, last, mode) for last in chosen]
    return rows
