"""What a network makes of its test images: mistakes, reconstructions and the pose study."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from capsjax.analysis.examples import one_of_each_class, recognised_first, some_of_each_class
from capsjax.analysis.inspection import most_confident_first, name_scores
from capsjax.data import Arrays
from capsjax.metrics import count_confusions, dice_coefficient, measures_of_classes
from capsjax.plots import figures
from capsjax.reports.page import classes
from capsjax.reports.page.decoder import MOST_WEIGHTS, program_of
from capsjax.reports.page.html import Markup, Section, element, image, join, paragraph, table
from capsjax.reports.page.pictures import drawn, is_ink, numbers, picture
from capsjax.runs.moved_poses import move_poses
from capsjax.runs.predictor import Prediction, Predictor

MOST_MISTAKES, MOST_SHOWN, MOST_POSES, MOST_MAPS = 24, 12, 30, 6
# Sliders move a dimension this far; the paper's pose study has 0.25.
POSE_RANGE, POSE_STEPS = 0.5, 11
# Above, a picture is decoded once a slider is released: it takes a tenth of a second.
MOST_PRODUCTS = 40_000_000


class Tested(NamedTuple):
    """A network and what it makes of images.

    Attributes:
      predictor: the network.
      images: the test images.
      prediction: its predictions for all of them.
    """

    predictor: Predictor
    images: Arrays
    prediction: Prediction


def sections_of_classes(tested: Tested) -> Iterator[Section]:
    """Yield the sections of images that have one class each."""
    predictor, test, prediction = tested
    count, names = predictor.model.num_classes, predictor.class_names
    matrix = count_confusions(test.labels, prediction.labels, count)
    yield classes.confusion(matrix, names)
    yield classes.per_class(matrix, names)
    yield mistakes(tested)
    if prediction.reconstruction is not None:
        yield reconstructions(tested)


def sections_of_maps(tested: Tested) -> Iterator[Section]:
    """Yield the sections of images that have a class for each pixel."""
    predictor, test, prediction = tested
    count, names = predictor.model.num_classes, predictor.class_names
    matrix = count_confusions(test.labels, prediction.labels, count)
    yield classes.confusion(matrix, names, "pixels")
    of_each = measures_of_classes(matrix)["f1"]  # of pixels, their Dice coefficient
    rows = [
        (name, f"{pixels:,}", "-" if dice is None else f"{dice:.4f}")
        for name, pixels, dice in zip(
            classes.names_of(count, names), matrix.sum(axis=1), of_each, strict=True
        )
    ]
    yield Section("classes", "Each class", table(("class", "pixels", "Dice coefficient"), rows))
    dice = np.asarray(dice_coefficient(prediction.labels, test.labels, count))
    worst = np.argsort(dice, kind="stable")[:MOST_MAPS]
    yield Section("mistakes", "The lowest Dice coefficients", _maps(tested, worst, dice))
    first = np.flatnonzero(test.labels.any(axis=(1, 2)))[:MOST_MAPS]
    yield Section("maps", "Test images and their maps", _maps(tested, first, dice))


def mistakes(tested: Tested) -> Section:
    """Show the most confident mistakes."""
    predictor, test, prediction = tested
    wrong = np.flatnonzero(prediction.labels != test.labels)
    if not wrong.size:
        return Section("mistakes", "Mistakes", paragraph("There are none."))
    order = most_confident_first(predictor.model, prediction.scores[wrong])
    worst = wrong[order][:MOST_MISTAKES].tolist()
    name = name_scores(predictor.model, prediction.scores, prediction.poses)
    text = (
        f"{len(worst)} of {len(wrong):,} mistakes, the most confident first, with the {name} of "
        "both classes"
    )
    if prediction.reconstruction is not None:
        text += "; beside each image, what the predicted capsule is decoded to"
    names = classes.names_of(predictor.model.num_classes, predictor.class_names)
    shown = [_example(tested, names, index, with_scores=True) for index in worst]
    parts = [paragraph(f"{text}."), element("div", *shown, class_="pictures")]
    return Section("mistakes", "Mistakes", join(parts))


def reconstructions(tested: Tested) -> Section:
    """Show images of all classes beside what their predicted capsules are decoded to."""
    predictor, test, _ = tested
    names = classes.names_of(predictor.model.num_classes, predictor.class_names)
    some = some_of_each_class(test.labels, MOST_SHOWN).tolist()
    shown = [_example(tested, names, index) for index in some]
    text = "Test images, each beside what the capsule of its predicted class is decoded to."
    parts = [paragraph(text), element("div", *shown, class_="pictures")]
    return Section("reconstructions", "Reconstructions", join(parts))


def pose_study(tested: Tested) -> tuple[Section, dict[str, Any] | None]:
    """Make the pose study, and what poses.js needs for it.

    Returns:
      The section, with a figure where the page cannot run the decoder; and None then.
    """
    predictor, test, prediction = tested
    names = classes.names_of(predictor.model.num_classes, predictor.class_names)
    program = program_of(predictor)
    if program is None:
        return Section("poses", "Pose study", _drawn_study(tested)), None
    order = recognised_first(test.labels, prediction.labels)
    chosen = order[some_of_each_class(test.labels[order], MOST_POSES)]
    chosen = chosen[np.argsort(test.labels[chosen], kind="stable")]
    first = prediction.labels[chosen[:1]]
    expected = predictor.decode(prediction.poses[chosen[:1]], first)[0]
    slow = program.products > MOST_PRODUCTS
    data = {
        "program": {"takes": program.takes, "steps": program.steps},
        "slow": slow,
        "range": POSE_RANGE,
        "shape": list(test.image_shape),
        "ink": is_ink(test.image_shape[-1]),
        "classes": list(names),
        "expected": numbers(expected),
        "examples": [
            {
                "name": f"{names[test.labels[index]]} (image {index})",
                "predicted": int(prediction.labels[index]),
                "picture": picture(test.images[index] / 255.0),
                "poses": np.round(prediction.poses[index].astype(float), 5).tolist(),
            }
            for index in chosen
        ],
    }
    when = "once it is released" if slow else "at once"
    text = (
        "Each slider moves one dimension of a class capsule, and the picture is decoded from it "
        f"{when}, by the network's own decoder in this page."
    )
    parts = [paragraph(text), element("div", id="pose-study")]
    return Section("poses", "Pose study", join(parts)), data


def _drawn_study(tested: Tested) -> Markup:
    predictor, test, prediction = tested
    chosen = one_of_each_class(test.labels, prediction.labels)
    offsets = np.linspace(-POSE_RANGE / 2, POSE_RANGE / 2, POSE_STEPS)
    few = test.take(chosen[:MOST_SHOWN])
    decoded = move_poses(predictor, few.images, few.labels, offsets)
    figure = figures.pose_overview(decoded, offsets, few.labels, "", predictor.class_names)
    text = (
        "Each row moves the dimension of a class capsule that changes its image most, in steps. "
        f"There are no sliders, as this page does not hold the decoder: it has more than "
        f"{MOST_WEIGHTS:,} weights, or is none that the page knows."
    )
    alternative = "one row of decoded images for each class"
    return join([paragraph(text), image(drawn(figure), alternative, class_="drawn")])


def _example(tested: Tested, names: Sequence[str], index: int, with_scores: bool = False) -> Markup:
    """Show an image, beside its reconstruction if there is one, with label and prediction."""
    _, test, prediction = tested
    label, predicted = int(test.labels[index]), int(prediction.labels[index])
    alternative = f"test image {index}: {names[label]}"
    shown = [image(picture(test.images[index] / 255.0), alternative, class_="pixels")]
    if prediction.reconstruction is not None:
        decoded = picture(prediction.reconstruction[index])
        shown.append(image(decoded, f"decoded from {names[predicted]}", class_="pixels"))
    is_right = label == predicted
    mark = element("strong", names[predicted], class_="is-right" if is_right else "is-wrong")
    scores = prediction.scores[index]
    if with_scores:
        caption = [
            element("span", "taken for ", mark, f" {scores[predicted]:.2f}"),
            Markup("<br>"),
            f"is {names[label]} {scores[label]:.2f}, image {index}",
        ]
    else:
        caption = [f"{names[label]}, predicted ", mark]
    return element("figure", element("div", *shown, class_="pair"), element("figcaption", *caption))


def _maps(tested: Tested, chosen: np.ndarray, dice: np.ndarray) -> Markup:
    _, test, prediction = tested
    decoded = prediction.reconstruction
    figure = figures.maps(
        test.images[chosen] / 255.0,
        test.labels[chosen],
        prediction.labels[chosen],
        None if decoded is None else decoded[chosen],
        dice[chosen],
        "",
    )
    return image(drawn(figure), "images above their labels and predicted maps", class_="drawn")
