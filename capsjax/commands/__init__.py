"""The commands of the program `capsjax`: one module each, with flags, help and main.

`capsjax train` and `python experiments/train.py` are the same function: `run("train")`.
"""

import sys

# What each command does, in the order of a day's work.
COMMANDS = {
    "train": "train a network and evaluate it on the test set",
    "evaluate": "evaluate a trained network on any part of any data",
    "visualize": "draw what a trained network has learned",
    "predict": "label pictures, folders of them or arrays",
    "explore": "open a page to draw on, with a trained network behind it",
    "export": "write a trained network into a folder that needs no run",
    "sweep": "train all trials of a sweep",
    "report": "write a page of a run or a sweep, with tables and figures",
    "measure": "measure calibration, couplings and affine images of the best trials of a sweep",
    "table": "set runs side by side",
    "summary": "show the layers, parameters and memory of a config",
    "list": "list the configs and the names that they may use",
    "clean": "delete compiled programs and decoded data sets",
    "benchmark": "measure the speed, beside PyTorch",
}

USAGE = "usage: capsjax COMMAND --FLAG=VALUE ...; capsjax COMMAND --help shows its flags"


def main() -> None:
    """Run the program `capsjax`: its first argument names the command."""
    from capsjax.registry import suggest

    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("", "-h", "--help"):
        lines = [f"  {known:<12} {what}" for known, what in COMMANDS.items()]
        print("\n".join([USAGE, "", *lines]))
        sys.exit(0 if name else 2)
    if name == "--version":
        from capsjax import __version__

        print(f"capsjax {__version__}")
        return
    if name not in COMMANDS:
        sys.exit(f"error: no command {name!r}; {suggest(name, COMMANDS)}")
    # `sys.argv` stays whole: it is recorded as the command of what is made.
    run(name, [sys.argv[0], *sys.argv[2:]])


def run(name: str, argv: list[str] | None = None) -> None:
    """Run a command with the flags of `argv`, by default those of `sys.argv`."""
    from capsjax.commands.extras import how_to_install
    from capsjax.runs.interrupt import exit_at_ctrl_c

    exit_at_ctrl_c()
    try:
        from capsjax.commands import command_line
    except ModuleNotFoundError as error:
        sys.exit(f"error: {how_to_install(error)}")
    command_line.run(name, sys.argv if argv is None else argv)
