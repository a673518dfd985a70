"""Metrics on disk: one JSON object per line, and TensorBoard."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capsjax.runs.files import write_text


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
        path = directory / "metrics.jsonl"
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
        self._file.write(_line({"step": step, "epoch": epoch, "split": split, **metrics}))
        self._file.flush()
        if self._board is not None:
            for name, value in metrics.items():
                self._board.add_scalar(f"{split}/{name}", value, step)
            self._board.flush()

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


class NoWriter:
    """A replacement for MetricsWriter in processes that write nothing."""

    def write(self, step: int, epoch: float, split: str, metrics: Mapping[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """Read all whole lines of metrics.jsonl, in order; none if there is no such file."""
    path = directory / "metrics.jsonl"
    records = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue  # cut off by a kill; the run writes it again
            if isinstance(record, dict):
                records.append(record)
    return records


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record) + "\n"
