"""Metrics: uneven batches add up to the whole."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from capsjax.metrics import (
    Sums,
    add_means,
    count_confusions,
    describe_imbalance,
    is_correct,
    means_of,
    measures_of_classes,
    results_of,
    summary_of_classes,
    zero_sums,
)


def test_is_correct():
    lengths = jnp.array([[0.1, 0.9, 0.0], [0.8, 0.2, 0.3], [0.1, 0.2, 0.3]])
    correct = is_correct(lengths, jnp.array([1, 1, 2]))
    np.testing.assert_array_equal(correct, [1.0, 0.0, 1.0])
    assert correct.dtype == jnp.float32


def test_is_correct_keeps_the_axis_of_a_batch_of_one():
    chex.assert_shape(is_correct(jnp.array([[0.1, 0.9]]), jnp.array([1])), (1,))


def test_two_uneven_batches_by_hand():
    sums = zero_sums(("loss", "correct"))
    sums = add_means(sums, {"loss": jnp.array(1.0), "correct": jnp.array(1.0)}, 3)
    sums = add_means(sums, {"loss": jnp.array(5.0), "correct": jnp.array(0.0)}, 1)
    # The mean of the batch means would be 3.0 and 0.5.
    assert means_of(sums) == {"loss": 2.0, "accuracy": 0.75, "error": 0.25}


@pytest.mark.parametrize("cuts", [(), (1,), (16,), (4, 8, 12, 16), (1, 2, 15)])
def test_any_batches_equal_the_whole(cuts):
    rng = np.random.default_rng(0)
    values = {"loss": rng.normal(size=17), "correct": rng.integers(0, 2, 17)}
    sums = zero_sums(("loss", "correct"))
    for indices in np.split(np.arange(17), cuts):
        means = {name: jnp.float32(value[indices].mean()) for name, value in values.items()}
        sums = add_means(sums, means, len(indices))
    assert sums.count == 17
    got = means_of(sums)
    np.testing.assert_allclose(got["loss"], values["loss"].mean(), rtol=1e-5)
    np.testing.assert_allclose(got["accuracy"], values["correct"].mean(), rtol=1e-5)
    np.testing.assert_allclose(got["error"], 1 - values["correct"].mean(), rtol=1e-5)


def test_means_are_python_numbers_under_their_own_names():
    means = means_of(add_means(zero_sums(("loss",)), {"loss": jnp.array(0.5)}, 2))
    assert means == {"loss": 0.5}
    assert type(means["loss"]) is float


def test_sums_pass_through_jit():
    add = jax.jit(add_means, static_argnums=2)
    sums = zero_sums(("loss",))
    for _ in range(3):
        sums = add(sums, {"loss": jnp.array(0.5)}, 4)
    chex.assert_trees_all_close(sums.totals, {"loss": jnp.array(6.0)})
    chex.assert_trees_all_close(sums.count, jnp.array(12.0))


def test_a_metric_that_was_not_asked_for_is_left_out():
    sums = add_means(zero_sums(("loss",)), {"loss": jnp.array(1.0), "extra": jnp.array(9.0)}, 2)
    assert means_of(sums) == {"loss": 1.0}


LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 4])
PREDICTIONS = np.array([0, 0, 1, 2, 1, 0, 2, 1])


def test_measures_of_classes_by_hand():
    confusions = count_confusions(LABELS, PREDICTIONS, 5)
    assert confusions.tolist() == [
        [2, 1, 1, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0],
    ]
    of_each = measures_of_classes(confusions)
    assert of_each["precision"] == [2 / 3, 1 / 3, 1 / 2, None, None]
    assert of_each["recall"] == [1 / 2, 1 / 2, 1.0, None, 0.0]
    assert of_each["f1"] == [4 / 7, 2 / 5, 2 / 3, None, 0.0]


@pytest.mark.parametrize("wrong", [[5, 0], [-1, 0]])
def test_classes_that_there_are_not_are_refused_and_not_counted_as_others(wrong):
    right = np.zeros(2, int)
    with pytest.raises(ValueError, match="predictions run from"):
        count_confusions(right, np.array(wrong), 5)
    with pytest.raises(ValueError, match="labels run from"):
        count_confusions(np.array(wrong), right, 5)
    assert not count_confusions(right[:0], right[:0], 5).any()


def test_summaries_of_classes_are_those_of_scikit_learn():
    summary = summary_of_classes(count_confusions(LABELS, PREDICTIONS, 5))
    balanced = sklearn_metrics.balanced_accuracy_score(LABELS, PREDICTIONS)
    assert summary["balanced_accuracy"] == pytest.approx(balanced)
    f1 = sklearn_metrics.f1_score(LABELS, PREDICTIONS, average="macro", zero_division=0)
    assert summary["macro_f1"] == pytest.approx(f1)
    assert summary["majority_accuracy"] == 4 / 8


def test_results_have_them_where_there_are_predictions():
    sums = Sums({"correct": jnp.array(4.0)}, jnp.array(8.0))
    plain, whole = results_of(sums), results_of(sums, LABELS, PREDICTIONS, 5)
    assert plain.items() < whole.items()
    assert whole["balanced_accuracy"] == 0.5
    maps = np.zeros((8, 2, 2), np.int32)
    assert results_of(sums, maps, None, 5) == plain


def test_maps_have_no_number_of_errors():
    sums = Sums({"correct": jnp.array(6.25), "dice": jnp.array(4.0)}, jnp.array(8.0))
    assert results_of(sums) == {
        "accuracy": 6.25 / 8,
        "error": 1.75 / 8,
        "dice": 0.5,
        "num_examples": 8,
    }


@pytest.mark.parametrize(
    ("counts", "accuracy", "shown"),
    [
        ((50, 50), 0.5, False),
        ((70, 30), 0.5, True),
        # A rare class is a small part of the accuracy, and as large a part of the balanced one.
        ((100, 100, 100, 2), 1.0, True),
    ],
)
def test_an_imbalance_is_described_where_there_is_one(counts, accuracy, shown):
    right = [round(accuracy * count) for count in counts]
    right[-1] = 0 if counts[-1] == 2 else right[-1]
    confusions = np.diag(right)
    confusions[:, 0] += np.array(counts) - right
    results = summary_of_classes(confusions)
    results["accuracy"] = sum(np.diag(confusions)) / sum(counts)
    line = describe_imbalance(results, len(counts))
    assert bool(line) == shown
    assert not describe_imbalance({"accuracy": 0.9}, 2)
    if shown:
        assert f"always the commonest class {100 * max(counts) / sum(counts):.2f} %" in line
