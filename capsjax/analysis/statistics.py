"""Statistics of a sweep: means over seeds, paired comparisons, main effects.

Measurements are a series over the whole grid, indexed by the level of each factor and then by the
seed, with NaN where there is none. What a sample does not determine is None, never NaN.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

Point = tuple[str, ...]

# 2^16 sign flips are enough: with more pairs the t test needs no help.
MOST_FLIPPED = 16
# Tolerance for differences of equal fractions, which rounding makes unequal; relative to the
# largest of them.
ROUNDING = 1e-9


class Summary(NamedTuple):
    """A sample and its mean.

    Attributes:
      values: the sample.
      mean: None without values, and where one is not finite, as are the other two.
      deviation: sample standard deviation (n - 1); None below two values.
      half_width: half width of the mean's confidence interval; None below two values, and where
        all are equal: an interval of width zero would claim certainty.
    """

    values: tuple[float, ...]
    mean: float | None
    deviation: float | None
    half_width: float | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The confidence interval of the mean, None where there is none."""
        if self.mean is None or self.half_width is None:
            return None
        return self.mean - self.half_width, self.mean + self.half_width


class Comparison(NamedTuple):
    """Paired differences, and how likely they are if there is no true difference.

    Attributes:
      difference: the differences and their mean.
      p_value: p of the two-sided paired t test; None where the interval is None.
      sign_flip_p: p of the exact two-sided sign-flip test; None without pairs, with more than
        MOST_FLIPPED of them, or with one that is not finite.
      holm_p: p_value corrected for the number of comparisons made at once; None where p_value is,
        and where nothing was corrected.
    """

    difference: Summary
    p_value: float | None
    sign_flip_p: float | None
    holm_p: float | None = None


class Effect(NamedTuple):
    """The effect of moving one factor from its first level to another, all else equal."""

    factor: str
    first: str
    other: str
    comparison: Comparison


def grid(factors: Mapping[str, Sequence[str]]) -> list[Point]:
    """List all points of a grid; the last factor changes fastest.

    >>> grid({"rounds": ["1", "3"], "decoder": ["no", "yes"]})
    [('1', 'no'), ('1', 'yes'), ('3', 'no'), ('3', 'yes')]
    """
    return list(itertools.product(*factors.values()))


def summarize(values: Iterable[float], confidence: float = 0.95) -> Summary:
    """Compute mean, sample standard deviation and Student's confidence interval of the mean.

    half width = t(n - 1, (1 + confidence) / 2) · deviation / √n

    Args:
      values: the sample.
      confidence: between 0 and 1.

    Returns:
      The summary.

    Raises:
      ValueError: if the confidence is not between 0 and 1.

    >>> round(summarize([1.0, 2.0, 3.0]).half_width, 4)
    2.4841
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(
            f"confidence={confidence:g} is not between 0 and 1; for 95 % it is --confidence=0.95"
        )
    values = tuple(float(value) for value in values)
    n = len(values)
    if not all(map(math.isfinite, values)):
        return Summary(values, None, None, None)
    # Exact sums: no digit depends on the order of the seeds.
    mean = math.fsum(values) / n if n else None
    if n < 2:
        return Summary(values, mean, None, None)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    if deviation <= ROUNDING * max(abs(value) for value in values):
        return Summary(values, mean, 0.0, None)
    quantile = float(stats.t.ppf((1.0 + confidence) / 2.0, n - 1))
    return Summary(values, mean, deviation, quantile * deviation / math.sqrt(n))


def compare(differences: Iterable[float], confidence: float = 0.95) -> Comparison:
    """Compare paired values by their differences.

    Args:
      differences: differences of values that share everything but what is compared.
      confidence: confidence of the interval.

    Returns:
      The comparison, not corrected for others that are made as well.

    Raises:
      ValueError: if the confidence is not between 0 and 1.

    >>> compare([0.5, 1.0, 1.5]).sign_flip_p
    0.25
    """
    difference = summarize(differences, confidence)
    p_value = None
    if difference.half_width is not None:
        n = len(difference.values)
        t = difference.mean / (difference.deviation / math.sqrt(n))
        p_value = float(2.0 * stats.t.sf(abs(t), n - 1))
    return Comparison(difference, p_value, sign_flip_p(difference.values))


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Return how often random signs make the sum at least as large, over all 2^n choices.

    If there is no difference, each pair is as likely to be the other way round. The test assumes
    no distribution, and cannot give less than 2 / 2^n.

    Args:
      differences: differences of the pairs.

    Returns:
      The two-sided p value; None without pairs, with more than MOST_FLIPPED, or with one that is
      not finite.

    >>> sign_flip_p([1.0, 2.0, 3.0])
    0.25
    """
    n = len(differences)
    if not 1 <= n <= MOST_FLIPPED or not np.isfinite(differences).all():
        return None
    signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    sums = np.abs(signs @ np.asarray(differences, dtype=np.float64))
    # The first choice is all plus. Sums that are equal but for rounding are equal, of which
    # stats.permutation_test misses some where the differences cancel.
    return float(np.mean(sums >= sums[0] - ROUNDING * np.abs(differences).max()))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Apply Holm's correction: the chance of any false finding among all stays below the level.

    The k-th smallest of m values is multiplied by m - k + 1 and is no less than those before it.

    Args:
      p_values: p of the tests; None where there was no test, which is not counted.

    Returns:
      The corrected values in the same order.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.

    >>> holm([0.25, None, 0.125])
    [0.25, None, 0.25]
    """
    p = pd.Series(p_values, dtype=float).sort_values()  # what was not tested comes last
    no_smaller = p.count() - np.arange(len(p))
    corrected = (no_smaller * p).clip(upper=1.0).cummax().sort_index()
    return [None if math.isnan(each) else each for each in corrected]


def values_at(measured: pd.Series, point: Point) -> pd.Series:
    """Return the values measured at a point, by seed."""
    return measured.xs(point, level=measured.index.names[:-1]).dropna()


def compare_with_reference(
    measured: pd.Series, points: Sequence[Point], reference: Point, confidence: float = 0.95
) -> dict[Point, Comparison]:
    """Compare each other point, minus the reference, in pairs that share the seed.

    Args:
      measured: values by level of each factor and seed.
      points: the grid.
      reference: one of its points.
      confidence: confidence of the intervals.

    Returns:
      Comparisons by point, without the reference; corrected by `holm` over the points that could
      be tested.

    Raises:
      ValueError: if the confidence is not between 0 and 1.
    """
    at_reference = values_at(measured, reference)
    comparisons = {
        point: compare((values_at(measured, point) - at_reference).dropna(), confidence)
        for point in points
        if point != reference
    }
    corrected = holm([comparison.p_value for comparison in comparisons.values()])
    return {
        point: comparison._replace(holm_p=p)
        for (point, comparison), p in zip(comparisons.items(), corrected, strict=True)
    }


def main_effects(
    measured: pd.Series, factors: Mapping[str, Sequence[str]], confidence: float = 0.95
) -> list[Effect]:
    """Compare each other level of a factor, minus its first, over trials that match otherwise.

    The pairs are not independent: they share seeds and settings, so that p is only a guide.

    Args:
      measured: values by level of each factor and seed.
      factors: levels by name of the factor.
      confidence: confidence of the intervals.

    Returns:
      Effects in the order of factors and levels.

    Raises:
      ValueError: if the confidence is not between 0 and 1.
    """
    effects = []
    for factor, (first, *others) in factors.items():
        at_first = measured.xs(first, level=factor)
        for other in others:
            differences = (measured.xs(other, level=factor) - at_first).dropna()
            effects.append(Effect(factor, first, other, compare(differences, confidence)))
    return effects
