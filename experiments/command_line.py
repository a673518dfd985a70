"""What all scripts share: flags, and errors in one line with exit status 1 or 2."""

import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from absl import app, flags, logging

# Scripts import this module first, before JAX: as near to their start as they can tell.
STARTED = time.perf_counter()

USER_ERRORS = (ValueError, OSError, KeyError, AttributeError, TypeError, flags.Error)


def run(main: Callable[[], None], define_flags: Callable[[], None]) -> None:
    """Define and parse the flags, call main, and turn a mistake of the user's into one line.

    Flags are defined here and not when a script is imported: tests import several scripts.
    """
    define_flags()
    flags.DEFINE_bool("debug", False, "Show where an error arose, not its message alone.")
    logging.set_verbosity(logging.WARNING)
    app.run(lambda _: _guard(main, flags.FLAGS.debug, status=1), flags_parser=_parse)


def define_process_flags() -> None:
    """The flags of a script that several processes may run together."""
    flags.DEFINE_string(
        "coordinator", "", "HOST:PORT of process 0, where several processes run together."
    )
    flags.DEFINE_integer("num_processes", 0, "How many processes run together.")
    flags.DEFINE_integer("process_id", -1, "Which of them this one is, from 0.")


def start_processes() -> None:
    """Join the other processes, if the flags or Slurm say that there are any.

    To be called before anything touches a device. Only process 0 still prints afterwards; errors
    are reported by each.
    """
    from capsjax.devices import initialize, is_primary  # imports JAX: not before STARTED

    initialize(flags.FLAGS.coordinator, flags.FLAGS.num_processes, flags.FLAGS.process_id)
    if not is_primary():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until the end)


def existing_run(workdir: str) -> Path:
    """The folder that the flag --workdir names."""
    if not workdir:
        raise ValueError("--workdir=FOLDER is missing: the folder of a run of experiments/train.py")
    return Path(workdir).expanduser()


def _parse(argv: list[str]) -> list[str]:
    debug = "--debug" in argv
    if "--help" in argv or "-h" in argv:
        _help(argv)
    rest = _guard(lambda: flags.FLAGS(argv), debug, status=2)
    if rest[1:]:
        _fail(f"unexpected argument {rest[1]!r}; flags look like --workdir=FOLDER", status=2)
    return rest


def _help(argv: list[str]) -> None:
    print(sys.modules["__main__"].__doc__)
    print(flags.FLAGS.main_module_help())
    print("\n  --[no]debug: " + flags.FLAGS["debug"].help)
    sys.exit(0)


def _guard(action: Callable, debug: bool, status: int):
    try:
        return action()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        _exit(130)
    except Exception as error:
        from capsjax.devices import LOST_PROCESS, is_lost_process

        if is_lost_process(error):
            _fail(LOST_PROCESS, status)
        if isinstance(error, USER_ERRORS) and not debug:
            _fail(_one_line(error), status)
        traceback.print_exc()
        _exit(status)


def _one_line(error: Exception) -> str:
    """What to tell the user: the message, without the wrapping of the libraries between."""
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "Traceback (most recent call last):" in text:  # of an error inside a config file
        return lines[-1].split(": ", 1)[-1]
    if "Failed loading config file" in text:
        return f"{lines[-1]}; the project's configs are in configs/, for example configs/digits.py"
    if isinstance(error, KeyError) and "Did you mean" in text:
        return f"no config field {lines[0]}. {' '.join(lines[1:])}"
    return " ".join(lines) or type(error).__name__


def _fail(message: str, status: int) -> None:
    import jax

    line = f"error: {message} (--debug shows where)\n"
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        # In one piece, and the end right after it: another thread of JAX's may just be finding out
        # the same, and would write into the line or after it.
        os.write(2, line.encode())
        os._exit(status)
    sys.stderr.write(line)
    sys.exit(status)


def _exit(status: int) -> None:
    """End the program; one of several processes at once, as the others cannot be waited for.

    They may be in the middle of a step that needs this one.
    """
    import jax

    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
