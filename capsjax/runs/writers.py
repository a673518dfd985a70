"""Metrics on disk: one JSON object per line, with its checksum, and TensorBoard."""

import errno
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capsjax.runs.files import naming, warn, write_text


class MetricsWriter:
    """A writer that appends to metrics.jsonl and to TensorBoard's files.

    A run that resumes at a step writes again what it had written after that step, so those
    lines, and a partial line that a kill may have left, are removed first.

    Args:
      directory: folder of the run.
      tensorboard: whether to write for TensorBoard, in `directory`/tensorboard.
      resume_step: step from which the run resumes; 0 for a new one.
    """

    def __init__(self, directory: Path, tensorboard: bool = True, resume_step: int = 0):
        self._path = path = directory / "metrics.jsonl"
        if path.exists():
            kept = [record for record in read_metrics(directory) if record["step"] <= resume_step]
            write_text(path, "".join(_line(record) for record in kept))
        self._file = path.open("a", encoding="utf-8")
        self._board = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(
                str(directory / "tensorboard"), purge_step=resume_step + 1 if resume_step else None
            )

    def write(self, step: int, epoch: float, split: str, metrics: Mapping[str, float]) -> None:
        """Write and flush the metrics of one part of the data at one step."""
        with naming(self._path):
            self._file.write(_line({"step": step, "epoch": epoch, "split": split, **metrics}))
            self._file.flush()
        if self._board is not None:
            with naming(self._path.parent / "tensorboard"):
                _check_alive(self._board)
                for name, value in metrics.items():
                    self._board.add_scalar(f"{split}/{name}", value, step)
                self._board.flush()

    def close(self) -> None:
        with naming(self._path):
            self._file.close()
        if self._board is not None:
            with naming(self._path.parent / "tensorboard"):
                self._board.close()


def _check_alive(board: Any) -> None:
    """Raise OSError if the thread that writes has ended: its queue would wait for it for ever."""
    if not board.file_writer.event_writer._worker.is_alive():
        raise OSError(errno.EIO, "TensorBoard's writer has stopped, as it does on a full disk")


class NoWriter:
    """A replacement for MetricsWriter in processes that write nothing."""

    def write(self, step: int, epoch: float, split: str, metrics: Mapping[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


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
