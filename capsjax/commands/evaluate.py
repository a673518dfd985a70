"""Evaluate a trained network exactly, over every example.

    python experiments/evaluate.py --workdir=runs/a
    python experiments/evaluate.py --workdir=runs/a --checkpoint=last --data=kmnist

Writes WORKDIR/evaluation/DATA-PART-STEP/: evaluation.json, which names the data and their
fingerprint, confusion.png, mistakes.png and predictions.npz (labels, predictions, scores, in the
order of the data). Beside the accuracy stand the balanced accuracy, the macro F1 and the accuracy
of always naming the commonest class. For maps of labels, classes are those of pixels, mistakes.png
shows the maps of the lowest Dice coefficients, and there are no scores. Data of the run's own name
that are not the run's own are refused, unless --other_data is given. Their results, and those on a
--data_file of another --data, go to DATA-PART-STEP-DIGEST/, with the digest of the data. --crops=13
adds "-13-crops" to these names.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from absl import flags

from capsjax.analysis.inspection import most_confident_first, name_scores
from capsjax.commands import command_line
from capsjax.metrics import (
    count_confusions,
    describe_imbalance,
    dice_coefficient,
    measures_of_classes,
    summary_of_classes,
)
from capsjax.plots import figures
from capsjax.runs.compilation import keep_compiled_programs
from capsjax.runs.files import digest, naming, write_json
from capsjax.runs.predictor import Predictor, load_predictor
from capsjax.runs.trained_data import load_data

FLAGS = flags.FLAGS


def define_flags() -> None:
    command_line.define_trained_run_flags()
    flags.DEFINE_string(
        "data", "", "Another data set: one that capsjax list names, or one of TFDS."
    )
    flags.DEFINE_enum("part", "test", ["test", "train"], "Part of the data set.")
    flags.DEFINE_integer(
        "crops",
        None,
        "Crops of each image, whose scores are averaged: 1 or 13, in place of the config's "
        "model.input.crops.",
    )
    flags.DEFINE_integer("mistakes", 10, "Mistakes in the figure.", lower_bound=1)


def main() -> None:
    keep_compiled_programs()
    workdir = command_line.existing_run(FLAGS.workdir)
    predictor = load_predictor(workdir, FLAGS.checkpoint, FLAGS.crops)
    crops = "" if FLAGS.crops is None else f"-{FLAGS.crops}-crops"
    name = FLAGS.data or predictor.config.data.name
    data, folder = load_data(
        predictor,
        workdir,
        workdir / "evaluation" / f"{name}-{FLAGS.part}-{predictor.step}{crops}",
        name=name,
        part=FLAGS.part,
        dir=FLAGS.data_dir,
        file=FLAGS.data_file,
        other=FLAGS.other_data,
    )
    if data.labels.ndim == 2:
        raise ValueError(
            "this command counts one class for each image or pixel; the accuracy of several is in "
            f"{workdir / 'summary.json'}"
        )
    title = f"{predictor.config.name}, step {predictor.step}, on {name} ({FLAGS.part})"
    arguments = (predictor, data.images, data.labels, folder, title, FLAGS.mistakes)
    about = {"data": name, "part": FLAGS.part, "fingerprint": digest(data.fingerprint())}
    if FLAGS.crops is not None:
        about["crops"] = FLAGS.crops
    if FLAGS.data_file:
        about["file"] = FLAGS.data_file
    if data.labels.ndim == 3:
        result = evaluate_maps(*arguments, about=about)
        counted = f" of the pixels, Dice {result['dice']:.4f}, of {result['num_examples']} images"
    else:
        result = evaluate(*arguments, about=about)
        counted = f", {result['num_errors']} errors of {result['num_examples']}"
        imbalance = describe_imbalance(result, predictor.model.num_classes)
        counted += f"; {imbalance}" if imbalance else ""
    print(f"{title}: accuracy {100 * result['accuracy']:.2f} %{counted}\nwrote {folder}")


def evaluate(
    predictor: Predictor,
    images: np.ndarray,
    labels: np.ndarray,
    folder: Path,
    title: str,
    max_mistakes: int = 10,
    about: Mapping[str, Any] = MappingProxyType({}),
) -> dict:
    """Predict all examples and write the results.

    Args:
      predictor: the network.
      images, labels: the examples.
      folder: for the results.
      title: of the figures.
      max_mistakes: examples in the figure of mistakes.
      about: facts about the data for evaluation.json.

    Returns:
      The contents of evaluation.json.
    """
    prediction = predictor.predict(images, predictor.config.evaluate.batch_size)
    wrong = prediction.labels != labels
    matrix = count_confusions(labels, prediction.labels, predictor.model.num_classes)
    of_each = measures_of_classes(matrix)
    result = {
        **about,
        "step": predictor.step,
        "num_examples": len(labels),
        "num_errors": int(wrong.sum()),
        "accuracy": float(1 - wrong.mean()),
        "error": float(wrong.mean()),
        **summary_of_classes(matrix),
        "per_class_accuracy": of_each["recall"],
        "per_class_precision": of_each["precision"],
        "per_class_f1": of_each["f1"],
        "confusion_matrix": matrix.tolist(),
    }
    if predictor.class_names:
        result["class_names"] = list(predictor.class_names)

    worst = np.flatnonzero(wrong)
    order = most_confident_first(predictor.model, prediction.scores[worst])
    worst = worst[order][:max_mistakes]
    name = name_scores(predictor.model, prediction.scores, prediction.poses)
    folder.mkdir(parents=True, exist_ok=True)
    with naming(folder):
        figures.mistakes(
            images[worst] / 255.0,
            None if prediction.reconstruction is None else prediction.reconstruction[worst],
            labels[worst],
            prediction.labels[worst],
            prediction.scores[worst],
            f"{_describe_mistakes(int(wrong.sum()), len(worst))}: {title}\n"
            f"(taken for, is; {name} of both classes)",
            predictor.class_names,
        ).savefig(folder / "mistakes.png", dpi=150)
        figures.confusion_matrix(matrix, title, predictor.class_names).savefig(
            folder / "confusion.png", dpi=150
        )
        np.savez(
            folder / "predictions.npz",
            labels=labels,
            predictions=prediction.labels,
            scores=prediction.scores,
        )
    write_json(folder / "evaluation.json", result)
    return result


def _describe_mistakes(count: int, shown: int) -> str:
    if count > shown:
        return f"The {shown} most confident of {count} mistakes"
    return {0: "Mistakes", 1: "The only mistake"}.get(count, f"All {count} mistakes")


def evaluate_maps(
    predictor: Predictor,
    images: np.ndarray,
    labels: np.ndarray,
    folder: Path,
    title: str,
    max_mistakes: int = 10,
    about: Mapping[str, Any] = MappingProxyType({}),
) -> dict:
    """Predict the maps of all examples and write the results.

    Args:
      predictor, images, labels, folder, title, max_mistakes, about: as in `evaluate`.

    Returns:
      The contents of evaluation.json.
    """
    prediction = predictor.predict(images, predictor.config.evaluate.batch_size)
    num_classes = predictor.model.num_classes
    matrix = count_confusions(labels, prediction.labels, num_classes)
    dice = np.asarray(dice_coefficient(prediction.labels, labels, num_classes))
    accuracy = float(np.trace(matrix) / matrix.sum())
    result = {
        **about,
        "step": predictor.step,
        "num_examples": len(labels),
        "accuracy": accuracy,
        "error": 1 - accuracy,
        "dice": float(dice.mean()),
        "per_class_dice": measures_of_classes(matrix)["f1"],
        "confusion_matrix": matrix.tolist(),
    }
    worst = np.argsort(dice, kind="stable")[:max_mistakes]
    decoded = prediction.reconstruction
    folder.mkdir(parents=True, exist_ok=True)
    with naming(folder):
        figures.maps(
            images[worst] / 255.0,
            labels[worst],
            prediction.labels[worst],
            None if decoded is None else decoded[worst],
            dice[worst],
            f"The lowest Dice coefficients: {title}",
        ).savefig(folder / "mistakes.png", dpi=150)
        figures.confusion_matrix(matrix, f"Pixels: {title}").savefig(
            folder / "confusion.png", dpi=150
        )
        np.savez(folder / "predictions.npz", labels=labels, predictions=prediction.labels)
    write_json(folder / "evaluation.json", result)
    return result
