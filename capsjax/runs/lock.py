"""The lock on the folder of a run: one program at a time trains in it."""

import contextlib
import datetime
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from capsjax.runs import processes
from capsjax.runs.files import WorkdirError, make_folder

LOCK = "lock"


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Make a folder, and hold its lock in the block; process 0 does, for all of a run.

    Raises:
      WorkdirError: if another program holds it, or the folder cannot be made.
    """
    lock = FolderLock(folder)
    processes.on_primary(lock.acquire)
    try:
        yield
    finally:
        lock.release()


class FolderLock:
    """The right to write in a folder, which one program has at a time.

    The system keeps it (flock), across machines too, and takes it from a program that dies. The
    file names the holder for the message to others. Where the disk knows no such locks, the file
    alone counts, unless it names a process of this machine that is gone.

    Args:
      folder: the folder, which is made if there is none.
    """

    def __init__(self, folder: Path):
        self._folder, self._path = folder, folder / LOCK
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
          WorkdirError: if another program holds it; the message names it.
        """
        make_folder(self._folder)
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            if self._is_taken(descriptor):
                os.close(descriptor)
                raise WorkdirError(self._refusal())
            if self._is_in_place(descriptor):
                break
            os.close(descriptor)  # its holder ended just now, and deleted it
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(_this_process()).encode())
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back, if it was taken."""
        if self._descriptor is not None:
            # Before it is given back: afterwards it may be another program's.
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(self._descriptor)
            self._descriptor = None

    def _is_taken(self, descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            return True
        except OSError:  # the disk has no locks
            holder = self._holder()
            return bool(holder) and not _is_gone(holder)

    def _is_in_place(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path))
        except FileNotFoundError:
            return False

    def _holder(self) -> dict[str, Any]:
        """Read who holds the lock; empty if the file does not tell."""
        try:
            holder = json.loads(self._path.read_text(encoding="utf-8"))
            return holder if isinstance(holder, dict) else {}
        except (OSError, ValueError):
            return {}

    def _refusal(self) -> str:
        who = "another process"
        holder = self._holder()
        if holder:
            who = f"process {holder.get('pid')} on {holder.get('host')} since {holder.get('since')}"
        return (
            f"{self._folder} is in use by {who}: wait for it, stop it, or name another --workdir. "
            f"(If it is certainly gone, delete {self._path})"
        )


def _this_process() -> dict[str, Any]:
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": since}


def _is_gone(holder: dict[str, Any]) -> bool:
    """Return whether a holder was a process of this machine that is no more."""
    if holder.get("host") != socket.gethostname() or not isinstance(holder.get("pid"), int):
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # another user's
    return False
