"""Where a user's own code, such as an algorithm, was when an error arose.

The message of a programming error, such as "'weight'", means nothing without it.
"""

import sys
import sysconfig
import traceback
from pathlib import Path


def place_in_own_file(error: BaseException) -> str:
    """Return the last place in a file of the user's own, and the type of the error; "" if none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_file() and not any(file.is_relative_to(folder) for folder in _not_own()):
            return _describe(frame, error)
    return ""


def last_place(error: BaseException) -> str:
    """Return the place at which an error arose, and its type."""
    return _describe(traceback.extract_tb(error.__traceback__)[-1], error)


def _describe(frame: traceback.FrameSummary, error: BaseException) -> str:
    return f"{frame.filename}, line {frame.lineno}, in {frame.name}: {type(error).__name__}"


def _not_own() -> set[Path]:
    """Return the folders of Python, its packages, this one, and the program that was started."""
    import capsjax

    program = Path(sys.argv[0]).absolute().parent
    package = Path(capsjax.__file__).parent
    return {package, program, *(Path(path) for path in sysconfig.get_paths().values())}
