"""data.json in the folder of a run or a sweep: the data that belong to it, by their fingerprints.

A name such as "npz" does not say what is in the file. Training and validation data are recorded at
the first start, the test data when they are first read, and all are compared from then on.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from capsjax.data import COMPONENTS, Arrays, split_before
from capsjax.data.labels import describe_unseen
from capsjax.registry import component_of
from capsjax.runs import processes
from capsjax.runs.files import (
    DamagedFileError,
    WorkdirError,
    read_sealed,
    sealed,
    set_aside,
    write_json,
)

FILE = "data.json"

# What to do about other data, at the start of a run or a sweep.
REMEDY = "Give it the data of its first start (data.file, data.dir), or name another --workdir"

Fingerprints = Mapping[str, Mapping[str, Any]]


def fingerprints(**parts: Arrays | None) -> dict[str, dict[str, Any]]:
    """Return the fingerprints of the parts of the data by name, without those that are None."""
    return {name: part.fingerprint() for name, part in parts.items() if part is not None}


def by_settings(found: Fingerprints, data: ConfigDict) -> Fingerprints:
    """Name each part with the settings that chose it, in which trials of a sweep may differ."""
    others = {"dir", "file", *COMPONENTS} - {component_of(data.name)}
    # Sweeps of earlier versions have no such setting in their names.
    if data.split == split_before(data.name):
        others.add("split")
    settings = {
        name: value.to_dict() if isinstance(value, ConfigDict) else _shown(value)
        for name, value in data.items()
        if name not in others
    }
    listed = ", ".join(f"{name} {value}" for name, value in sorted(settings.items()))
    return {f"{part} ({listed})": fields for part, fields in found.items()}


def _shown(value: Any) -> Any:
    """Return a setting as earlier versions wrote it, which had whole numbers."""
    return int(value) if isinstance(value, float) and value == int(value) else value


def check_processes(found: Fingerprints) -> None:
    """Check that all processes have the same data.

    Raises:
      ValueError: if they do not; the message names the part.
    """
    for part, fields in found.items():
        for name, value in fields.items():
            processes.check_same(f"the {part} data ({name})", value)


def check_test(test: Arrays, training: Arrays, say: Callable[[str], None]) -> Fingerprints:
    """Return the fingerprint of the test data, which all processes have, and warn of new classes.

    Args:
      test: the test data.
      training: the training data.
      say: called with a line if there are test images of a class that training never saw.

    Raises:
      ValueError: if the processes have different test data.
    """
    found = fingerprints(test=test)
    check_processes(found)
    unseen = describe_unseen(training, test, "test")
    if unseen:
        say(unseen)
    return found


def check_data(workdir: Path, found: Fingerprints, remedy: str = REMEDY) -> None:
    """Check that data are those that belong to a run, as far as it has recorded them.

    Args:
      workdir: folder of the run or the sweep.
      found: the fingerprints of data that were read now, by part.
      remedy: what to do if they differ, for the message.

    Raises:
      WorkdirError: if they differ, or the record is damaged.
    """
    try:
        recorded = read_data(workdir)
    except DamagedFileError as error:
        raise WorkdirError(
            f"{error}, so that nothing shows which data belong to the run. {remedy}"
        ) from None
    _compare(workdir, recorded, found, remedy)


def record_data(workdir: Path, found: Fingerprints) -> None:
    """Check data as `check_data` does, and record the parts that are not recorded yet.

    A damaged record is reported and made anew. Only one process calls this.

    Raises:
      WorkdirError: if they differ; the message names the part and the remedy.
    """
    try:
        recorded = read_data(workdir)
    except DamagedFileError as error:
        set_aside(error, "the present data are taken for those of the run, without a comparison")
        recorded = {}
    _compare(workdir, recorded, found, REMEDY)
    if found.keys() - recorded.keys():
        write_json(workdir / FILE, sealed({"parts": {**recorded, **found}}))


def read_data(workdir: Path) -> Fingerprints:
    """Read the fingerprints of a run's data, by part; earlier versions recorded none.

    Raises:
      DamagedFileError: if the record is damaged.
    """
    path = workdir / FILE
    return read_sealed(path, needed=("parts",))["parts"] if path.exists() else {}


def _compare(workdir: Path, recorded: Fingerprints, found: Fingerprints, remedy: str) -> None:
    differing = [
        _difference(part, recorded[part], found[part])
        for part in found
        if part in recorded and recorded[part] != found[part]
    ]
    if differing:
        raise WorkdirError(
            f"these are not the data of {workdir}, under the same name: {'; '.join(differing)}. "
            f"{remedy}"
        )


def _difference(part: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    if there["number"] != here["number"]:  # the images and labels differ then too
        return f"{there['number']} {part} examples there, {here['number']} here"
    names = [name for name in here if there.get(name) != here[name]]
    return f"the {part} {' and '.join(names)} differ"
