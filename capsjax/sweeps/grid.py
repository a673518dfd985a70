"""Sweeps and their trials. A file in configs/sweeps/ describes one sweep.

A sweep has a base config, factors, and a number of seeds. A factor is a list of levels, and a level
is a name and the fields that it sets; the grid of a sweep is the product of its factors.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from capsjax.config.limits import decided_by_validation
from capsjax.config.tagged import TAGGED, resolved
from capsjax.registry import look_up, suggest
from capsjax.runs.workdir import flatten

Levels = Mapping[str, Mapping[str, Any]]


class Trial(NamedTuple):
    """One training run of a sweep.

    Attributes:
      id: name of the trial and of its folder.
      levels: name of its level, by factor.
      overrides: fields that it sets in the base config, by dotted name; without the seed.
      config: its own config, as `experiments/train.py` would take it.
    """

    id: str
    levels: dict[str, str]
    overrides: dict[str, Any]
    config: ConfigDict


def levels_of(field: str, values: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Make a factor that sets one field, with a level for each value.

    >>> levels_of("model.routing.dynamic.num_iterations", (1, 3))["3"]
    {'model.routing.dynamic.num_iterations': 3}
    """
    return {str(value): {field: value} for value in values}


def is_small(size: str) -> bool:
    """Return whether the size of a sweep is "small" and not "full".

    Raises:
      ValueError: for another size.
    """
    return look_up({"full": False, "small": True}, size, "size of a sweep")


def make_sweep(
    name: str,
    base: ConfigDict,
    factors: Mapping[str, Levels],
    *,
    num_seeds: int,
    title: str = "",
    reference: Mapping[str, str] | None = None,
    published: Sequence[tuple[Mapping[str, str], float, float, str]] = (),
) -> ConfigDict:
    """Make the config of a sweep.

    Args:
      name: name of the sweep in file names.
      base: the config that all trials start from.
      factors: levels by name, by the name of the factor; each the fields that it sets by dotted
        name.
      num_seeds: trials of each point of the grid: seeds base.seed, base.seed + 1, ...
      title: title for people.
      reference: the point that others are compared with: the name of a level, by factor.
      published: values for comparison: levels, test error in percent, deviation, source.

    Returns:
      A locked config: `name`, `title`, `base`, `num_seeds` and, as nested tuples, the rest.
    """
    sweep = ConfigDict()
    sweep.name, sweep.title = name, title or name
    sweep.base = base
    # Trials of each point; an existing sweep may be given more.
    sweep.num_seeds = num_seeds
    sweep.factors = tuple(
        (factor, tuple((level, tuple(fields.items())) for level, fields in levels.items()))
        for factor, levels in factors.items()
    )
    sweep.reference = tuple((reference or {}).items())
    sweep.published = tuple((tuple(levels.items()), *rest) for levels, *rest in published)
    return sweep.lock()


def trials_of(sweep: ConfigDict) -> list[Trial]:
    """Make all trials in the order of the grid, the seeds of a point one after the other.

    Points that differ only in settings of a component that they do not name are one trial: a sweep
    over algorithms is not multiplied by a factor that one of them has not.

    Raises:
      ValueError: for a field that the base config does not have (the message names the nearest)
        or whose type differs, two factors that set the same field, no trial at all, a reference
        that is no trial, or published values of an unknown factor.
    """
    if sweep.num_seeds < 1:
        raise ValueError(f"num_seeds is at least 1, not {sweep.num_seeds}")
    _check_factors(sweep)
    trials, begun = [], {}
    names = [factor for factor, _ in sweep.factors]
    for point in itertools.product(*(levels for _, levels in sweep.factors)):
        levels = {name: level for name, (level, _) in zip(names, point, strict=True)}
        overrides = {field: value for _, fields in point for field, value in fields}
        for seed in range(sweep.base.seed, sweep.base.seed + sweep.num_seeds):
            config = sweep.base.copy_and_resolve_references()
            with config.unlocked():
                config.update_from_flattened_dict(overrides)
                config.seed = seed
                config.name = _file_name({**levels, "seed": seed})
            whole, read = _fields_of(config.to_dict()), _fields_of(resolved(config))
            # A level that sets what the named component does not have is no other trial; levels
            # that are the same on purpose stay.
            if begun.setdefault(read, whole) == whole:
                trials.append(Trial(config.name, levels, overrides, config.lock()))
    if len({trial.id for trial in trials}) < len(trials):
        raise ValueError(f"sweep {sweep.name}: two of its trials have the same name")
    _check_points(sweep, trials)
    return trials


def check_for_sweep(config: ConfigDict) -> None:
    """Raise ValueError for settings of a trial that single runs alone have."""
    if config.init_from:
        raise ValueError("init_from is for single runs (capsjax train), not for a sweep")
    decided = decided_by_validation(config)
    if decided:
        # Members that share a program would need a factor on their rate and an end of their own.
        remedies = " ".join(f"--config.base.{remedy}" for remedy in decided.values())
        raise ValueError(
            f"{' and '.join(decided)}: for single runs (capsjax train), not for a sweep; {remedies}"
        )


def _fields_of(config: Mapping[str, Any]) -> tuple:
    """Return the fields of a trial, except its name, as a value to compare and hash."""
    fields = flatten(config)
    return tuple(sorted((name, repr(value)) for name, value in fields.items() if name != "name"))


def _check_factors(sweep: ConfigDict) -> None:
    if not sweep.factors or not all(levels for _, levels in sweep.factors):
        raise ValueError(f"sweep {sweep.name}: there is no factor, or one without levels")
    owners: dict[str, str] = {}
    for factor, levels in sweep.factors:
        for level, fields in levels:
            for field, value in fields:
                where = f"sweep {sweep.name}, {factor}={level}"
                _check_field(sweep.base, field, value, where)
                if owners.setdefault(field, factor) != factor:
                    raise ValueError(f"{where}: {field} is set by {owners[field]!r} too")


def _check_points(sweep: ConfigDict, trials: Sequence[Trial]) -> None:
    """Raise ValueError for what a report could not find when all is trained."""
    reference = dict(sweep.reference)
    if reference and all(reference != trial.levels for trial in trials):
        known = {_format_point(trial.levels) for trial in trials}
        given = _format_point(reference)
        raise ValueError(
            f"sweep {sweep.name}: its reference {given} is no trial of its own; "
            f"{suggest(given, known)}"
        )
    factors = dict(sweep.factors)
    # Their levels may be settings outside the grid, which the report lists by themselves.
    for levels, *_ in sweep.published:
        for factor, _ in levels:
            look_up(factors, factor, f"factor of published values in sweep {sweep.name}")


def _check_field(base: ConfigDict, field: str, value: Any, where: str) -> None:
    known = flatten(base.to_dict())
    if field not in known:
        # A component that the base does not name is suggested only where the field names it.
        likely = flatten(resolved(base)) if field.rpartition(".")[0] in TAGGED else known
        raise ValueError(f"{where}: no config field {field!r}; {suggest(field, likely)}")
    if field in ("seed", "name"):
        raise ValueError(f"{where}: {field} is set by the sweep itself (num_seeds)")
    default = known[field]
    if type(value) is not type(default) and not (isinstance(default, float) and type(value) is int):
        raise ValueError(
            f"{where}: {field} is of type {type(default).__name__}, like {default!r}, "
            f"and {value!r} is not"
        )


def _format_point(levels: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in levels.items())


def _file_name(parts: Mapping[str, Any]) -> str:
    text = _format_point(parts)
    return "".join(c if c.isalnum() or c in "=,.-+_" else "_" for c in text)
