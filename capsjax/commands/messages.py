"""Errors as one line for a person, and silence for what libraries print of the same errors."""

import errno
import logging
import sys
import threading
import traceback
from pathlib import Path
from types import TracebackType

_ROOM = "Make room there, then start the same command again"
_RIGHTS = "Check whose it is and whether it may be written, or name another folder"
# What to do about errors of the system, by their number.
REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f), then start the command again",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EIO: "If the disk is full, make room; then start the same command again",
    errno.EROFS: "It is on a disk that cannot be written: copy the folder, or name another one",
}


def one_line(error: Exception) -> str:
    """Return the message of an error, without the wrapping of the libraries between.

    >>> one_line(OSError(errno.ENOSPC, "No space left on device", "runs/a/env.json"))[:53]
    "[Errno 28] No space left on device: 'runs/a/env.json'"
    """
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    if isinstance(error, OSError) and error.errno in REMEDIES:
        return f"{error}. {REMEDIES[error.errno]}"
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines) or type(error).__name__


def in_config_file(error: Exception, file: str) -> str:
    """Return the message of an error that a config file raised, with the place of anything odd.

    A ValueError is meant for people and stands for itself.
    """
    if type(error) is ValueError:
        return one_line(error)
    if isinstance(error, SyntaxError):
        lines, message = [error.lineno], error.msg
    else:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [each.lineno for each in frames if Path(each.filename) == Path(file).absolute()]
        message = one_line(error)
    place = f"{file}, line {lines[-1]}" if lines else file
    return f"the config file raises an error ({place}): {type(error).__name__}: {message}"


def leave_errors_to_one_line() -> None:
    """Silence what libraries print of errors in their threads and of forgotten tasks.

    A full disk makes Orbax, tensorstore and asyncio print hundreds of lines beside the one in which
    the command itself reports the error.
    """
    sys.excepthook = _report_of_main_thread
    sys.unraisablehook = threading.excepthook = lambda _: None
    logging.getLogger("absl").addFilter(_has_no_traceback)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)


def _report_of_main_thread(
    kind: type[BaseException], error: BaseException, origin: TracebackType | None
) -> None:
    if threading.current_thread() is threading.main_thread():
        sys.__excepthook__(kind, error, origin)


def _has_no_traceback(record: logging.LogRecord) -> bool:
    return not record.exc_info
