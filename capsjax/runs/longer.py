"""More epochs for a run: its earlier results stay, under another name."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capsjax.runs.files import read_json, warn, write_json

# The field of a config that may grow.
EPOCHS = "train.epochs"


def lengthen(path: Path, config: Mapping[str, Any]) -> None:
    """Give the run in a folder more epochs.

    Args:
      path: the folder.
      config: the fields of its config, with more epochs.
    """
    old, new = (fields["train"]["epochs"] for fields in (read_json(path / "config.json"), config))
    summary, kept = path / "summary.json", path / f"summary-{old}-epochs.json"
    line = f"{path} goes on from {old} to {new} epochs"
    # First: a kill after it leaves a run of the old config that has not yet been tested.
    if summary.exists():
        os.replace(summary, kept)
        line += f"; its results after {old} are in {kept}"
    write_json(path / "config.json", config)
    print(line)
    schedule = config["schedule"]
    if schedule["name"] in ("cosine", "linear") and not schedule["anneal_epochs"]:
        # A kill between the two writes above leaves `kept` alone, at the next start too.
        warn(_describe_rate(old, new, ended=kept.exists()))


def _describe_rate(old: int, new: int, ended: bool) -> str:
    if ended:
        rate = f"has fallen to its end once, after {old} epochs, and falls again"
    else:
        rate = f"followed a schedule of {old} epochs so far, and follows one of {new} from here on"
    return f"the learning rate {rate}: this is not what a run of {new} epochs does"


def count_test_reads(path: Path) -> int:
    """Return how often the test set was read for results of a run, the present ones included.

    The results of a run that was given more epochs are not those of an unseen test set.
    """
    return 1 + len(list(path.glob("summary-*-epochs.json")))
