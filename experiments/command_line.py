"""What all scripts share: flags, and errors in one line with exit status 1 or 2."""

import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags, logging

_DEBUG = flags.DEFINE_bool("debug", False, "Show where an error arose, not its message alone.")


def run(main: Callable[[], None]) -> None:
    """Parse the flags, call main, and turn a mistake of the user's into one line."""
    logging.set_verbosity(logging.WARNING)
    app.run(lambda _: _guard(main, _DEBUG.value, status=1), flags_parser=_parse)


def existing_run(flag: flags.FlagHolder) -> Path:
    """The folder of the flag --workdir."""
    if not flag.value:
        raise ValueError("--workdir=FOLDER is missing: the folder of a run of experiments/train.py")
    return Path(flag.value).expanduser()


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
    except (ValueError, OSError, KeyError, AttributeError, TypeError, flags.Error) as error:
        if debug:
            raise
        _fail(_last_line(error), status)


def _last_line(error: Exception) -> str:
    """The message: of an error inside a config file, whose text is a traceback, its last line."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "Traceback (most recent call last):" in text:
        return lines[-1].split(": ", 1)[-1]
    return " ".join(lines) or type(error).__name__


def _fail(message: str, status: int) -> None:
    print(f"error: {message} (--debug shows where)", file=sys.stderr)
    sys.exit(status)
