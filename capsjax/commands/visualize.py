"""Draw what a trained network sees: reconstructions, pose study, curves, couplings.

    python experiments/visualize.py --workdir=runs/a

Writes WORKDIR/figures/*.png from test images. A network without capsules has only training
curves, and one for maps of labels these and the maps.
"""

from collections.abc import Iterator

import numpy as np
from absl import flags
from matplotlib.figure import Figure

from capsjax.analysis.examples import one_of_each_class, some_of_each_class
from capsjax.commands import command_line
from capsjax.data import Arrays
from capsjax.metrics import dice_coefficient
from capsjax.plots import figures
from capsjax.runs.compilation import keep_compiled_programs
from capsjax.runs.files import naming
from capsjax.runs.moved_poses import move_poses
from capsjax.runs.predictor import Predictor, load_predictor
from capsjax.runs.trained_data import load_data
from capsjax.runs.writers import read_metrics

FLAGS = flags.FLAGS


def define_flags() -> None:
    command_line.define_trained_run_flags()
    flags.DEFINE_integer("images", 12, "Images in the figures.", lower_bound=1)
    flags.DEFINE_float(
        "pose_range", 0.25, "Poses move over [-RANGE, RANGE]; the paper's is 0.25.", lower_bound=0.0
    )
    flags.DEFINE_integer("pose_steps", 11, "Steps of the pose study.", lower_bound=2)


def main() -> None:
    keep_compiled_programs()
    workdir = command_line.existing_run(FLAGS.workdir)
    predictor = load_predictor(workdir, FLAGS.checkpoint)
    test, folder = load_data(
        predictor,
        workdir,
        workdir / "figures",
        dir=FLAGS.data_dir,
        file=FLAGS.data_file,
        other=FLAGS.other_data,
    )
    folder.mkdir(exist_ok=True)
    offsets = np.linspace(-FLAGS.pose_range, FLAGS.pose_range, FLAGS.pose_steps)
    for name, figure in draw(predictor, test, read_metrics(workdir), FLAGS.images, offsets):
        path = folder / f"{name}.png"
        with naming(path):
            figure.savefig(path, dpi=150)
        print(path, flush=True)


def draw(
    predictor: Predictor, test: Arrays, records: list[dict], count: int, offsets: np.ndarray
) -> Iterator[tuple[str, Figure]]:
    """Draw all figures, by name.

    Args:
      predictor: the trained network.
      test: test images.
      records: lines of metrics.jsonl.
      count: images in the figures.
      offsets: what the pose study adds to a dimension, (steps,).
    """
    title = f"{predictor.config.name}, step {predictor.step}"
    if records:
        yield "curves", figures.training_curves(records, f"Training of {title}")
    if test.labels.ndim == 3:
        yield "maps", draw_maps(predictor, test, count, title)
    if test.labels.ndim != 1:
        print("couplings and poses are drawn for data with one class for each image alone")
        return
    few = test.take(some_of_each_class(test.labels, count))
    output, inside = predictor.look_inside(few.images)
    couplings = inside.get("class_layer", {}).get("couplings")
    if couplings is None:  # a network without capsules
        return
    predictions, names = np.asarray(output.scores).argmax(axis=-1), predictor.class_names
    shown = few.images / 255.0
    fewer = slice(0, 6)
    yield (
        "couplings",
        figures.couplings(
            shown[fewer],
            np.asarray(couplings)[fewer],
            few.labels[fewer],
            predictions[fewer],
            f"Coupling coefficients after the last round: {title}",
            names,
        ),
    )
    if output.reconstruction is None:
        return
    yield (
        "reconstructions",
        figures.reconstructions(
            shown,
            np.asarray(output.reconstruction),
            few.labels,
            predictions,
            f"Test images and their reconstructions: {title}",
            names,
        ),
    )
    # Ten of each class are enough to find one that is recognised.
    several = test.take(some_of_each_class(test.labels, 10 * test.num_classes))
    recognised = predictor.predict(several.images).labels
    chosen = several.take(one_of_each_class(several.labels, recognised))
    decoded = move_poses(predictor, chosen.images, chosen.labels, offsets)
    study = f"Poses moved and decoded: {title}"
    yield "poses", figures.pose_overview(decoded, offsets, chosen.labels, study, names)
    for label, each in zip(chosen.labels, decoded, strict=True):
        yield f"poses_class_{label}", figures.pose_study(each, offsets, int(label), study, names)


def draw_maps(predictor: Predictor, test: Arrays, count: int, title: str) -> Figure:
    """Draw the first test images that have more than background, with their maps."""
    few = test.take(np.flatnonzero(test.labels.any(axis=(1, 2)))[:count])
    prediction = predictor.predict(few.images, predictor.config.evaluate.batch_size)
    return figures.maps(
        few.images / 255.0,
        few.labels,
        prediction.labels,
        prediction.reconstruction,
        np.asarray(dice_coefficient(prediction.labels, few.labels, predictor.model.num_classes)),
        f"Test images and their maps: {title}",
    )
