"""Tasks: targets, predictions, accuracy and masks, worked by hand."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from capsjax import tasks
from capsjax.models import Output
from capsjax.training import Objective

SCORES = jnp.array([[0.1, 0.7, 0.6], [0.9, 0.2, 0.55]])


def test_classification_takes_the_highest_score():
    task = tasks.Classification()
    labels = jnp.array([2, 0])
    assert task.predictions(SCORES).tolist() == [1, 0]
    assert task.correct(SCORES, labels).tolist() == [0.0, 1.0]
    assert task.targets(labels, 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert task.mask(SCORES, labels).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert task.mask(SCORES, None).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert task.shape_of_labels((28, 28, 1), 3) == ()


def test_several_labels_are_all_to_be_found_and_no_other():
    labels = jnp.array([[0, 1, 1], [1, 0, 0]])
    task = tasks.MultiLabel()
    assert task.predictions(SCORES).tolist() == [[0, 1, 1], [1, 0, 1]]
    assert task.correct(SCORES, labels).tolist() == [1.0, 0.0]
    assert task.targets(labels, 3).tolist() == labels.tolist()
    assert task.mask(SCORES, None).tolist() == [[0, 1, 1], [1, 0, 1]]
    assert task.mask(SCORES, labels).tolist() == labels.tolist()
    assert task.shape_of_labels((28, 28, 1), 3) == (3,)


def test_a_known_number_of_labels_are_those_of_the_highest_scores():
    assert tasks.MultiLabel(count=2).predictions(SCORES).tolist() == [[0, 1, 1], [1, 0, 1]]
    assert tasks.MultiLabel(count=1).predictions(SCORES).tolist() == [[0, 1, 0], [1, 0, 0]]


def test_more_labels_of_an_image_than_there_are_classes_are_refused():
    task = tasks.MultiLabel(count=4)
    assert task.shape_of_labels((28, 28, 1), 4) == (4,)
    with pytest.raises(ValueError, match=r"task.multilabel.count is at most 3 here, .*, not 4"):
        tasks.check_labels(task, (10, 3), (28, 28, 1), 3)


@pytest.mark.slow
def test_a_map_is_as_correct_as_its_pixels():
    labels = jnp.array([[[0, 1], [2, 2]]])
    scores = jnp.eye(3)[jnp.array([[[0, 1], [2, 1]]])]
    task = tasks.Segmentation()
    assert task.predictions(scores).tolist() == [[[0, 1], [2, 1]]]
    assert task.correct(scores, labels).tolist() == [0.75]
    # Twice 1 pixel of 1 + 2, for both classes but the background.
    np.testing.assert_allclose(task.dice(scores, labels), [2 / 3], rtol=1e-6)
    np.testing.assert_array_equal(task.targets(labels, 3), jnp.eye(3)[labels])
    assert task.mask(scores, labels).tolist() == [[0, 1, 1]], "the background is not decoded"
    assert task.shape_of_labels((28, 30, 1), 3) == (28, 30)


@pytest.mark.parametrize(
    ("task", "scores", "labels"),
    [
        (tasks.Segmentation(), jnp.ones((1, 3)), jnp.zeros((1, 2, 2), int)),
        (tasks.Classification(), jnp.ones((1, 2, 2, 3)), jnp.zeros(1, int)),
    ],
)
def test_maps_need_a_network_of_maps(task, scores, labels):
    objective = Objective({"cross_entropy": {}}, {"cross_entropy": 1.0}, task)
    with pytest.raises(ValueError, match=r"need a network of maps \(--config=segcaps or unet\)"):
        objective.parts(Output(scores), jnp.zeros((1, 2, 2, 1)), labels)


def test_losses_take_the_targets_of_the_task():
    objective = Objective({"margin": {}}, {"margin": 1.0}, tasks.MultiLabel())
    output = Output(jnp.array([[0.9, 0.9, 0.1]]))
    images = jnp.zeros((1, 2, 2, 1))
    parts = objective.parts(output, images, jnp.array([[1, 1, 0]]))
    assert float(parts["margin"]) == pytest.approx(0.0, abs=1e-12)
    parts = objective.parts(output, images, jnp.array([[1, 0, 0]]))
    assert float(parts["margin"]) == pytest.approx(0.5 * 0.8**2)


def test_the_loss_of_a_map_is_the_mean_over_its_pixels():
    objective = Objective({"cross_entropy": {}}, {"cross_entropy": 1.0}, tasks.Segmentation())
    scores = jnp.zeros((2, 4, 4, 5))
    parts = objective.parts(Output(scores), jnp.zeros((2, 4, 4, 1)), jnp.ones((2, 4, 4), int))
    assert float(parts["cross_entropy"]) == pytest.approx(np.log(5), rel=1e-5)


@pytest.mark.slow
def test_an_empty_map_that_is_found_empty_has_a_dice_coefficient_of_one():
    labels = jnp.zeros((3, 2, 2), int).at[1, 0, 0].set(1)
    scores = jnp.eye(2)[labels[jnp.array([0, 0, 1])]]
    assert tasks.Segmentation().dice(scores, labels).tolist() == [1.0, 0.0, 0.0]


# The classes of two pixels and their scores: the first is background, the second of class 1.
PIXELS = jnp.array([[[0.75, 0.25, 0.0], [0.5, 0.5, 0.1]]])


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        # Over 2 pixels and 2 classes but the background.
        (
            "binary_cross_entropy",
            {"positive_weight": 3.0},
            -(np.log(0.75) + 3 * np.log(0.5) + np.log(0.9)) / 4,
        ),
        # Class 1: 2 · 0.5 of 0.75 + 1; class 2 has no pixel.
        ("soft_dice", {"smooth": 0.0}, (1 - 1 / 1.75 + 1) / 2),
        ("margin", {"background": False}, (0.5 * 0.15**2 + 0.4**2) / 2),
        ("margin", {}, (0.5 * 0.15**2 + 0.15**2 + 0.4**2 + 0.5 * 0.4**2) / 2),
        ("reconstruction", {"foreground": True, "reduction": "mean"}, 0.5**2),
    ],
)
def test_losses_of_a_map_by_hand(name, settings, expected):
    objective = Objective({name: settings}, {name: 1.0}, tasks.Segmentation())
    output = Output(PIXELS[:, None], reconstruction=jnp.array([[[[0.5], [0.3]]]]))
    images = jnp.array([[[[1.0], [0.8]]]])
    parts = objective.parts(output, images, jnp.array([[[0, 1]]]))
    assert float(parts[name]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        (tasks.Classification(), jnp.array([0, 1])),
        (tasks.MultiLabel(), jnp.array([[1, 0, 0], [0, 1, 0]])),
    ],
)
def test_class_0_of_an_image_is_a_class_as_the_others(task, labels):
    names = {"binary_cross_entropy": {}, "soft_dice": {}}
    objective = Objective(names, dict.fromkeys(names, 1.0), task)
    # Scores with the classes 0 and 2 exchanged, and labels: no loss may tell them apart.
    for scores in (SCORES, SCORES[:, ::-1]):
        ours = labels if scores is SCORES else exchanged(labels)
        parts = objective.parts(Output(scores), jnp.zeros((2, 4, 4, 1)), ours)
        p = SCORES[jnp.array([0, 1]), jnp.array([0, 1])]
        others = SCORES.at[jnp.array([0, 1]), jnp.array([0, 1])].set(0.0)
        cross_entropy = -(jnp.log(p).sum() + jnp.log1p(-others).sum()) / 6
        assert float(parts["binary_cross_entropy"]) == pytest.approx(float(cross_entropy), rel=1e-5)
        dice = jnp.sum(2 * p / (p + 1)) / 6
        assert float(parts["soft_dice"]) == pytest.approx(1 - float(dice), rel=1e-4)


def exchanged(labels):
    return 2 - labels if labels.ndim == 1 else labels[:, ::-1]


def test_a_task_of_ones_own_has_a_name(monkeypatch):
    monkeypatch.setattr(tasks, "TASKS", dict(tasks.TASKS))

    @dataclasses.dataclass(frozen=True)
    class Mine(tasks.Classification):
        weight: float = 2.0

    tasks.register("mine", Mine)
    assert tasks.make_task("mine", weight=3.0) == Mine(3.0)
    with pytest.raises(ValueError, match="there is a task 'classification' already"):
        tasks.register("classification", Mine)
    with pytest.raises(ValueError, match="did you mean 'weight'"):
        tasks.make_task("mine", wight=1.0)
