"""A sweep with a tuned factor and a control: its measures as tables."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from capsjax.analysis.statistics import Comparison, Point, compare, holm, summarize
from capsjax.registry import look_up
from capsjax.reports import wording
from capsjax.reports.index import Sweep, Trial
from capsjax.reports.tables import table


class Arm(NamedTuple):
    """The trials of a point, at the level of the tuned factor that was best on validation.

    Attributes:
      levels: levels of the other factors.
      chosen: the level chosen; None if no level has a result of every seed.
      trials: its trials, by seed.
    """

    levels: Point
    chosen: str | None
    trials: tuple[Trial, ...]


def choose_arms(sweep: Sweep, tuned: str) -> list[Arm]:
    """Choose the best level of a factor for each point of the others, by the validation error.

    The mean over all seeds counts, and a level with a seed that has no result is out. The test part
    takes no part in the choice.

    Args:
      sweep: the sweep.
      tuned: the factor.

    Raises:
      ValueError: if the sweep has no such factor.
    """
    look_up(sweep.factors, tuned, "factor")
    place = list(sweep.factors).index(tuned)
    by_arm: dict[Point, dict[str, list[Trial]]] = {}
    for trial in sweep.trials:
        others = trial.point[:place] + trial.point[place + 1 :]
        by_arm.setdefault(others, {}).setdefault(trial.point[place], []).append(trial)
    return [_choose(levels, by_level, sweep.num_seeds) for levels, by_level in by_arm.items()]


def _choose(levels: Point, by_level: Mapping[str, Sequence[Trial]], num_seeds: int) -> Arm:
    errors = {}
    for level, trials in by_level.items():
        results = [trial.result("validation") for trial in trials]
        if len(results) == num_seeds and all(results):
            errors[level] = math.fsum(result.error_percent for result in results)
    if not errors:
        return Arm(levels, None, ())
    # The first of equal ones.
    chosen = min(errors, key=errors.get)
    return Arm(levels, chosen, tuple(sorted(by_level[chosen], key=lambda trial: trial.seed)))


def measured_report(
    sweep: Sweep,
    arms: Sequence[Arm],
    measures: Mapping[str, Mapping[str, Any]],
    tuned: str,
    control: tuple[str, str],
) -> str:
    """Write the tables of all arms, and of the differences to their controls.

    Args:
      sweep: the sweep.
      arms: see `choose_arms`.
      measures: of each of their trials, by its id, see `capsjax.sweeps.measures.measure_runs`.
      tuned: the factor that was tuned.
      control: the factor that makes a control, and the level that does.

    Raises:
      ValueError: for an unknown factor or level.
    """
    factor, level = control
    look_up(dict.fromkeys(look_up(sweep.factors, factor, "factor")), level, f"level of {factor}")
    names = [name for name in sweep.factors if name != tuned]
    notes = (
        f"{tuned}: the level of the lowest mean validation error. Errors in percent, mean ± sample "
        "standard deviation over seeds. Calibration: expected calibration error on the test part, "
        "where the confidence is the highest score if scores are lengths or activations, and the "
        "softmax of logits otherwise. Entropy: how evenly children divide themselves among types, "
        "from 0 to 1. Affine: test images rotated, sheared, scaled and shifted in the ranges of "
        "affNIST, but synthetic and not comparable with results on it. Training: mean of a trial."
    )
    notes_on_differences = (
        "Differences in percentage points of error in pairs that share the seed, and their 95 % "
        "intervals by Student's t; Holm p is corrected for the number of rows. Below zero, the row "
        "is better than its control."
    )
    sections = [
        f"# {sweep.title}",
        _table_of_arms(names, arms, measures, tuned),
        notes,
        f"## Compared with {factor}={level}",
        _table_of_differences(names, arms, measures, factor, level),
        notes_on_differences,
    ]
    return "\n\n".join(sections) + "\n"


def _table_of_arms(
    names: Sequence[str], arms: Sequence[Arm], measures: Mapping[str, Any], tuned: str
) -> str:
    found = [measures[trial.id] for arm in arms for trial in arm.trials]
    layers = list(dict.fromkeys(layer for each in found for layer in each["entropies"]))
    header = [*names, tuned, "test error", "affine error", "calibration"]
    header += [*(f"entropy, {layer}" for layer in layers), "parameters", "training"]
    return table(header, [_row(arm, measures, layers) for arm in arms])


def _row(arm: Arm, measures: Mapping[str, Any], layers: Sequence[str]) -> list[str]:
    found = [measures[trial.id] for trial in arm.trials]
    sizes = {trial.fields.get("num_parameters") for trial in arm.trials} - {None}
    seconds = summarize(t.train_seconds for t in arm.trials if t.train_seconds is not None)
    return [
        *map(wording.cell, arm.levels),
        arm.chosen or "no result",
        *(_mean(100 * each[part]["error"] for each in found) for part in ("test", "affine")),
        _mean(100 * each["test"]["calibration_error"] for each in found),
        *(
            _mean((each["entropies"][layer] for each in found if layer in each["entropies"]), 3)
            for layer in layers
        ),
        ", ".join(f"{size:,}" for size in sizes) or "-",
        wording.duration(seconds.mean),
    ]


def _table_of_differences(
    names: Sequence[str], arms: Sequence[Arm], measures: Mapping[str, Any], factor: str, level: str
) -> str:
    place = list(names).index(factor)
    by_levels = {arm.levels: arm for arm in arms}
    rows = []
    for arm in arms:
        control = by_levels.get((*arm.levels[:place], level, *arm.levels[place + 1 :]))
        if control is not None and control is not arm:
            rows.append((arm, control))
    header, lines = [*names], [[*map(wording.cell, arm.levels)] for arm, _ in rows]
    for part in ("test", "affine"):
        header += [f"{part}: difference", "95 % interval", "Holm p"]
        compared = [_compare(arm, control, measures, part) for arm, control in rows]
        corrected = holm([each.p_value for each in compared])
        for line, each, p in zip(lines, compared, corrected, strict=True):
            line += _difference(each, p)
    return table(header, lines)


def _compare(arm: Arm, control: Arm, measures: Mapping[str, Any], part: str) -> Comparison:
    held = {trial.seed: 100 * measures[trial.id][part]["error"] for trial in control.trials}
    return compare(
        100 * measures[trial.id][part]["error"] - held[trial.seed]
        for trial in arm.trials
        if trial.seed in held
    )


def _difference(comparison: Comparison, holm_p: float | None) -> list[str]:
    difference = comparison.difference
    mean = "-" if difference.mean is None else wording.fixed(difference.mean, 2, "+")
    return [mean, wording.interval(difference, 2, "+"), wording.probability(holm_p)]


def _mean(values: Any, decimals: int = 2) -> str:
    return wording.mean_and_deviation(summarize(values), decimals)
