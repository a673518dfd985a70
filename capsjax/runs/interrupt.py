"""Signals: a request to stop a run at the next good moment, or a program at once."""

import contextlib
import os
import signal
import socket
import threading
from types import FrameType

# Ctrl-C, a scheduler's end, a closed terminal, and Slurm's warning before the end (--signal=USR1).
# Not every system has all of them.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


def signals_to_handle() -> list[signal.Signals]:
    """Return the signals that ask a program to end, without a SIGHUP that is ignored (nohup)."""
    return [
        number
        for number in SIGNALS
        if number.name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN
    ]


class Interrupt:
    """A block in which the first signal is noted, and a second Ctrl-C stops at once.

    SIGHUP stays ignored where it was, as under nohup.

    Attributes:
      signal: the first signal received, or None.
    """

    # How often Ctrl-C was noted in all blocks, for `exit_at_ctrl_c`.
    noted = 0

    def __init__(self):
        self.signal: signal.Signals | None = None
        self._previous = {}

    def __enter__(self) -> "Interrupt":
        for number in signals_to_handle():
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        Interrupt.noted += number == signal.SIGINT
        before = self._previous[signal.SIGINT]
        signal.signal(signal.SIGINT, before if callable(before) else signal.default_int_handler)
        # Not print: the signal may have interrupted one. Nobody reads it where the terminal closed.
        message = f"\n{self.signal.name}: saving, then stopping (Ctrl-C again stops at once)\n"
        with contextlib.suppress(OSError):
            os.write(2, message.encode())


def exit_at_ctrl_c() -> None:
    """Let Ctrl-C end this program at once, with the line "interrupted" and status 130.

    KeyboardInterrupt does not: it is lost where a library catches all errors, and it waits for the
    end of a compilation, as Python's handlers run in the main thread alone. Hence another thread
    that waits for the signal, unless another handler takes its place. `Interrupt` does for the
    first one.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.signal(signal.SIGINT, _leave_to_thread)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    threading.Thread(target=_exit_at_signal, args=(reader,), daemon=True).start()


def _exit_at_signal(reader: socket.socket) -> None:
    received = 0
    while True:
        received += reader.recv(1)[0] == signal.SIGINT
        # Not the handler alone: the one of `Interrupt` may have run already, and gone.
        ours = signal.getsignal(signal.SIGINT) is _leave_to_thread
        if ours and received > Interrupt.noted:
            with contextlib.suppress(OSError):
                os.write(2, b"interrupted\n")
            os._exit(128 + signal.SIGINT)


def _leave_to_thread(number: int, frame: FrameType | None) -> None:
    """Do nothing: Python writes to the wakeup descriptor only for signals that have a handler."""
