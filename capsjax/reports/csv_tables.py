"""The report's numbers as CSV, in full precision: a row for each trial or each point."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from capsjax.analysis.statistics import Summary
from capsjax.reports.analysis import OTHER_PART, Analysis, Row
from capsjax.reports.index import Sweep, Trial

TRIAL_FIELDS = ("selection", "epochs", "steps", "num_parameters", "train_seconds")
RESULT_FIELDS = ("error", "accuracy", "loss", "num_errors", "num_examples")


def trials_csv(sweep: Sweep) -> str:
    """Write all trials as CSV, also those without a result; unknown values are empty."""
    return _csv([_trial(sweep, trial) for trial in sweep.trials])


def points_csv(sweep: Sweep, analysis: Analysis) -> str:
    """Write all points that have trials as CSV, compared with the reference."""
    return _csv([_point(sweep, analysis, row) for row in analysis.rows])


def _trial(sweep: Sweep, trial: Trial) -> dict[str, Any]:
    row = {"id": trial.id, **_levels(sweep, trial.point), "seed": trial.seed}
    row |= {"status": trial.status}
    row |= {name: trial.fields.get(name) for name in TRIAL_FIELDS}
    for part in ("test", "validation"):
        result = trial.fields.get(part) or {}
        row |= {f"{part}_{name}": result.get(name) for name in RESULT_FIELDS}
    return {**row, "message": trial.message}


def _point(sweep: Sweep, analysis: Analysis, row: Row) -> dict[str, Any]:
    part, other = analysis.part, OTHER_PART[analysis.part]
    published = row.published[0] if row.published else None
    numbers = {
        **_levels(sweep, row.point),
        "num_results": len(row.error.values),
        "num_seeds": sweep.num_seeds,
        "confidence": analysis.confidence,
        **_summary(f"{part}_error_percent", row.error),
        "num_errors_mean": row.num_errors.mean,
        f"{other}_error_percent_mean": row.other_error.mean,
        f"{other}_error_percent_deviation": row.other_error.deviation,
        "train_seconds_mean": row.seconds.mean,
        "published_error_percent": published and published.error_percent,
        "published_deviation": published and published.deviation,
        "published_source": published and published.source,
        "is_reference": int(row.point == analysis.reference),
    }
    compared = row.comparison
    return numbers | {
        "pairs": compared and len(compared.difference.values),
        **_summary("difference", compared and compared.difference),
        "t_test_p": compared and compared.p_value,
        "holm_p": compared and compared.holm_p,
        "sign_flip_p": compared and compared.sign_flip_p,
    }


def _levels(sweep: Sweep, point: Sequence[str]) -> dict[str, str]:
    # A factor may have the name of a column, such as "epochs".
    return {f"factor_{name}": level for name, level in zip(sweep.factors, point, strict=True)}


def _summary(name: str, sample: Summary | None) -> dict[str, float | None]:
    low, high = (sample and sample.interval) or (None, None)
    return {
        f"{name}_mean": sample and sample.mean,
        f"{name}_deviation": sample and sample.deviation,
        f"{name}_low": low,
        f"{name}_high": high,
    }


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    # As objects, or a missing value makes fractions of a column of integers.
    return pd.DataFrame(rows, dtype=object).to_csv(index=False, lineterminator="\n")
