"""What all commands share: flags, and errors in one line with exit status 1 or 2."""

import importlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from capsjax.commands.extras import how_to_install
from capsjax.config.files import find_config
from capsjax.config.renamed import new_name

CONFIG = "--config"

USER_ERRORS = (ValueError, OSError, KeyError, AttributeError, TypeError, flags.Error)


def run(name: str) -> None:
    """Parse the flags of a command, call its main, and report a user's mistake in one line.

    Flags are defined here and not when the command is imported: tests import several of them.
    """
    logging.set_verbosity(logging.WARNING)
    module = _guard(lambda: importlib.import_module(f"capsjax.commands.{name}"), False, status=1)
    module.define_flags()
    flags.DEFINE_bool("debug", False, "Show where an error arose, not its message alone.")
    app.run(
        lambda _: _guard(module.main, flags.FLAGS.debug, status=1),
        flags_parser=lambda argv: _parse(argv, module),
    )


def define_config_flag(examples: str) -> None:
    """Define --config, with those examples in its help, and --print_config."""
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Config file, or the name of one of the package, with its preset after a colon: "
        f"{examples}.",
    )
    flags.DEFINE_bool("print_config", False, "Print the config with all its fields, and end.")


def config_of_flags(example: str) -> ConfigDict:
    """Return the config of the flags; with --print_config, print it and exit.

    Raises:
      ValueError: if there is none.
    """
    config = flags.FLAGS.config
    if config is None:
        raise ValueError(f"--config=FILE is missing, for example --config={example}")
    if flags.FLAGS.print_config:
        print(config)
        sys.exit(0)
    return config


def define_process_flags() -> None:
    """Define the flags of a script that several processes may run together."""
    flags.DEFINE_string(
        "coordinator", "", "HOST:PORT of process 0, where several processes run together."
    )
    flags.DEFINE_integer("num_processes", 0, "How many processes run together.")
    flags.DEFINE_integer("process_id", -1, "Which of them this one is, from 0.")


def start_processes() -> None:
    """Join the other processes, if the flags or Slurm name any.

    Call this before anything touches a device. Afterwards only process 0 prints; every process
    reports its errors.
    """
    from capsjax.runs.processes import initialize, is_primary

    initialize(flags.FLAGS.coordinator, flags.FLAGS.num_processes, flags.FLAGS.process_id)
    if not is_primary():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until the end)


def existing_run(workdir: str) -> Path:
    """Return the folder that the flag --workdir names."""
    if not workdir:
        raise ValueError("--workdir=FOLDER is missing: the folder of a run of `capsjax train`")
    return Path(workdir).expanduser()


def _parse(argv: list[str], module: ModuleType) -> list[str]:
    debug = not {"--debug", "--debug=true", "--debug=True", "--debug=1"}.isdisjoint(argv)
    if "--help" in argv or "-h" in argv:
        _help(module)
    _guard(lambda: _check_renamed(argv), debug, status=2)
    rest = _guard(lambda: flags.FLAGS(find_configs(argv)), debug, status=2)
    if rest[1:]:
        _fail(f"unexpected argument {rest[1]!r}; flags look like --workdir=FOLDER", status=2)
    return rest


def find_configs(argv: list[str]) -> list[str]:
    """Replace the value of --config in a command's arguments by the path of a file."""
    found = list(argv)
    for index, argument in enumerate(argv):
        if argument.startswith(f"{CONFIG}="):
            found[index] = f"{CONFIG}={find_config(argument.removeprefix(f'{CONFIG}='))}"
        elif argument == CONFIG and index + 1 < len(argv):
            found[index + 1] = find_config(argv[index + 1])
    return found


def _check_renamed(argv: list[str]) -> None:
    """Raise ValueError, with the new name, for a field of an earlier version."""
    for argument in argv:
        prefix, _, rest = argument.partition(".")
        if prefix == CONFIG:
            field = rest.partition("=")[0]
            base = "base." if field.startswith("base.") else ""
            now = new_name(field.removeprefix(base))
            if now is not None:
                raise ValueError(f"--config.{field} is called --config.{base}{now} now")


def _help(module: ModuleType) -> None:
    print(module.__doc__)
    print(flags.FLAGS.module_help(module))
    print(flags.FLAGS.module_help(sys.modules[__name__]))
    sys.exit(0)


def _guard(action: Callable, debug: bool, status: int):
    try:
        return action()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        _exit(130)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and not debug:
            _fail(how_to_install(error), status)
        from capsjax.runs.processes import LOST_PROCESS, is_lost_process

        if is_lost_process(error):
            _fail(LOST_PROCESS, status)
        if isinstance(error, USER_ERRORS) and not debug:
            _fail(_one_line(error), status)
        traceback.print_exc()
        _exit(status)


def _one_line(error: Exception) -> str:
    """Return the message of an error, without the wrapping of the libraries between."""
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "Traceback (most recent call last):" in text:  # of an error inside a config file
        return lines[-1].split(": ", 1)[-1]
    if isinstance(error, KeyError) and "Did you mean" in text:
        return f"no config field {lines[0]}. {' '.join(lines[1:])}"
    return " ".join(lines) or type(error).__name__


def _fail(message: str, status: int) -> None:
    import jax

    line = f"error: {message} (--debug shows where)\n"
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        # Written at once, and followed by the exit: another JAX thread may be detecting the same
        # error, and would write into the line or after it.
        os.write(2, line.encode())
        os._exit(status)
    sys.stderr.write(line)
    sys.exit(status)


def _exit(status: int) -> None:
    """Exit; one of several processes exits at once, as it cannot wait for the others.

    They may be in the middle of a step that needs this one.
    """
    import jax

    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
