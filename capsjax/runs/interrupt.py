"""Ctrl-C and SIGTERM, as a request to stop at the next good moment."""

import os
import signal
from types import FrameType


class Interrupt:
    """A block in which the first signal is noted, and a second Ctrl-C stops at once.

    Attributes:
      signal: the first signal received, or None.
    """

    def __init__(self):
        self.signal: signal.Signals | None = None
        self._previous = {}

    def __enter__(self) -> "Interrupt":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Not print: the signal may have interrupted one.
        message = f"\n{self.signal.name}: saving, then stopping (Ctrl-C again stops at once)\n"
        os.write(2, message.encode())
