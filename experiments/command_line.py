"""What all scripts share: flags, and errors in one line with exit status 1 or 2."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from absl import app, flags, logging

# Scripts import this module first, before JAX: as near to their start as they can tell.
STARTED = time.perf_counter()


def run(main: Callable[[], None], define_flags: Callable[[], None]) -> None:
    """Define and parse the flags, call main, and turn a mistake of the user's into one line.

    Flags are defined here and not when a script is imported: tests import several scripts.
    """
    define_flags()
    flags.DEFINE_bool("debug", False, "Show where an error arose, not its message alone.")
    logging.set_verbosity(logging.WARNING)
    app.run(lambda _: _guard(main, flags.FLAGS.debug, status=1), flags_parser=_parse)


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
        sys.exit(130)
    except (ValueError, OSError, KeyError, AttributeError, TypeError, flags.Error) as error:
        if debug:
            raise
        _fail(_one_line(error), status)


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
    print(f"error: {message} (--debug shows where)", file=sys.stderr)
    sys.exit(status)
