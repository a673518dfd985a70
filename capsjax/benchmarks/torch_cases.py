"""Cases of PyTorch: training steps, inference and products of matrices. Imports torch."""

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch._dynamo
from ml_collections import ConfigDict

from capsjax.benchmarks.rows import TorchRow
from capsjax.benchmarks.timing import Prepared, Skipped, first_call
from capsjax.benchmarks.torch_capsnet import TorchCapsNet, loss_of

NUM_CLASSES = 10


@contextlib.contextmanager
def precision(name: str, device: str) -> Iterator[None]:
    """Compute in "float32", "tf32" or "bfloat16" (autocast, and TF32 for the rest)."""
    torch.backends.cuda.matmul.allow_tf32 = name != "float32"
    torch.backends.cudnn.allow_tf32 = name != "float32"
    with torch.autocast(device, torch.bfloat16, enabled=name == "bfloat16"):
        yield


def reset() -> None:
    """Forget what torch.compile has compiled, and let it keep a program for every row.

    By default it keeps a few programs for each function, and runs a function that needs more of
    them uncompiled, with only a warning: rows that are called compiled would not be.
    """
    torch.compiler.reset()
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.fail_on_recompile_limit_hit = True


def make_network(
    config: ConfigDict, image_shape: tuple[int, int, int], row: TorchRow, device: str
) -> TorchCapsNet:
    """Make the network of a config in the layout of a row."""
    torch.manual_seed(0)
    network = TorchCapsNet(config.model, image_shape, NUM_CLASSES).to(device)
    return network.to(memory_format=_layout(row))


def make_optimizer(network: torch.nn.Module, rate: float, device: str) -> torch.optim.Optimizer:
    """Make an Adam optimizer, on a GPU with one kernel for all parameters."""
    return torch.optim.Adam(network.parameters(), lr=rate, fused=True if device == "cuda" else None)


def prepare_training(
    config: ConfigDict,
    image_shape: tuple[int, int, int],
    row: TorchRow,
    device: str,
    network: TorchCapsNet | None = None,
) -> Prepared:
    """Prepare training steps with Adam, on a batch that is ready on the device.

    Args:
      config: config of the network, with its batch size and learning rate.
      image_shape: (h, w, c).
      row: precision, layout and mode of torch.compile.
      device: "cpu" or "cuda".
      network: network to train instead of a new one.
    """
    with _Memory(device) as memory:
        network = network or make_network(config, image_shape, row, device)
        images, labels = _batch(config.train.batch_size, image_shape, row, device)
        optimizer = make_optimizer(network, config.schedule.learning_rate, device)
        weight = config.loss_weights.reconstruction

        def loss(images, labels):
            return loss_of(network, images, labels, weight)

        forward = _compiled(loss, row)

        def step() -> None:
            optimizer.zero_grad()
            _begin_step(row, device)
            with precision(row.precision, device):
                value = forward(images, labels)
            value.backward()
            optimizer.step()

        def run(count: int) -> None:
            for _ in range(count):
                step()
            # The gradients may lie in memory of a CUDA graph, which the next row's graph reuses.
            optimizer.zero_grad()
            _wait(device)

        first, once = _first_calls(run, device)
    return Prepared(run, once, _facts(row, first, memory))


def prepare_inference(
    config: ConfigDict,
    image_shape: tuple[int, int, int],
    batch_size: int,
    row: TorchRow,
    device: str,
) -> Prepared:
    """Prepare inference on a ready batch: lengths and the longest capsule's reconstruction."""
    with _Memory(device) as memory:
        network = make_network(config, image_shape, row, device).eval()
        images, _ = _batch(batch_size, image_shape, row, device)
        forward = _compiled(network, row)

        def run(count: int) -> None:
            with torch.inference_mode(), precision(row.precision, device):
                for _ in range(count):
                    _begin_step(row, device)
                    forward(images)
            _wait(device)

        first, once = _first_calls(run, device)
    return Prepared(run, once, _facts(row, first, memory))


def prepare_product(size: int, name: str, device: str) -> Prepared:
    """Prepare the product of two square matrices in "float32", "tf32" or "bfloat16"."""
    dtype = torch.bfloat16 if name == "bfloat16" else torch.float32
    left, right = torch.randn(2, size, size, device=device).to(dtype)

    def run(count: int) -> None:
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        with torch.inference_mode():
            for _ in range(count):
                left @ right
        _wait(device)

    return Prepared(run, first_call(run), {})


def check_device(device: str) -> None:
    """Raise Skipped if PyTorch cannot use the device that JAX uses."""
    if device not in ("cpu", "cuda"):
        raise Skipped(f"PyTorch is not measured on {device}")
    if device == "cuda" and not torch.cuda.is_available():
        raise Skipped("PyTorch is installed without CUDA, so it is not measured")


def _compiled(function: Callable, row: TorchRow) -> Callable:
    return torch.compile(function, mode=row.mode) if row.compiled else function


def _begin_step(row: TorchRow, device: str) -> None:
    """Tell CUDA graphs that the outputs of the last step will not be read again."""
    if row.graphs and device == "cuda":
        torch.compiler.cudagraph_mark_step_begin()


def _first_calls(run: Callable[[int], None], device: str) -> tuple[float, float]:
    """Return the seconds of the first call, and of one that is like all that follow.

    On a GPU the first call loads libraries and chooses kernels, and a CUDA graph is recorded at
    the second: a failure there is noted like a failure to compile.
    """
    first = first_call(run)
    if device != "cuda":
        return first, first
    run(3)
    return first, first_call(run)


class _Memory:
    """Peak of the bytes allocated on the GPU within the block; None on a CPU."""

    def __init__(self, device: str):
        self._cuda, self.bytes = device == "cuda", None

    def __enter__(self) -> "_Memory":
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        return self

    def __exit__(self, *_) -> None:
        if self._cuda:
            self.bytes = torch.cuda.max_memory_allocated() - self._before


def _batch(batch_size: int, image_shape: tuple[int, int, int], row: TorchRow, device: str):
    height, width, channels = image_shape
    images = torch.rand(batch_size, channels, height, width, device=device)
    labels = torch.randint(NUM_CLASSES, (batch_size,), device=device)
    return images.to(memory_format=_layout(row)), labels


def _layout(row: TorchRow) -> torch.memory_format:
    return torch.channels_last if row.channels_last else torch.contiguous_format


def _facts(row: TorchRow, first_seconds: float, memory: _Memory) -> dict:
    facts = {} if memory.bytes is None else {"memory_bytes": memory.bytes}
    # torch.compile compiles at the first call: forward, backward and one step together.
    return {**facts, "compile_seconds": first_seconds} if row.compiled else facts


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
