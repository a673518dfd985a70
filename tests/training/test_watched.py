"""The validation metrics that decide, and which of two values is better."""

import math

import pytest

from capsjax.training.watched import Watched, selecting, watched

METRICS = {"loss": 3.0, "accuracy": 0.5, "error": 0.5}


def test_of_maps_the_dice_coefficient_counts_and_of_others_the_loss():
    assert watched(METRICS) == Watched("loss", 3.0)
    better, worse = (watched({"loss": 3.0, "dice": dice}) for dice in (0.9, 0.8))
    assert better.name == "dice"
    assert better.cost < worse.cost


@pytest.mark.parametrize(
    ("name", "better", "worse"), [("loss", 0.1, 0.2), ("accuracy", 0.9, 0.8), ("dice", 0.9, 0.8)]
)
def test_which_is_better(name, better, worse):
    assert Watched(name, better).is_better_than(worse)
    assert not Watched(name, worse).is_better_than(better)
    assert not Watched(name, better).is_better_than(better), "the first of equal ones counts"
    assert Watched(name, worse).is_better_than(None)
    for value in (math.nan, math.inf, -math.inf):
        assert not Watched(name, value).is_better_than(None)
        assert not Watched(name, value).is_better_than(worse)


def test_parameters_are_chosen_by_the_named_metric():
    assert selecting(METRICS, "loss") == Watched("loss", 3.0)
    assert selecting(METRICS, "accuracy") == Watched("accuracy", 0.5)
    assert selecting({**METRICS, "dice": 0.25}, "dice") == Watched("dice", 0.25)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_scores_without_a_finite_loss_are_never_chosen(loss):
    chosen = selecting({**METRICS, "loss": loss}, "accuracy")
    assert chosen.name == "accuracy"
    assert not chosen.is_better_than(None)
