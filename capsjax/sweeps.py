"""Sweeps: which trials there are. A file in configs/sweeps/ describes one.

A sweep has a base config, factors, and a number of seeds. A factor is a list of levels, a level a
name and the fields that it sets; the grid of a sweep is the product of its factors.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from capsjax.registry import look_up, suggest
from capsjax.workdir import flatten

Levels = Mapping[str, Mapping[str, Any]]


class Trial(NamedTuple):
    """One training run of a sweep.

    Attributes:
      id: its name, and that of its folder.
      levels: by factor, the name of its level.
      overrides: what its config changes of the base, by dotted name; without the seed.
      config: its own, as `experiments/train.py` would take it.
    """

    id: str
    levels: dict[str, str]
    overrides: dict[str, Any]
    config: ConfigDict


def levels_of(field: str, values: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """A factor that sets one field: a level for each value.

    >>> levels_of("model.routing.num_iterations", (1, 3))["3"]
    {'model.routing.num_iterations': 3}
    """
    return {str(value): {field: value} for value in values}


def is_small(size: str) -> bool:
    """Whether a sweep is asked for in the size "small" and not "full".

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
    """The config of a sweep.

    Args:
      name: of the sweep, in file names.
      base: the config that all trials start from.
      factors: by name, levels by name, each the fields that it sets by dotted name.
      num_seeds: trials of each point of the grid: seeds base.seed, base.seed + 1, ...
      title: for people.
      reference: the point that others are compared with: by factor, the name of a level.
      published: values to set beside: levels, test error in per cent, deviation, source.

    Returns:
      A locked config: `name`, `title`, `base`, `num_seeds` and, as nested tuples, the rest.
    """
    sweep = ConfigDict()
    sweep.name, sweep.title = name, title or name
    sweep.base = base
    # Trials of each point; a sweep that is there may be given more.
    sweep.num_seeds = num_seeds
    sweep.factors = tuple(
        (factor, tuple((level, tuple(fields.items())) for level, fields in levels.items()))
        for factor, levels in factors.items()
    )
    sweep.reference = tuple((reference or {}).items())
    sweep.published = tuple((tuple(levels.items()), *rest) for levels, *rest in published)
    return sweep.lock()


def trials_of(sweep: ConfigDict) -> list[Trial]:
    """All trials, in the order of the grid; the seeds of a point one after the other.

    Raises:
      ValueError: for a field that the base config does not have (the nearest one is named) or
        whose type differs, two factors that set the same field, or no trial at all.
    """
    if sweep.num_seeds < 1:
        raise ValueError(f"num_seeds is at least 1, not {sweep.num_seeds}")
    _check_factors(sweep)
    trials = []
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
            trials.append(Trial(config.name, levels, overrides, config.lock()))
    if len({trial.id for trial in trials}) < len(trials):
        raise ValueError(f"sweep {sweep.name}: two of its trials have the same name")
    return trials


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


def _check_field(base: ConfigDict, field: str, value: Any, where: str) -> None:
    known = flatten(base.to_dict())
    if field not in known:
        raise ValueError(f"{where}: no config field {field!r}; {suggest(field, known)}")
    if field in ("seed", "name"):
        raise ValueError(f"{where}: {field} is set by the sweep itself (num_seeds)")
    default = known[field]
    if type(value) is not type(default) and not (isinstance(default, float) and type(value) is int):
        raise ValueError(
            f"{where}: {field} is of type {type(default).__name__}, like {default!r}, "
            f"and {value!r} is not"
        )


def _file_name(parts: Mapping[str, Any]) -> str:
    text = ",".join(f"{name}={value}" for name, value in parts.items())
    return "".join(c if c.isalnum() or c in "=,.-+_" else "_" for c in text)
