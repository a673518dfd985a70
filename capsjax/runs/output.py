"""What a program prints, on a full disk or into a closed pipe too."""

import contextlib
import datetime
import io
import sys
from pathlib import Path
from typing import Any

STANDARD_OUTPUT = "standard output"
LOG = "log.txt"


class Output:
    """A text stream that can be replaced by a log when it cannot be written any more.

    Everything else is asked of the stream itself.

    Args:
      stream: the stream.
      name: its name in messages.
    """

    def __init__(self, stream: io.TextIOBase, name: str):
        self._stream, self._name, self._unwritten = stream, name, ""
        self._log: Path | None = None
        self._failed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def fall_back_to(self, log: Path) -> None:
        """Write to a log from the first error on, instead of raising it."""
        self._log = log

    def write(self, text: str) -> int:
        """Write text: whole lines at once, the rest with the next line or `flush`."""
        self._unwritten += text
        if "\n" in text:
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Write what has not been written yet.

        Raises:
          OSError: at the first error of a stream without a log; it names the stream.
        """
        text, self._unwritten = self._unwritten, ""
        if not self._failed:
            try:
                self._stream.write(text)
                self._stream.flush()
                return
            except OSError as error:
                if not text:
                    return  # nothing is lost yet
                self._failed, error.filename = True, self._name
                if self._log is None:
                    raise
                text = f"{_now()}: {error}; what follows would have been printed there\n{text}"
                if self is not sys.stderr:
                    sys.stderr.write(f"{error}; going on, and printing to {self._log}\n")
        # A progress bar is nothing for a log.
        if self._log is not None and text and "\r" not in text:
            with contextlib.suppress(OSError), self._log.open("a", encoding="utf-8") as file:
                file.write(text)


def watch_output() -> None:
    """Make standard output and standard error streams that name themselves in their errors."""
    sys.stdout = Output(sys.stdout, STANDARD_OUTPUT)
    sys.stderr = Output(sys.stderr, "standard error")


def outlive_output(folder: Path) -> None:
    """Let a run go on when what it prints cannot be written any more: it goes to a log then.

    Args:
      folder: folder of the run; the log in it is made when it is needed.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, Output):
            stream.fall_back_to(folder / LOG)


def _now() -> str:
    return datetime.datetime.now().isoformat(sep=" ", timespec="seconds")
