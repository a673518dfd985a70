"""The tables of a sweep with a tuned factor and a control, from an index by hand."""

import pytest

from capsjax.commands import measure
from capsjax.reports.index import _sweep, read_sweep
from capsjax.reports.measured import choose_arms, measured_report
from capsjax.runs.files import sealed, write_json

# Errors of 1,000 for two seeds: on the validation part, then on the test part.
ERRORS = {
    ("em", "routed", "0.1"): ((50, 60), (10, 20)),
    ("em", "routed", "0.2"): ((40, 50), (30, 50)),
    ("em", "held", "0.1"): ((80, 80), (70, 80)),
    ("em", "held", "0.2"): ((90, 90), (1, 1)),
    ("random", "routed", "0.1"): ((30, None), (1, None)),
    ("random", "routed", "0.2"): ((70, 70), (60, 80)),
}
FACTORS = {
    "algorithm": ["em", "random"],
    "couplings": ["routed", "held"],
    "learning_rate": ["0.1", "0.2"],
}


def part(errors):
    return None if errors is None else {"num_errors": errors, "num_examples": 1000}


@pytest.fixture
def workdir(tmp_path):
    trials = [
        {
            "id": f"{','.join(point)},{seed}",
            "levels": dict(zip(FACTORS, point, strict=True)),
            "seed": seed,
            "status": "non_finite" if validation[seed] is None else "finished",
            "validation": part(validation[seed]),
            "test": part(test[seed]),
            "train_seconds": 2.0,
            "num_parameters": 1234,
        }
        for point, (validation, test) in ERRORS.items()
        for seed in (1, 0)
    ]
    factors = [{"name": name, "levels": levels} for name, levels in FACTORS.items()]
    index = {"name": "test", "factors": factors, "num_seeds": 2, "trials": trials}
    write_json(tmp_path / "index.json", sealed(index))
    return tmp_path


def measures_of(arms):
    """What would be measured: the error on affine images is ten times that on the test part."""
    return {
        trial.id: {
            "test": {"error": trial.result("test").num_errors / 1000, "calibration_error": 0.125},
            "affine": {"error": trial.result("test").num_errors / 100, "calibration_error": 0.5},
            "entropies": {"conv_caps_0": 0.75, "class_layer": 0.5},
        }
        for arm in arms
        for trial in arm.trials
    }


def test_the_level_is_chosen_on_validation_and_needs_every_seed(workdir):
    arms = choose_arms(read_sweep(workdir), "learning_rate")
    assert [(arm.levels, arm.chosen) for arm in arms] == [
        (("em", "routed"), "0.2"),
        (("em", "held"), "0.1"),
        (("random", "routed"), "0.2"),
    ]
    assert [trial.seed for trial in arms[0].trials] == [0, 1]


def test_the_first_of_equal_levels_is_chosen_whatever_the_order_of_the_seeds():
    fields = {"name": "s", "num_seeds": 3, "factors": [{"name": "rate", "levels": ["a", "b"]}]}
    fields["trials"] = [
        {
            "id": f"{level}{seed}",
            "levels": {"rate": level},
            "seed": seed,
            "status": "finished",
            "validation": part(errors),
            "test": part(5),
        }
        for level, of_seeds in (("a", (1, 2, 3)), ("b", (3, 2, 1)))
        for seed, errors in enumerate(of_seeds)
    ]
    (arm,) = choose_arms(_sweep(fields, "s"), "rate")
    assert arm.chosen == "a"


def test_tables(workdir):
    sweep = read_sweep(workdir)
    arms = choose_arms(sweep, "learning_rate")
    text = measured_report(sweep, arms, measures_of(arms), "learning_rate", ("couplings", "held"))
    lines = text.splitlines()
    assert (
        "| em | routed | 0.2 | 4.00 ± 1.41 | 40.00 ± 14.14 | 12.50 ± 0.00 | 0.750 ± 0.000 | "
        "0.500 ± 0.000 | 1,234 | 2.0 s |"
    ) in lines
    # Seed 0: 30 - 70, seed 1: 50 - 80 of 1,000; `random` has no control.
    (row,) = [line for line in lines if line.startswith("| em | routed | -")]
    assert row.startswith("| em | routed | -3.50 | -9.85 to +2.85 | 0.090 | -35.00 |")
    assert text.count("| random |") == 1


def test_a_point_of_which_no_level_is_whole_has_no_result(workdir):
    index = read_sweep(workdir)
    trials = [t for t in index.trials if t.point[:1] != ("random",) or t.point[2] == "0.1"]
    arms = choose_arms(index._replace(trials=tuple(trials)), "learning_rate")
    assert arms[-1].chosen is None
    control = ("couplings", "held")
    text = measured_report(index, arms, measures_of(arms), "learning_rate", control)
    assert "| random | routed | no result | - | - | - | - | - | - | - |" in text


def test_unknown_factors_and_levels_are_named(workdir):
    sweep = read_sweep(workdir)
    with pytest.raises(ValueError, match="unknown factor 'rate'"):
        choose_arms(sweep, "rate")
    with pytest.raises(ValueError, match="unknown level of couplings 'hold'; did you mean 'held'"):
        measured_report(sweep, [], {}, "learning_rate", ("couplings", "hold"))


def test_measured_networks_are_not_measured_again(workdir, monkeypatch):
    arms = choose_arms(read_sweep(workdir), "learning_rate")
    known = measures_of(arms)
    asked = []

    def measure_runs(folders):
        asked.append([folder.name for folder in folders])
        return [known[name] for name in asked[-1]]

    monkeypatch.setattr(measure, "measure_runs", measure_runs)
    text = measure.write_measures(workdir, "learning_rate", "couplings=held")
    assert (workdir / "report" / "measures.md").read_text() == text
    assert measure.write_measures(workdir, "learning_rate", "couplings=held") == text
    assert asked == [list(known), []]
    damaged = workdir / "measures.json"
    damaged.write_text(damaged.read_text().replace("0.75", "0.76"))
    assert measure.write_measures(workdir, "learning_rate", "couplings=held") == text
    assert asked[2] == list(known)
