"""What all commands share: flags, and errors in one line with exit status 1 or 2."""

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from capsjax.commands.extras import how_to_install
from capsjax.commands.messages import (
    in_config_file,
    leave_errors_to_one_line,
    one_line,
)
from capsjax.config.files import find_config, load_config
from capsjax.config.renamed import new_name
from capsjax.runs.output import STANDARD_OUTPUT, watch_output
from capsjax.runs.own_code import place_in_own_file

CONFIG = "--config"

# What a command answers to the config of another one, by what its own describes.
OTHER_CONFIG = {
    "run": "--config is a sweep, not a config of one run: capsjax sweep trains it",
    "sweep": "--config is a config of one run, not a sweep: see configs/sweeps/",
}

USER_ERRORS = (ValueError, OSError, KeyError, AttributeError, TypeError, flags.Error)


def run(name: str, argv: list[str]) -> None:
    """Parse the flags of a command, call its main, and report a user's mistake in one line.

    The first of `argv` is the program. Flags are defined here and not when the command is imported:
    tests import several of them.
    """
    logging.set_verbosity(logging.WARNING)
    watch_output()
    if not _is_debug(argv):
        leave_errors_to_one_line()
    module = _guard(lambda: importlib.import_module(f"capsjax.commands.{name}"), False, status=1)
    module.define_flags()
    flags.DEFINE_bool("debug", False, "Show where an error arose, not its message alone.")
    app.run(
        lambda argv: _guard(
            (lambda: module.main(argv[1:])) if hasattr(module, "ARGUMENTS") else module.main,
            flags.FLAGS.debug,
            status=1,
        ),
        argv=argv,
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


def define_trained_run_flags() -> None:
    """Define the flags of commands that use a trained network, on the data of its run or others."""
    flags.DEFINE_string("workdir", "", "Folder of the run.")
    flags.DEFINE_string(
        "checkpoint", "selected", "best, last, a step, or selected (what the config selects)."
    )
    flags.DEFINE_string("data_dir", "", "TFDS's directory, if not that of training.")
    flags.DEFINE_string("data_file", "", "The file or folder, if not that of training.")
    flags.DEFINE_bool(
        "other_data", False, "Take data that are not the run's own, though they have its name."
    )


def existing_run(workdir: str) -> Path:
    """Return the folder that the flag --workdir names."""
    if not workdir:
        raise ValueError("--workdir=FOLDER is missing: the folder of a run of `capsjax train`")
    return Path(workdir).expanduser()


def _is_debug(argv: list[str]) -> bool:
    return not {"--debug", "--debug=true", "--debug=True", "--debug=1"}.isdisjoint(argv)


def _parse(argv: list[str], module: ModuleType) -> list[str]:
    debug = _is_debug(argv)
    if "--help" in argv or "-h" in argv:
        _guard(lambda: _help(module), debug, status=1)
    _guard(lambda: _check_renamed(argv), debug, status=2)
    argv = _guard(lambda: find_configs(argv), debug, status=2)
    _guard(lambda: _check_config_file(argv, module), debug, status=2)
    rest = _guard(lambda: _read_flags(argv), debug, status=2)
    if rest[1:] and not hasattr(module, "ARGUMENTS"):
        _fail(f"unexpected argument {rest[1]!r}; flags look like --workdir=FOLDER", status=2)
    return rest


def _read_flags(argv: list[str]) -> list[str]:
    """Set the flags, and return the other arguments."""
    try:
        return flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:  # with the field, and perhaps a suggestion
        field, suggested, name = one_line(error).partition(" Did you mean ")
        if not field.startswith("'"):
            raise
        hint = f"Did you mean {name}" if suggested else "--print_config prints all fields"
        raise ValueError(f"no config field {field}. {hint}") from error


def find_configs(argv: list[str]) -> list[str]:
    """Replace the value of --config in a command's arguments by the path of a file."""
    found = list(argv)
    for index, prefix, value in _configs_in(argv):
        found[index] = prefix + find_config(value)
    return found


def _configs_in(argv: list[str]) -> Iterator[tuple[int, str, str]]:
    """Yield each value of --config: the index of its argument, what precedes it there, and it."""
    for index, argument in enumerate(argv):
        if argument.startswith(f"{CONFIG}="):
            yield index, f"{CONFIG}=", argument.removeprefix(f"{CONFIG}=")
        elif argument == CONFIG and index + 1 < len(argv):
            yield index + 1, "", argv[index + 1]


def _check_config_file(argv: list[str], module: ModuleType) -> None:
    """Raise ValueError for a config file that raises an error, or describes something else.

    It is loaded here, as the library that parses flags wraps its errors, and takes the fields of a
    sweep for fields that do not exist.
    """
    if not hasattr(module, "CONFIG_OF"):
        return  # it has no flag --config
    for _, _, value in _configs_in(argv):
        file, _, preset = value.partition(":")
        try:
            config = load_config(file, *[preset] if preset else [])
        except Exception as error:  # whatever a file of the user's raises
            raise ValueError(in_config_file(error, file)) from error
        if not isinstance(config, ConfigDict):
            raise ValueError(f"get_config of {file} returns no ConfigDict: see configs/digits.py")
        if ("base" in config) != (module.CONFIG_OF == "sweep"):
            raise ValueError(OTHER_CONFIG[module.CONFIG_OF])


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
        if isinstance(error, BrokenPipeError) and error.filename == STANDARD_OUTPUT:
            _exit(128 + signal.SIGPIPE)  # as of any program whose reader has read enough
        if isinstance(error, ModuleNotFoundError) and not debug:
            _fail(how_to_install(error), status)
        from capsjax.runs.processes import LOST_PROCESS, is_lost_process

        if is_lost_process(error):
            _fail(LOST_PROCESS, status)
        if isinstance(error, USER_ERRORS) and not debug:
            place = place_in_own_file(error)
            _fail(f"{place}: {one_line(error)}" if place else one_line(error), status)
        traceback.print_exc()
        _exit(status)


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
