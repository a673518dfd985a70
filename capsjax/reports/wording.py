"""Numbers as text, and the conclusion of a comparison in words."""

from capsjax.analysis.statistics import Comparison, Summary
from capsjax.runs.progress import format_seconds


def decimals_of(num_examples: int | None) -> int:
    """Return decimals for an error in percent: three if one example is 0.01 % or less, else two."""
    return 3 if num_examples and num_examples >= 10_000 else 2


def fixed(value: float, decimals: int, sign: str = "") -> str:
    """Format a number with the given decimals, but never as "-0.00"."""
    return f"{round(value, decimals) + 0.0:{sign}.{decimals}f}"


def mean_and_deviation(sample: Summary, decimals: int) -> str:
    """Format a sample as "0.341 ± 0.032", without the deviation where it has one value."""
    if sample.mean is None:
        return "-"
    mean = fixed(sample.mean, decimals)
    return mean if sample.deviation is None else f"{mean} ± {fixed(sample.deviation, decimals)}"


def interval(sample: Summary, decimals: int, sign: str = "") -> str:
    """Format an interval as "0.26 to 0.42", or state why there is none."""
    if not sample.values:
        return "-"
    if sample.interval is None:
        return "none: one value" if len(sample.values) == 1 else "none: all equal"
    low, high = (fixed(bound, decimals, sign) for bound in sample.interval)
    return f"{low} to {high}"


def probability(p: float | int | None) -> str:
    """Format a p value with three decimals."""
    if p is None:
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def percent(confidence: float) -> str:
    """Format 0.95 as "95 %"."""
    return f"{100 * confidence:.6g} %"


def duration(seconds: float | int | None) -> str:
    """Format seconds for people, with tenths below a minute."""
    if seconds is None:
        return "-"
    return f"{seconds:.1f} s" if seconds < 60 else format_seconds(seconds)


def plural(count: int, noun: str) -> str:
    """Format a count as "1 seed" or "3 seeds"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def conclusion(comparison: Comparison, confidence: float) -> str:
    """State in words what differences in error show, and nothing more."""
    difference = comparison.difference
    n = len(difference.values)
    if n == 0:
        return "no pairs yet"
    if n == 1:
        return "one pair shows nothing"
    if difference.interval is None:
        if difference.mean == 0:
            return f"equal in all {n} pairs: no test applies"
        return f"the same difference in all {n} pairs: the t test does not apply"
    low, high = difference.interval
    if low <= 0 <= high:
        return "no difference shown"
    direction = "lower error" if high < 0 else "higher error"
    if comparison.holm_p is not None and comparison.holm_p >= 1 - confidence:
        return f"{direction} taken alone, not shown after correction"
    return direction


def cell(text: str) -> str:
    """Fit text into a cell of a Markdown table: one line, no bars."""
    return " ".join(text.split()).replace("|", "\\|")
