"""Markdown tables, and numbers with as many digits as they deserve."""

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Make a Markdown table: the first column is text, the others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float | int | None, unit: str = "") -> str:
    """Format a number with three significant digits, None as a dash.

    number(0.012345, " s") is "0.0123 s" and number(1234.5) is "1,234".
    """
    if value is None:
        return "-"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}{unit}"
    decimals = 0
    while round(abs(value), decimals) * 10**decimals < 99.5 and decimals < 9:
        decimals += 1
    return f"{value:.{decimals}f}{unit}"


def percent(part: float | int | None, whole: float | int | None) -> str:
    """Format a part as a percentage of the whole."""
    return "-" if part is None or not whole else f"{100 * part / whole:.0f} %"


def ratio(value: float | int | None, of: float | int | None) -> float | None:
    """Return value / of, None where one of them is not known."""
    return None if value is None or not of else value / of


def gigabytes(value: float | int | None) -> str:
    """Format bytes as GB (10^9)."""
    return number(None if value is None else value / 1e9)


def seconds_range(seconds: Sequence[float]) -> str:
    """Format the smallest and the largest."""
    return f"{number(min(seconds))} to {number(max(seconds))}" if seconds else "-"
