"""In what the config of a folder differs from the one that is given for it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Fields that may differ when a run resumes: where files are and how often they are written does not
# affect what is computed. A sweep has them under "base.", and may be given more seeds.
FREE_FIELDS = ("data.dir", "data.file", "checkpoint.", "log.", "evaluate.batch_size", "num_seeds")

# So many fields of another config are named.
MOST_NAMED = 8


def differing_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the names of fields that differ though they may not."""
    names = sorted(old.keys() | new.keys())
    return [name for name in names if old.get(name) != new.get(name) and not is_free(name)]


def describe_difference(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Say in what two flat configs differ; nothing if a run or sweep may go on with the other.

    Args:
      path: the folder.
      old, new: its config, and the one that is given for it.
    """
    there, here = (
        "sweep" if any(name.startswith("base.") for name in fields) else "run"
        for fields in (old, new)
    )
    if there != here:
        return f"{path} holds a {there}, and this is a {here}: name another --workdir"
    names = differing_fields(old, new)
    if not names:
        return ""
    differing = [f"{name}: {old.get(name)!r} there, {new.get(name)!r} here" for name in names]
    if len(differing) > MOST_NAMED:
        differing[MOST_NAMED:] = [f"and {len(differing) - MOST_NAMED} more"]
    return (
        f"{path} holds a {there} of another config ({'; '.join(differing)}). Name another "
        "--workdir, or give the same config to resume"
    )


def is_free(name: str) -> bool:
    """Return whether a field may differ when a run or sweep resumes."""
    return name.removeprefix("base.").startswith(FREE_FIELDS)
