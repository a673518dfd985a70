"""Metrics on disk: one JSON object per line, with its checksum, and TensorBoard."""

import errno
import importlib.util
import json
import os
import shlex
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from capsjax.config.tagged import resolved
from capsjax.runs import processes
from capsjax.runs.files import naming, warn, write_text
from capsjax.runs.workdir import flatten

BOARD = "tensorboard"
# The note of a checkpoint about the lines of metrics before it.
LINES = "metrics_lines"


class MetricsWriter:
    """A writer that appends to metrics.jsonl and to TensorBoard's files.

    A run that resumes at a step writes again what it had written after that step, so those
    lines, and a partial line that a kill may have left, are removed first. TensorBoard is told to
    forget what it has of later steps.

    Args:
      directory: folder of the run.
      tensorboard: whether to write for TensorBoard, in `directory`/tensorboard.
      resume_step: step from which the run resumes; 0 for a new one.
      num_lines: lines that were written up to this step; a loss of some is reported.
    """

    def __init__(
        self,
        directory: Path,
        tensorboard: bool = True,
        resume_step: int = 0,
        num_lines: int = 0,
    ):
        self._path = path = directory / "metrics.jsonl"
        kept = [record for record in read_metrics(directory) if record["step"] <= resume_step]
        if path.exists():
            write_text(path, "".join(_line(record) for record in kept))
        if len(kept) < num_lines:
            warn(
                f"{path} has {len(kept)} of the {num_lines} lines that were written up to step "
                f"{resume_step}: the others are missing from the curves, and nothing else is lost"
            )
        self._num_lines = len(kept)
        self._file = path.open("a", encoding="utf-8")
        self._board = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(
                str(directory / BOARD),
                # What is written at step 0, before the first one, is written by new runs alone.
                purge_step=resume_step + 1 if resume_step else 0,
                # Two starts within a second would have the same file.
                filename_suffix=f".{resume_step}",
            )

    def write(self, step: int, epoch: float, split: str, metrics: Mapping[str, float]) -> None:
        """Write and flush the metrics of one part of the data at one step."""
        with naming(self._path):
            self._file.write(_line({"step": step, "epoch": epoch, "split": split, **metrics}))
            self._file.flush()
        self._num_lines += 1

        def put(board):
            for name, value in metrics.items():
                board.add_scalar(f"{split}/{name}", value, step)

        self._on_board(put)

    def write_text(self, name: str, text: str) -> None:
        """Write a text for TensorBoard, before the first step."""
        self._on_board(lambda board: board.add_text(name, text, 0))

    def write_picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Write a picture for TensorBoard, uint8, (h, w, 3)."""
        self._on_board(lambda board: board.add_image(name, picture, step, dataformats="HWC"))

    def sync(self) -> int:
        """Wait until a power cut would lose no line, and return the number of lines."""
        with naming(self._path):
            os.fsync(self._file.fileno())
        return self._num_lines

    def close(self) -> None:
        with naming(self._path):
            self._file.close()
        if self._board is not None:
            with naming(self._path.parent / BOARD):
                self._board.close()

    def _on_board(self, put: Callable[[Any], None]) -> None:
        """Write for TensorBoard, if that is asked for, and flush it."""
        if self._board is not None:
            with naming(self._path.parent / BOARD):
                _check_alive(self._board)
                put(self._board)
                self._board.flush()


def _check_alive(board: Any) -> None:
    """Raise OSError if the thread that writes has ended: its queue would wait for it for ever."""
    if not board.file_writer.event_writer._worker.is_alive():
        raise OSError(errno.EIO, "TensorBoard's writer has stopped, as it does on a full disk")


class NoWriter:
    """A replacement for MetricsWriter in processes that write nothing."""

    def write(self, step: int, epoch: float, split: str, metrics: Mapping[str, float]) -> None:
        pass

    def write_text(self, name: str, text: str) -> None:
        pass

    def write_picture(self, step: int, name: str, picture: np.ndarray) -> None:
        pass

    def sync(self) -> int:
        return 0

    def close(self) -> None:
        pass


def open_writer(
    folder: Path, config: ConfigDict, step: int, num_lines: int = 0
) -> MetricsWriter | NoWriter:
    """Open the writer of a run; before its first step, TensorBoard gets the config.

    Args:
      folder: folder of the run.
      config: config of the run.
      step: step from which it goes on; 0 for a new one.
      num_lines: lines of metrics that were written up to this step.
    """
    if not processes.is_primary():
        return NoWriter()
    writer = MetricsWriter(folder, config.log.tensorboard, step, num_lines)
    if step == 0:
        fields = flatten(resolved(config)).items()
        # Markdown shows what is indented as it stands.
        writer.write_text("config", "\n".join(f"    {name} = {value!r}" for name, value in fields))
    return writer


def describe_board(folder: Path) -> str:
    """Describe how to look at what is written for TensorBoard in a folder and in those below it."""
    line = f"curves and pictures: tensorboard --logdir={shlex.quote(str(folder))}"
    if importlib.util.find_spec("tensorboard") is None:
        line += " (TensorBoard is not installed: pip install tensorboard)"
    return line


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """Read all whole lines of metrics.jsonl, in order; none if there is no such file.

    Damaged ones are left out with a warning, but for a last line that a kill cut off: the run
    writes it again.
    """
    path = directory / "metrics.jsonl"
    if not path.exists():
        return []
    *lines, last = path.read_bytes().split(b"\n")
    records = [_record(line) for line in lines]
    damaged = [number for number, record in enumerate(records, 1) if record is None]
    for number in damaged:
        warn(f"{path} is damaged: line {number} is no whole record of metrics, and is left out")
    return [record for record in [*records, _record(last)] if record is not None]


def _record(line: bytes) -> dict[str, Any] | None:
    """Read a line; None if it is none of `MetricsWriter`, or was changed."""
    try:
        record = json.loads(line.decode("utf-8"))
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    # Lines of older runs have none.
    if "crc32" in record and record.pop("crc32") != _checksum(record):
        return None
    types = {"step": int, "epoch": float, "split": str}
    known = types.keys() <= record.keys()
    whole = all(isinstance(value, types.get(name, int | float)) for name, value in record.items())
    return record if known and whole else None


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps({**record, "crc32": _checksum(record)}) + "\n"


def _checksum(record: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(record).encode())
