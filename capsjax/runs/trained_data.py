"""Data for a network that is trained: those of its run, or others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capsjax.data import Arrays, fitted, load_part, load_training, source_of
from capsjax.runs.data_record import Fingerprints, check_data, fingerprints
from capsjax.runs.files import digest
from capsjax.runs.predictor import Predictor

# What to do about data that are not those of the run.
REMEDY = (
    "Name the run's own data (--data_file, --data_dir), or take these all the same: --other_data"
)


def load_data(
    predictor: Predictor,
    workdir: Path,
    folder: Path,
    *,
    name: str = "",
    part: str = "test",
    dir: str = "",
    file: str = "",
    other: bool = False,
) -> tuple[Arrays, Path]:
    """Load a part of the data of a run, or of others, for its network.

    Args:
      predictor: the network, with the config of its run.
      workdir: folder of the run.
      folder: where results on the run's own data go.
      name, dir, file: as in `capsjax.data.load_part`; those of the run where they are empty.
      part: "test" or "train".
      other: take data that are not the run's own, though they have its name.

    Returns:
      The data, their classes numbered as the network's, and the folder for results: one beside
      `folder`, named by its data too, for other data of the run's name and for a `file` of another
      name.

    Raises:
      WorkdirError: for data of the run's name that are not the run's own.
      ValueError: for more classes than the network has, or one that it lacks.
    """
    config = predictor.config.data
    settings = {
        **config,
        "name": name or config.name,
        "dir": dir or config.dir,
        "file": file or config.file,
    }
    data = load_part(part=part, **fitted(source_of(settings), predictor.model.image_shape))
    is_own_name = settings["name"] == config.name
    if other or (file and not is_own_name):
        folder = folder_beside(folder, data)
    elif is_own_name:
        check_data(workdir, _own_parts(data, part, settings), REMEDY)
    if data.num_classes > predictor.model.num_classes:
        raise ValueError(
            f"{settings['name']} has {data.num_classes} classes and the network "
            f"{predictor.model.num_classes}"
        )
    data = data.numbered_as(predictor.class_names, predictor.model.num_classes)
    if data.class_names and not predictor.class_names:
        listed = ", ".join(f"{name} is {k}" for k, name in enumerate(data.class_names))
        print(f"the network has no names of classes, and those of these data number them: {listed}")
    return data, folder


def folder_beside(folder: Path, data: Arrays) -> Path:
    """Return a folder for results on other data than the run's own, beside that of its own."""
    return folder.with_name(f"{folder.name}-{digest(data.fingerprint())[:8]}")


def _own_parts(data: Arrays, part: str, settings: Mapping[str, Any]) -> Fingerprints:
    """Return fingerprints by the names of a run's parts: it divides "train" into two."""
    if part == "test":
        return fingerprints(test=data)
    training, validation = load_training(**settings)
    return fingerprints(training=training, validation=validation)
