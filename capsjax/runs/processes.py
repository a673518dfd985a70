"""The processes of a run, one or several that run the same program, through JAX's own runtime.

Each process runs the same command and computes the same things in the same order. Clocks, signals
and disks may differ between them, so they agree before they act: `gather` and `on_primary`. Only
process 0 writes files and prints.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

# Seconds until a start without all processes is given up, and until a silent process counts as
# gone. (On a CPU its closed connection shows that at once.)
START_TIMEOUT = 120
HEARTBEAT_TIMEOUT = 30

LOST_PROCESS = (
    "another process of this run is gone, or cannot be reached any more; its own output may say "
    "why. Start the same commands again to resume"
)

# Words in the errors of collectives and of JAX's coordination service when a process is gone. These
# errors have no type of their own.
_SIGNS_OF_LOSS = ("Gloo", "NCCL", "oordination", "arrier", "heartbeat", "by peer")


def initialize(coordinator: str, num_processes: int, process_id: int) -> None:
    """Join the other processes of the run, if any, before anything touches a device.

    Under Slurm, `srun` with several tasks is enough: no argument is needed.

    Args:
      coordinator: HOST:PORT of process 0, as the others reach it; "" for a run of one process.
      num_processes: number of processes; 0 if not given.
      process_id: index of this process, from 0; negative if not given.

    Raises:
      ValueError: for arguments that do not fit together, or a coordinator that does not answer.
    """
    if not coordinator and num_processes <= 1 and process_id <= 0:
        if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
            _join(cluster_detection_method="slurm")
        return
    host, port = _check(coordinator, num_processes, process_id)
    if num_processes == 1:
        return
    if process_id == 0:
        _check_free(port)
    else:
        _wait_for(host, port)
    _join(
        coordinator_address=coordinator,
        num_processes=num_processes,
        process_id=process_id,
        cluster_detection_method="deactivate",
        # Otherwise it listens on all addresses of the machine.
        coordinator_bind_address=coordinator if host in ("127.0.0.1", "localhost") else None,
    )


def is_primary() -> bool:
    """Return whether this is process 0, the only one that writes files and prints."""
    return jax.process_index() == 0


def gather(values: Sequence[int]) -> np.ndarray:
    """Gather the numbers of every process, (process, value): the same array in all of them.

    >>> gather([3, 0]).tolist()
    [[3, 0]]
    """
    return multihost_utils.process_allgather(np.asarray(values, np.int32))


def on_primary(action: Callable[[], Any]) -> Any:
    """Let only process 0 act, for all of them, such as read or write the folder of a run.

    Args:
      action: function that returns anything that JSON can represent.

    Returns:
      The result of the action in process 0.

    Raises:
      Exception: what the action raised in process 0; ValueError of the same text in the others.

    >>> on_primary(lambda: {"workdir": "runs/a"})
    {'workdir': 'runs/a'}
    """
    if jax.process_count() == 1:
        return action()
    if not is_primary():
        failure, result = _broadcast(None)
        if failure is not None:
            raise ValueError(failure)
        return result
    try:
        result = action()
    except Exception as error:
        _broadcast([str(error), None])
        raise
    return _broadcast([None, result])[1]


@contextlib.contextmanager
def primary_first() -> Iterator[None]:
    """Let process 0 run the block before the others, which then find what it has prepared."""
    if not is_primary():
        barrier("primary first")
    yield
    if is_primary():
        barrier("primary first")


def check_same(what: str, value: Any) -> None:
    """Check that all processes have the same value: the same bytes, or the same `repr`.

    Raises:
      ValueError: if they do not.
    """
    if jax.process_count() == 1:
        return
    data = value if isinstance(value, bytes) else repr(value).encode()
    if len(set(gather([zlib.crc32(data) >> 1]).ravel())) > 1:
        raise ValueError(
            f"{what} differs between the processes of this run: all run the same command on the "
            "same data"
        )


def barrier(name: str) -> None:
    """Wait until all processes get here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def is_lost_process(error: BaseException) -> bool:
    """Return whether an error means that another process of the run is gone.

    >>> is_lost_process(ValueError("train.epochs is at least 1, not 0"))
    False
    """
    if not jax.distributed.is_initialized():
        return False
    cause = error.__cause__
    if cause is not None and is_lost_process(cause):
        return True
    from_runtime = isinstance(error, jax.errors.JaxRuntimeError) or type(error) is ValueError
    return from_runtime and any(sign in str(error) for sign in _SIGNS_OF_LOSS)


def _broadcast(value: Any) -> Any:
    """Return the value of process 0 in all processes."""
    text = json.dumps(value).encode() if is_primary() else b""
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    codes = np.frombuffer(text.ljust(length, b"\0")[:length], np.uint8).astype(np.int32)
    return json.loads(bytes(multihost_utils.broadcast_one_to_all(codes).astype(np.uint8)))


def _check(coordinator: str, num_processes: int, process_id: int) -> tuple[str, int]:
    """Check the arguments, and return the host and the port."""
    if not coordinator:
        raise ValueError(
            "--coordinator=HOST:PORT is missing: the address of process 0, the same for all of "
            "the --num_processes"
        )
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"--coordinator={coordinator} is not HOST:PORT, for example node1:1234")
    if num_processes < 1:
        raise ValueError("--num_processes=N is missing: how many processes --coordinator waits for")
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f"--process_id is 0 for the first process, up to {num_processes - 1} for the last of "
            f"--num_processes={num_processes}, not {process_id}"
        )
    return host.strip("[]"), int(port)


def _check_free(port: int) -> None:
    """Check that a port is free, because JAX does not survive one that is taken."""
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise ValueError(
            f"process 0 cannot listen on port {port} ({error.strerror}): name another one in "
            "--coordinator, to all processes"
        ) from None


def _wait_for(host: str, port: int) -> None:
    """Wait until process 0 listens: JAX ends a process that waits in vain, without an error."""
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except socket.gaierror as error:
            raise ValueError(f"no host {host!r} ({error.strerror}): check --coordinator") from None
        except OSError as error:
            if time.monotonic() > deadline:
                raise ValueError(
                    f"no process 0 at {host}:{port} within {START_TIMEOUT} s ({error}): start it "
                    "there with --process_id=0, or correct --coordinator"
                ) from None
        time.sleep(0.2)


def _join(**arguments) -> None:
    # The default, but the environment may have changed it. GPUs have NCCL.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would take SIGTERM, which `capsjax.runs.interrupt` catches and `gather` passes on.
    jax.config.update("jax_enable_preemption_service", False)
    _speak_at_abort(
        f"not all processes of this run came within {START_TIMEOUT} s: start the same command "
        "for each --process_id"
    )
    jax.distributed.initialize(
        initialization_timeout=START_TIMEOUT,
        heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
        **arguments,
    )
    _speak_at_abort(LOST_PROCESS)


def _speak_at_abort(message: str) -> None:
    """Make abort() end this process with a line that reports what happened, and status 1.

    JAX's runtime aborts, from its own thread, when process 0 is gone or another process has been
    silent for a while. No Python handler runs then, hence one for C.
    """
    global _at_abort  # C holds no reference

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def say_and_exit(_):
        os.write(2, f"error: {message}\n".encode())
        os._exit(1)

    _at_abort = say_and_exit
    ctypes.CDLL(None).signal(signal.SIGABRT, _at_abort)
