"""Statistics of a sweep, against values from tables, worked by hand, and SciPy's tests."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from capsjax.analysis.statistics import (
    MOST_FLIPPED,
    Summary,
    compare,
    compare_with_reference,
    grid,
    holm,
    main_effects,
    sign_flip_p,
    summarize,
    values_at,
)


def test_interval_of_a_small_sample():
    # Mean 3, squared distances 4 + 1 + 0 + 1 + 4 = 10, deviation sqrt(10 / 4); Student's table has
    # t = 2.776 for 4 degrees of freedom and 95 %, 4.604 for 99 %.
    sample = summarize([1.0, 2.0, 3.0, 4.0, 5.0])
    assert sample.mean == 3.0
    assert sample.deviation == pytest.approx(math.sqrt(2.5))
    assert sample.half_width == pytest.approx(2.776 * math.sqrt(2.5 / 5), rel=2e-4)
    assert sample.interval == pytest.approx((1.037, 4.963), abs=1e-3)
    wider = summarize([1.0, 2.0, 3.0, 4.0, 5.0], confidence=0.99)
    assert wider.half_width == pytest.approx(4.604 * math.sqrt(2.5 / 5), rel=2e-4)


def test_samples_without_an_interval():
    assert summarize([]) == Summary((), None, None, None)
    assert summarize([2.5]) == Summary((2.5,), 2.5, None, None)
    assert summarize([2.5, 2.5]) == Summary((2.5, 2.5), 2.5, 0.0, None)
    assert summarize([0.0, 0.0, 0.0]).deviation == 0.0
    # Three differences of 0.1, equal but for rounding.
    assert summarize([0.3 - 0.2, 0.4 - 0.3, 1.1 - 1.0]).deviation == 0.0
    for values in ([], [2.5], [2.5, 2.5]):
        assert summarize(values).interval is None


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, -0.5])
def test_a_confidence_that_is_no_fraction_is_refused(confidence):
    with pytest.raises(ValueError, match=r"not between 0 and 1; for 95 % it is --confidence=0.95"):
        summarize([1.0, 2.0], confidence)


def test_paired_t_test_by_hand():
    # Differences 1, 2, 3: t = 2 / (1 / sqrt 3) = 3.4641; with 2 degrees of freedom
    # p = 1 - t / sqrt(t^2 + 2) = 1 - sqrt(12 / 14).
    comparison = compare([1.0, 2.0, 3.0])
    assert comparison.difference.values == (1.0, 2.0, 3.0)
    assert comparison.p_value == pytest.approx(1 - math.sqrt(12 / 14))
    assert comparison.sign_flip_p == 0.25


@pytest.mark.parametrize("n", [2, 3, 8, 25])
def test_paired_t_test_is_scipys(n):
    pairs = np.random.default_rng(n).normal((0.0, 0.3), 1.0, (n, 2))
    expected = stats.ttest_rel(pairs[:, 0], pairs[:, 1])
    comparison = compare(pairs[:, 0] - pairs[:, 1], 0.9)
    assert comparison.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    expected_interval = expected.confidence_interval(0.9)
    assert comparison.difference.interval == pytest.approx(tuple(expected_interval), rel=1e-9)
    assert (comparison.sign_flip_p is None) == (n > MOST_FLIPPED)


def test_interval_and_p_value_agree_on_what_is_shown():
    for shift in np.linspace(0, 3, 20).tolist():
        comparison = compare([shift + noise for noise in (-0.6, -0.1, 0.2, 0.5)])
        low, high = comparison.difference.interval
        assert (low <= 0 <= high) == (comparison.p_value >= 0.05)


def test_degenerate_comparisons():
    none, one = compare([]), compare([-1.0])
    assert (none.p_value, none.sign_flip_p, none.difference.mean) == (None, None, None)
    assert (one.p_value, one.sign_flip_p, one.difference.mean) == (None, 1.0, -1.0)
    same = compare([0.5, 0.5, 0.5])
    assert (same.p_value, same.sign_flip_p, same.difference.interval) == (None, 0.25, None)
    equal = compare([0.0, 0.0])
    assert (equal.p_value, equal.sign_flip_p, equal.difference.mean) == (None, 1.0, 0.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_leaves_nothing_to_say(value):
    comparison = compare([1.0, value, 2.0])
    assert comparison.difference[1:] == (None, None, None)
    assert comparison[1:] == (None, None, None)


def test_sign_flip_by_hand():
    # All of one sign: only all plus and all minus reach the sum, 2 / 2^n and never less.
    assert sign_flip_p([0.5, 0.1, 0.2]) == 2 / 8
    assert sign_flip_p([-1.0] * 5) == 2 / 32
    # 3 - 1 + 1 = 3. Sums of ±3 ±1 ±1: ±5 once each, ±3 twice each, ±1 once each.
    assert sign_flip_p([3.0, -1.0, 1.0]) == 6 / 8
    # 0.1 + 0.2 and 0.3 differ by rounding alone: 0.1 + 0.2 - 0.3 is 0, which every sum reaches.
    assert sign_flip_p([0.1, 0.2, -0.3]) == 1.0
    assert sign_flip_p([0.2, -0.12, 0.28, -0.52, -0.24, 0.04, 0.04, 0.32]) == 1.0
    assert sign_flip_p([]) is None
    assert sign_flip_p([1.0] * (MOST_FLIPPED + 1)) is None


def test_sign_flip_is_the_permutation_test():
    differences = np.random.default_rng(0).normal(0.5, 1.0, 9)
    expected = stats.permutation_test(
        (differences,), lambda x: x.mean(), permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flip_p(differences.tolist()) == pytest.approx(expected.pvalue)


def test_holm_by_hand():
    # Sorted 0.01, 0.03, 0.04 times 3, 2, 1: 0.03, 0.06, 0.04, and the last is raised to 0.06.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([None, 0.02, None]) == [None, 0.02, None]
    assert holm([]) == []


FACTORS = {"rounds": ("1", "3"), "decoder": ("no", "yes", "big")}


def additive(seeds=(0, 1)):
    """A seed adds 10, three rounds add 1, the decoders add 0, 0.5 and 2; and a little noise."""
    index = pd.MultiIndex.from_product([*FACTORS.values(), seeds], names=[*FACTORS, None])
    measured = pd.Series(0.0, index)
    for (i, rounds), (j, decoder), seed in itertools.product(
        enumerate(FACTORS["rounds"]), enumerate(FACTORS["decoder"]), seeds
    ):
        noise = 0.01 * ((5 * i + 7 * j + 3 * seed + i * j * seed) ** 2 % 11)
        measured[rounds, decoder, seed] = 10.0 * seed + i + (0.0, 0.5, 2.0)[j] + noise
    return measured


def test_values_at_a_point_are_those_that_were_measured():
    measured = additive(seeds=(4, 2, 3))
    measured["3", "big", 2] = math.nan
    expected = {seed: measured["3", "big", seed] for seed in (4, 3)}
    assert values_at(measured, ("3", "big")).to_dict() == expected


def test_comparison_with_the_reference_pairs_the_seeds():
    measured, points = additive(seeds=(0, 1, 2)), grid(FACTORS)
    comparisons = compare_with_reference(measured, points, ("1", "no"))
    assert list(comparisons) == points[1:]
    big = comparisons["3", "big"]
    by_hand = [measured["3", "big", seed] - measured["1", "no", seed] for seed in range(3)]
    assert big.difference.values == pytest.approx(by_hand)
    # Seeds lie 10 apart; the pairs remove that.
    assert big.difference.deviation < 0.1
    corrected = holm([each.p_value for each in comparisons.values()])
    assert [each.holm_p for each in comparisons.values()] == corrected
    assert any(each.holm_p > each.p_value for each in comparisons.values())


def test_a_missing_trial_takes_its_pair_out_and_no_other():
    measured = additive(seeds=(0, 1, 2))
    measured["1", "no", 1] = measured["3", "yes", 2] = math.nan
    comparisons = compare_with_reference(measured, grid(FACTORS), ("1", "no"))
    assert len(comparisons["3", "big"].difference.values) == 2
    lonely = comparisons["3", "yes"]
    expected = measured["3", "yes", 0] - measured["1", "no", 0]
    assert lonely.difference.values == (expected,)
    assert (lonely.p_value, lonely.holm_p) == (None, None)


def test_main_effects_move_one_factor_alone():
    measured = additive()
    effects = main_effects(measured, FACTORS)
    assert [(e.factor, e.first, e.other) for e in effects] == [
        ("rounds", "1", "3"),
        ("decoder", "no", "yes"),
        ("decoder", "no", "big"),
    ]
    rounds, yes, big = (effect.comparison.difference for effect in effects)
    assert [len(each.values) for each in (rounds, yes, big)] == [6, 4, 4]
    assert rounds.mean == pytest.approx(1.0, abs=0.07)
    assert yes.mean == pytest.approx(0.5, abs=0.07)
    assert big.mean == pytest.approx(2.0, abs=0.07)
    expected = [
        measured["3", decoder, seed] - measured["1", decoder, seed]
        for decoder in FACTORS["decoder"]
        for seed in (0, 1)
    ]
    assert rounds.values == pytest.approx(expected)


def test_main_effects_of_an_unfinished_sweep():
    measured = additive()
    measured["3", "yes", 0] = math.nan
    rounds, yes, big = (e.comparison.difference.values for e in main_effects(measured, FACTORS))
    assert [len(values) for values in (rounds, yes, big)] == [5, 3, 4]
    nothing = main_effects(measured * math.nan, FACTORS)
    assert [effect.comparison.difference.values for effect in nothing] == [(), (), ()]
