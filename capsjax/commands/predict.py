"""Label pictures without labels: files, whole folders, or arrays of images.

    capsjax predict --workdir=runs/a photos/ digit.png
    capsjax predict --network=mnist images.npz --output=labels.csv

Pictures are resized to what the network takes, in grey or colour as it does; `.npy` and `.npz`
files hold images (n, h, w) or (n, h, w, c) of its size, uint8 or in [0, 1], an .npz as `images`.
Writes a table with the label, its name if classes have names, and the score of each class (lengths,
where classes are capsules), and beside it an .npz with labels, scores and poses; with --inside,
couplings and primary poses too. Neither may be one of the files to label, and an .npz that is there
is overwritten only if it is from an earlier call.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from absl import flags

from capsjax.data.pictures import find_pictures, read_pictures
from capsjax.pretrained import FOLDERS
from capsjax.runs.compilation import keep_compiled_programs
from capsjax.runs.exported import load_exported
from capsjax.runs.files import naming, write_text
from capsjax.runs.predictor import Prediction, Predictor, load_predictor

FLAGS = flags.FLAGS
ARGUMENTS = "pictures, folders, .npy and .npz files"
ARRAYS = (".npy", ".npz")
# Images whose couplings are computed at once.
INSIDE_AT_ONCE = 100


def define_flags() -> None:
    flags.DEFINE_string("workdir", "", "Folder of the run.")
    flags.DEFINE_string("checkpoint", "selected", "selected, best, last or a step.")
    flags.DEFINE_string(
        "network",
        "",
        f"Instead of a run: a folder of capsjax export, or {' or '.join(FOLDERS)}.",
    )
    flags.DEFINE_string("output", "predictions.csv", "The table; the .npz is beside it.")
    flags.DEFINE_bool("invert", False, "Invert pictures: dark ink on light paper.")
    flags.DEFINE_bool("inside", False, "Write couplings and primary poses too.")


def main(arguments: Sequence[str]) -> None:
    keep_compiled_programs()
    if not arguments:
        raise ValueError(f"what to label is missing: {ARGUMENTS}")
    output, beside = check_outputs(Path(FLAGS.output).expanduser(), arguments)
    output.parent.mkdir(parents=True, exist_ok=True)
    predictor = _load()
    names, images = read_images(arguments, predictor.model.image_shape, FLAGS.invert)
    prediction = predictor.predict(images)
    if prediction.labels.ndim != 1:
        raise ValueError("this command labels whole images, and the network makes maps or sets")
    table = tabulate(names, prediction, predictor.class_names)
    write_text(output, table.to_csv(index=False))
    inside = look_inside(predictor, images) if FLAGS.inside else {}
    arrays = {"labels": prediction.labels, "scores": prediction.scores, **inside}
    if prediction.poses is not None:
        arrays["poses"] = prediction.poses
    with naming(beside):
        np.savez(beside, **arrays)
    print(table.head(20).to_string(index=False, float_format="%.3f"))
    if len(table) > 20:
        print(f"... {len(table)} in all")
    print(f"wrote {output} and {beside}")


def check_outputs(output: Path, arguments: Sequence[str]) -> tuple[Path, Path]:
    """Check that what is written overwrites nothing that is read.

    Args:
      output: the table.
      arguments: pictures, folders of pictures, .npy and .npz files.

    Returns:
      The paths of the table, and of the .npz beside it.

    Raises:
      ValueError: if the table is a folder or ends in .npz, either is one of the files to label, or
        the .npz is there and not from an earlier call; also for a path that is not there.
    """
    if output.is_dir():
        raise ValueError(f"--output={output} is a folder: name a file in it, such as labels.csv")
    if output.suffix.lower() == ".npz":
        raise ValueError(
            f"--output={output} is the table, and the arrays go into the .npz beside it: end its "
            "name in .csv"
        )
    # Tables v1.0 and v1.1 have arrays of their own.
    is_csv = output.suffix.lower() == ".csv"
    beside = output.with_suffix(".npz") if is_csv else output.with_name(f"{output.name}.npz")
    paths = find_pictures(arguments)
    for path in (output, beside):
        if path.exists() and any(path.samefile(each) for each in paths):
            raise ValueError(
                f"{path} is one of the files to label and would be overwritten: give another "
                "--output"
            )
    if beside.exists() and not _is_prediction(beside):
        raise ValueError(
            f"{beside} would be overwritten, and is not from this command: give another --output"
        )
    return output, beside


def _is_prediction(path: Path) -> bool:
    try:
        with np.load(path) as file:
            return {"labels", "scores"} <= set(file.files)
    except Exception:  # whatever zipfile and numpy raise for another kind of file
        return False


def _load() -> Predictor:
    if bool(FLAGS.workdir) == bool(FLAGS.network):
        raise ValueError("give either --workdir=FOLDER of a run or --network")
    if FLAGS.workdir:
        return load_predictor(FLAGS.workdir, FLAGS.checkpoint)
    if FLAGS["checkpoint"].present:
        raise ValueError("--checkpoint is a flag for a run: give --workdir in place of --network")
    return load_exported(FOLDERS.get(FLAGS.network, FLAGS.network))


def read_images(
    arguments: Sequence[str], image_shape: Sequence[int], invert: bool = False
) -> tuple[list[str], np.ndarray]:
    """Read images from files.

    Args:
      arguments: pictures, folders of pictures, .npy and .npz files.
      image_shape: (h, w, c) that pictures are resized to.
      invert: whether pictures are inverted.

    Returns:
      A name of each, and the images (n, h, w, c), float32 in [0, 1].

    Raises:
      ValueError: for what cannot be read; the message names it.
    """
    names, images = [], []
    for argument in arguments:
        if Path(argument).suffix in ARRAYS:
            found = _read_arrays(Path(argument))
            names += [f"{argument}[{index}]" for index in range(len(found))]
            images.append(found)
            continue
        paths = find_pictures([argument])
        names += map(str, paths)
        pictures = read_pictures(paths, image_shape) / np.float32(255)
        images.append(1 - pictures if invert else pictures)
    shapes = {each.shape[1:] for each in images}
    if shapes != {tuple(image_shape)}:
        h, w, c = image_shape
        other = (shapes - {tuple(image_shape)}).pop()
        raise ValueError(f"this network takes images of {h}x{w}x{c}, and an array has {other}")
    return names, np.concatenate(images)


def _read_arrays(path: Path) -> np.ndarray:
    try:
        content = np.load(path)
        if isinstance(content, np.lib.npyio.NpzFile):
            with content as file:
                content = {name: file[name] for name in file.files}
    except Exception as error:  # whatever zipfile, zlib and numpy raise for a damaged file
        raise ValueError(f"{path} cannot be read: {error}") from None
    if isinstance(content, dict):
        if "images" not in content:
            raise ValueError(f"{path} has no array `images`, but {', '.join(content)}")
        content = content["images"]
    if content.ndim == 3:
        content = content[..., None]
    if content.dtype == np.uint8:
        return content / np.float32(255)
    if not np.issubdtype(content.dtype, np.floating):
        raise ValueError(f"images are uint8 or floating point, not {content.dtype}: {path}")
    return content


def tabulate(
    names: Sequence[str], prediction: Prediction, class_names: Sequence[str] = ()
) -> pd.DataFrame:
    """Make a table with a row for each image: its name, its label, the score of each class.

    Where classes have names, that of the label is beside it.
    """
    columns = {"image": names, "label": prediction.labels}
    if class_names:
        columns["label_name"] = [class_names[label] for label in prediction.labels]
    scores = {f"score_{k}": values for k, values in enumerate(prediction.scores.T)}
    return pd.DataFrame({**columns, **scores})


def look_inside(predictor: Predictor, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return couplings and primary poses of all images, by "LAYER_NAME" for an .npz."""
    parts: dict[str, list[np.ndarray]] = {}
    for first in range(0, len(images), INSIDE_AT_ONCE):
        _, layers = predictor.look_inside(images[first : first + INSIDE_AT_ONCE])
        for layer, values in layers.items():
            for name in ("couplings", "poses"):
                if name in values:
                    parts.setdefault(f"{layer}_{name}", []).append(np.asarray(values[name]))
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}
