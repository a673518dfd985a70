"""experiments/report.py: what it says of a sweep's index.json, whole, unfinished or damaged."""

import csv
import json
import subprocess
import sys

import pytest
from matplotlib.image import imread

from capsjax.analysis.statistics import compare, grid, summarize
from capsjax.commands import report
from capsjax.reports import wording
from capsjax.reports.analysis import analyse
from capsjax.reports.index import parse_point, read_sweep
from capsjax.runs.files import sealed
from tests.tiny import ROOT

TWO = {"rounds": ["1", "3", "5"], "reconstruction": ["0", "0.0005"]}
# Test errors of 10,000 for three seeds at each point of TWO.
ERRORS = {
    ("1", "0"): (100, 110, 120),
    ("1", "0.0005"): (90, 100, 110),
    ("3", "0"): (131, 140, 152),
    ("3", "0.0005"): (60, 71, 80),
    ("5", "0"): (100, 110, 120),
    ("5", "0.0005"): (95, 100, 140),
}


def make_index(factors=TWO, errors=ERRORS, num_seeds=3, **fields):
    trials = []
    for point in grid(factors):
        levels = dict(zip(factors, point, strict=True))
        name = ",".join(f"{factor}={level}" for factor, level in levels.items())
        for seed in range(num_seeds):
            count = errors[point][seed]
            trials.append(
                {
                    "id": f"{name},seed={seed}",
                    "levels": levels,
                    "overrides": {},
                    "seed": seed,
                    "status": "finished",
                    "message": "",
                    "epochs": 2,
                    "steps": 858,
                    "selection": "last",
                    "num_parameters": 2117072,
                    # As float32 gives it; the counts are exact.
                    "test": {
                        "accuracy": 1 - count / 10000,
                        "error": count / 10000 + 3e-8,
                        "num_errors": count,
                        "num_examples": 10000,
                        "loss": 0.03,
                    },
                    "validation": {"error": 0.02, "num_errors": 100, "num_examples": 5000},
                    "train_seconds": 60.0 + seed,
                }
            )
    return {
        "name": "table1",
        "title": "Rounds and reconstruction",
        "status": "finished",
        "factors": [{"name": name, "levels": levels} for name, levels in factors.items()],
        "num_seeds": num_seeds,
        "reference": None,
        "published": [],
        "device": "cpu",
        "processor": "A processor",
        "cpu_count": 2,
        "command": "python experiments/sweep.py --config=configs/a.py",
        "commit": "abc123",
        "seconds": 1234.5,
        "versions": {"jax": "0.10.2", "flax": "0.12.8"},
        "trials": trials,
        **fields,
    }


def lose(index, place, status, message=""):
    """Make a finished trial one that is not."""
    index["trials"][place].update(
        status=status, message=message, test=None, validation=None, train_seconds=None
    )


@pytest.fixture
def write(tmp_path):
    def write_index(index):
        (tmp_path / "index.json").write_text(json.dumps(index))
        return tmp_path

    return write_index


def table_rows(text, heading):
    """The cells of the first table after a heading, by its first cells."""
    lines = text.split(f"\n{heading}", 1)[1].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def test_report_of_a_finished_sweep(write):
    text = report.write_report(write(make_index()))
    assert text.startswith("# Rounds and reconstruction\n")
    for fact in (
        "`table1`, 3 x 2 points, 3 seeds each; 18 of 18 trials have a result",
        "`python experiments/sweep.py --config=configs/a.py`",
        "2 epochs; parameters tested: last; 2,117,072 parameters",
        "cpu, A processor, 2 cores",
        "commit abc123, jax 0.10.2, flax 0.12.8",
        "20:34 for the sweep, 18:18 of training, summed over 18 trials",
    ):
        assert fact in text
    assert "missing" not in text
    assert "Trials without a result" not in text

    first = table_rows(text, "## Points")[0]
    # 1.0, 1.1, 1.2: deviation 0.1, t = 4.3027, half width 0.2484.
    assert first == {
        "rounds": "1",
        "reconstruction": "0",
        "n": "3 of 3",
        "test error, %": "1.100 ± 0.100",
        "95 % interval": "0.852 to 1.348",
        "errors, mean (each seed)": "110.0 (100, 110, 120)",
        "validation error, %": "2.00 ± 0.00",
        "training": "1:01",
    }
    as_grid = table_rows(text, "The same test error")
    assert [row["rounds"] for row in as_grid] == ["1", "3", "5"]
    assert as_grid[1]["reconstruction=0.0005"] == "0.703 ± 0.100"


def test_comparisons_say_what_is_shown_and_no_more(write):
    text = report.write_report(write(make_index()))
    rows = {row["point"]: row for row in table_rows(text, "## Compared with rounds=1,recon")}
    assert len(rows) == 5
    # Equal in every pair, or different by the same in every pair: in words.
    assert rows["rounds=5,reconstruction=0"]["shown"] == "equal in all 3 pairs: no test applies"
    same = rows["rounds=1,reconstruction=0.0005"]
    assert same["shown"] == "the same difference in all 3 pairs: the t test does not apply"
    assert (same["difference"], same["t test p"], same["half width"]) == ("-0.100", "-", "-")
    assert same["95 % interval"] == "none: all equal"
    # -40, -39, -40 errors; -0.397 ± 4.3027 * 0.00577 / sqrt(3).
    clear = rows["rounds=3,reconstruction=0.0005"]
    assert (clear["difference"], clear["half width"]) == ("-0.397", "0.014")
    assert (clear["sign-flip p"], clear["shown"]) == ("0.250", "lower error")
    assert rows["rounds=3,reconstruction=0"]["shown"] == "higher error"
    # -5, -10, +20 errors.
    unclear = rows["rounds=5,reconstruction=0.0005"]
    assert (unclear["difference"], unclear["shown"]) == ("+0.017", "no difference shown")
    assert "corrects the paired t test for 3 tests" in text
    assert "here 0.014 to 0.399 percentage points" in text
    assert "With 3 pairs the sign-flip test cannot give less than 0.25: it cannot show" in text
    assert "at the level of 5 %" in text
    assert "nan" not in text.lower()


def test_main_effects(write):
    text = report.write_report(write(make_index()))
    rows = table_rows(text, "## Main effects")
    assert [(row["factor"], row["from"], row["to"], row["pairs"]) for row in rows] == [
        ("rounds", "1", "3", "6"),
        ("rounds", "1", "5", "6"),
        ("reconstruction", "0", "0.0005", "9"),
    ]
    # Over rounds 1, 3 and 5: -30, -212 and +5 errors in three pairs each, -26.3 in the mean.
    assert rows[2]["difference"] == "-0.263"
    assert "p is a guide and no proof" in text


def test_a_finding_that_correction_takes_away():
    alone = compare([0.1, 0.2, 0.3, 0.2])
    assert alone.p_value < 0.05
    assert wording.conclusion(alone._replace(holm_p=0.04), 0.95) == "higher error"
    corrected = wording.conclusion(alone._replace(holm_p=0.06), 0.95)
    assert corrected == "higher error taken alone, not shown after correction"


@pytest.mark.slow
def test_reference_by_flag_by_sweep_and_by_default(write):
    folder = write(make_index())
    assert "## Compared with rounds=1,reconstruction=0\n" in report.write_report(folder)
    flag = "reconstruction=0.0005, rounds=3"
    assert "## Compared with rounds=3,reconstruction=0.0005" in report.write_report(folder, flag)
    folder = write(make_index(reference={"rounds": "5", "reconstruction": "0"}))
    assert "## Compared with rounds=5,reconstruction=0\n" in report.write_report(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rounds=3", "no level of reconstruction; a point has a level of every factor"),
        ("rounds=3,reconstruction=0.005", "unknown level '0.005' of reconstruction; did you mean"),
        ("round=3,reconstruction=0", "unknown factor 'round'; did you mean 'rounds'"),
        ("best", "unknown factor 'best'"),
    ],
)
def test_a_reference_that_is_no_point_is_refused(write, text, message):
    with pytest.raises(ValueError, match=message):
        report.write_report(write(make_index()), text)


def test_a_wrong_reference_of_the_sweep_gives_way_to_the_flag(write):
    folder = write(make_index(reference={"rounds": "3", "reconstruction": "0.0"}))
    message = "reference of the sweep: unknown level '0.0' .*did you mean.* with --reference, or"
    with pytest.raises(ValueError, match=message) as caught:
        report.write_report(folder)
    assert "damaged" not in str(caught.value)
    flag = parse_point(read_sweep(folder), "rounds=3,reconstruction=0")
    assert analyse(read_sweep(folder), reference=flag).reference == ("3", "0")


def index_without_a_point():
    """The index of a sweep in which rounds=5,reconstruction=0.0005 has no trials of its own."""
    index, point = make_index(), {"rounds": "5", "reconstruction": "0.0005"}
    kept = [each for each in index["trials"] if each["levels"] != point]
    return {**index, "trials": kept, "num_trials": 15}


def test_a_reference_whose_trials_are_those_of_another_point_is_refused(write):
    folder = write(index_without_a_point())
    message = "rounds=5,reconstruction=0.0005 has no trial of its own; .*known: .*rounds=5,rec"
    with pytest.raises(ValueError, match=message):
        report.write_report(folder, "rounds=5,reconstruction=0.0005")


def test_a_level_may_hold_a_comma(write):
    factors = {"hidden": ["(512,1024)", "(16,)"], "rounds": ["1"]}
    errors = dict.fromkeys(grid(factors), (10, 11, 12))
    sweep = read_sweep(write(make_index(factors, errors)))
    assert parse_point(sweep, "hidden=(512,1024),rounds=1") == ("(512,1024)", "1")
    assert parse_point(sweep, "rounds=1, hidden=(16,)") == ("(16,)", "1")


def test_errors_of_maps_are_those_of_pixels(write):
    index = make_index()
    # As earlier versions wrote it, which counted in images.
    for trial, errors in zip(index["trials"], (None, 2, 2), strict=False):
        trial["test"] = {"error": 0.0126, "dice": 0.75, "num_examples": 200}
        trial["test"] |= {} if errors is None else {"num_errors": errors}
    text = report.write_report(write(index))
    row = table_rows(text, "## Points")[0]
    assert row["test error, %"] == "1.260 ± 0.000"
    assert row["errors, mean (each seed)"] == "-"


def test_points_that_are_no_trials_of_their_own_are_not_missing(write):
    index = index_without_a_point()
    text = report.write_report(write(index))
    assert (
        "5 of 3 x 2 points (the others are no trials of their own), 3 seeds each; 15 of 15 trials "
        "have a result"
    ) in text
    assert "missing" not in text
    assert "ot listed" not in text
    assert len(table_rows(text, "## Points")) == 5
    # One that is not listed yet is another matter.
    text = report.write_report(write({**index, "trials": index["trials"][:-1]}))
    assert "**14 of 15 trials have a result, 1 are missing** (1 not listed)" in text
    # Earlier versions did not count their trials.
    earlier = {**make_index(), "trials": index["trials"]}
    assert "15 of 18 trials" in report.write_report(write(earlier))


def test_trials_without_a_result_are_counted_and_named(write):
    index = make_index(status="running")
    lose(index, 1, "non_finite", "the loss is nan at step 12")
    lose(index, 5, "failed", "ValueError: a\nlong | story")
    # What a trial wrote before it failed does not count.
    index["trials"][5]["test"] = {"error": 0.5, "num_errors": 5000, "num_examples": 10000}
    index["trials"][5]["train_seconds"] = 9000.0
    lose(index, 8, "running")
    lose(index, 9, "waiting")
    del index["trials"][17]
    text = report.write_report(write(index))
    assert "**13 of 18 trials have a result, 5 are missing** (" in text
    assert (
        "1 stopped at a loss that is not finite, 1 failed, 1 running, 1 waiting, 1 not listed"
    ) in text
    rows = table_rows(text, "## Points")
    assert [row["n"] for row in rows] == [*["2 of 3"] * 4, "3 of 3", "2 of 3"]
    assert rows[0]["test error, %"] == "1.100 ± 0.141"
    assert [row["training"] for row in rows[:2]] == ["1:01", "1:00"]
    assert rows[0]["errors, mean (each seed)"] == "110.0 (100, -, 120)"
    without = text.split("## Trials without a result")[1]
    assert (
        "`rounds=1,reconstruction=0,seed=1`: stopped at a loss that is not finite: the" in without
    )
    assert "`rounds=1,reconstruction=0.0005,seed=2`: failed: ValueError: a long | story" in without
    assert "Running: `rounds=3,reconstruction=0,seed=2`." in without
    assert "Waiting: `rounds=3,reconstruction=0.0005,seed=0`." in without
    assert "Not listed in index.json: 1 trial." in without
    assert "nan" not in text.lower().replace("loss is nan", "")


def test_a_sweep_that_has_only_begun(write):
    index = make_index(seconds=None, versions=None, processor=None, command=None)
    for place, trial in enumerate(index["trials"]):
        lose(index, place, "waiting")
        for name in ("epochs", "steps", "selection", "num_parameters", "train_seconds", "message"):
            trial.pop(name)
    folder = write(index)
    text = report.write_report(folder)
    assert "**0 of 18 trials have a result, 18 are missing** (18 waiting)" in text
    assert "no pairs yet" in text
    assert "nothing can be shown yet" in text
    assert "nan" not in text.lower()
    assert_is_a_picture(folder / "report" / "error.png")


def test_one_seed_shows_nothing(write):
    text = report.write_report(write(make_index(num_seeds=1)))
    assert table_rows(text, "## Points")[0]["test error, %"] == "1.000"
    assert table_rows(text, "## Points")[0]["95 % interval"] == "none: one value"
    shown = {row["shown"] for row in table_rows(text, "## Compared")}
    assert shown == {"one pair shows nothing"}


def test_a_sweep_may_list_its_trials_in_any_order_or_none_yet(write):
    index = make_index()
    index["trials"].reverse()
    first = analyse(read_sweep(write(index))).rows[0]
    assert first.error.values == pytest.approx((1.0, 1.1, 1.2))
    assert first.seconds.values == (60.0, 61.0, 62.0)
    nothing = analyse(read_sweep(write({**index, "trials": []})))
    assert [row.error.values for row in nothing.rows] == [()] * 6
    assert [effect.comparison.p_value for effect in nothing.effects] == [None] * 3


def test_a_factor_may_have_the_name_of_a_column(write):
    factors = {"seed": ["1", "0"], "error": ["0", "1"]}
    errors = dict(zip(grid(factors), ERRORS.values(), strict=False))
    effects = analyse(read_sweep(write(make_index(factors, errors)))).effects
    assert [effect.factor for effect in effects] == ["seed", "error"]
    # From (100, 110, 120) to (131, 140, 152), and from (90, 100, 110) to (60, 71, 80).
    expected = (0.31, 0.30, 0.32, -0.30, -0.29, -0.30)
    assert effects[0].comparison.difference.values == pytest.approx(expected)


@pytest.mark.slow
def test_published_values_stand_beside_ours(write):
    entries = [
        ({"rounds": "1", "reconstruction": "0"}, 0.34, 0.032, "Sabour et al. 2017, table 1"),
        ({"rounds": "3", "reconstruction": "0.0005"}, 0.25, None, "A rerun"),
        ({"rounds": "7", "reconstruction": "0"}, 0.4, None, "A rerun"),
    ]
    names = ("levels", "error_percent", "deviation", "source")
    index = make_index(published=[dict(zip(names, entry, strict=True)) for entry in entries])
    text = report.write_report(write(index))
    cells = [row["published, %"] for row in table_rows(text, "## Points")]
    assert cells == ["0.34 ± 0.032 [1]", "-", "-", "0.25 [2]", "-", "-"]
    assert "Published: [1] Sabour et al. 2017, table 1; [2] A rerun." in text
    assert "that are no trials here: rounds=7,reconstruction=0: 0.4 (A rerun)" in text
    # They are test errors, and stand beside no other.
    assert "published, %" not in report.write_report(write(index), part="validation")


def test_validation_and_confidence_by_flag(write):
    text = report.write_report(write(make_index()), confidence=0.9, part="validation")
    first = table_rows(text, "## Points")[0]
    assert first["validation error, %"] == "2.00 ± 0.00"
    assert first["test error, %"] == "1.100 ± 0.100"
    assert first["90 % interval"] == "none: all equal"
    assert first["errors, mean (each seed)"] == "100.0 (100, 100, 100)"
    with pytest.raises(ValueError, match="confidence=95 is not between 0 and 1"):
        report.write_report(write(make_index()), confidence=95.0)


def assert_is_a_picture(path):
    pixels = imread(path)
    assert min(pixels.shape[:2]) > 100
    assert pixels.std() > 0.01, f"{path} is blank"


@pytest.mark.ci
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_any_number_of_factors(write, count):
    factors = {f"factor_{number}": ["a", "b"] for number in range(count)}
    errors = {p: (50 + 9 * n, 60 + n * n, 70) for n, p in enumerate(grid(factors))}
    folder = write(make_index(factors, errors))
    text = report.write_report(folder)
    assert len(table_rows(text, "## Points")) == 2**count
    assert len(table_rows(text, "## Compared")) == 2**count - 1
    assert len(table_rows(text, "## Main effects")) == count
    assert ("as a grid" in text) == (count == 2)
    assert_is_a_picture(folder / "report" / "error.png")


def drawn(write, index):
    sweep = read_sweep(write(index))
    return report.draw(sweep, analyse(sweep)).axes[0]


def test_figure_of_two_factors(write):
    published = [{"levels": {"rounds": "3", "reconstruction": "0"}, "error_percent": 0.35}]
    axis = drawn(write, make_index(published=published))
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["1", "3", "5"]
    labels = axis.get_legend_handles_labels()[1]
    assert labels == ["reconstruction = 0", "reconstruction = 0.0005", "paper"]
    assert axis.figure.get_suptitle() == "table1: 2 epochs, 3 seeds"
    assert axis.get_ylabel() == "test error, %"
    heights = [line.get_ydata().tolist() for line in axis.lines]
    assert [pytest.approx([1.1, 1.41, 1.1])] == [h for h in heights if len(h) == 3][:1]
    assert [1.0, 1.1, 1.2] in heights  # the seeds of a point
    assert [0.35] in heights


def test_figure_of_other_sweeps_has_a_row_for_each_point(write):
    factors = {"rounds": ["1", "2", "3"]}
    errors = {("1",): (100, 110, 120), ("2",): (90, 91, 95), ("3",): (1, 2, 30)}
    index = make_index(factors, errors)
    lose(index, 3, "failed", "why")
    axis = drawn(write, index)
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["1", "2", "3"]
    assert axis.yaxis.get_inverted()
    assert axis.get_xlabel() == "test error, %"
    assert axis.get_xlim()[0] == 0.0  # the last interval reaches below zero, the axis does not
    assert axis.figure.get_suptitle() == "table1: 2 epochs, 3 seeds, 8 of 9 trials"


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_csv_files_are_read_back(write):
    index = make_index()
    lose(index, 4, "failed", 'a "quoted", long\nstory')
    folder = write(index)
    report.write_report(folder)
    trials = read_csv(folder / "report" / "trials.csv")
    assert [row["id"] for row in trials] == [trial["id"] for trial in index["trials"]]
    assert trials[4]["message"] == 'a "quoted", long\nstory'
    assert (trials[4]["test_error"], trials[4]["status"]) == ("", "failed")
    assert [int(row["test_num_errors"]) for row in trials[:3]] == [100, 110, 120]
    assert (trials[0]["factor_rounds"], trials[0]["factor_reconstruction"]) == ("1", "0")
    assert b"\r" not in (folder / "report" / "trials.csv").read_bytes()

    points = read_csv(folder / "report" / "points.csv")
    assert len(points) == 6
    first = summarize([1.0, 1.1, 1.2])
    assert float(points[0]["test_error_percent_mean"]) == pytest.approx(first.mean)
    assert float(points[0]["test_error_percent_low"]) == pytest.approx(first.interval[0])
    assert [row["is_reference"] for row in points] == ["1", "0", "0", "0", "0", "0"]
    assert points[0]["difference_mean"] == ""
    assert [row["pairs"] for row in points[1:]] == ["2", "3", "3", "3", "3"]
    assert float(points[3]["difference_mean"]) == pytest.approx(-119 / 300)
    assert float(points[3]["holm_p"]) > float(points[3]["t_test_p"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged .it is no object"),
        ('{"factors": []}', "a sweep has factors"),
        ('{"factors": [{"name": "a", "levels": ["1"]}]}', "no field 'trials'"),
        ('{"factors": 7, "trials": []}', "is damaged"),
        (
            '{"factors": [{"name": "a", "levels": ["1"]}], "trials": '
            '[{"levels": {"a": "2"}, "seed": 0, "status": "waiting"}]}',
            "unknown level '2' of a",
        ),
        (
            '{"factors": [{"name": "a", "levels": ["1"]}], "trials": '
            '[{"levels": {"a": "1"}, "seed": 0, "status": "waiting"},'
            '{"levels": {"a": "1"}, "seed": 0, "status": "waiting"}]}',
            "several trials of",
        ),
    ],
)
def test_a_damaged_index_is_named_with_the_remedy(tmp_path, text, message):
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        report.write_report(tmp_path)
    assert ": start `capsjax sweep` with the same --workdir again" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report").exists()


def test_a_changed_number_in_an_index_is_noticed(tmp_path):
    index = sealed(make_index())
    path = tmp_path / "index.json"
    path.write_text(json.dumps(index))
    assert read_sweep(tmp_path).num_seeds == 3
    path.write_text(json.dumps(index).replace('"num_errors": 131', '"num_errors": 31'))
    message = r"is damaged \(it differs from what was .*: start `capsjax sweep`"
    with pytest.raises(ValueError, match=message):
        read_sweep(tmp_path)


def test_a_folder_without_a_sweep_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no sweep in .*give the --workdir of `capsjax sweep"):
        report.write_report(tmp_path / "nothing")


def test_numbers_as_text():
    assert wording.decimals_of(10_000) == 3
    assert wording.decimals_of(5_000) == wording.decimals_of(None) == 2
    assert wording.fixed(-0.0004, 3, "+") == "+0.000"
    assert wording.fixed(-0.0006, 3, "+") == "-0.001"
    assert [wording.probability(p) for p in (None, 0.0004, 0.0462)] == ["-", "< 0.001", "0.046"]
    assert [wording.duration(s) for s in (None, 5.04, 3725.0)] == ["-", "5.0 s", "1:02:05"]
    assert wording.percent(0.95) == "95 %"


@pytest.mark.long
def test_the_command(write):
    folder = write(make_index())
    command = [sys.executable, str(ROOT / "experiments" / "report.py"), f"--workdir={folder}"]
    result = subprocess.run(
        [*command, "--reference=rounds=3,reconstruction=0", "--confidence=0.9"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == (folder / "report" / "report.md").read_text()
    assert "## Compared with rounds=3,reconstruction=0\n" in result.stdout
    assert "90 % interval" in result.stdout
    assert result.stderr.startswith(f"wrote {folder / 'report.html'} (0.")
    assert {path.name for path in (folder / "report").iterdir()} == {
        "report.md",
        "trials.csv",
        "points.csv",
        "error.png",
    }
    wrong = subprocess.run([*command, "--reference=x=1"], capture_output=True, text=True)
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: unknown factor 'x'; known: reconstruction, rounds")
    assert len(wrong.stderr.splitlines()) == 1
