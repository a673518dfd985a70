"""The table of single runs, from folders that hold what train.py writes."""

import json
from types import SimpleNamespace

import pytest

from capsjax.commands import table
from capsjax.config import FAMILIES, make_config
from capsjax.reports.documents import DOCUMENTS
from capsjax.reports.runs import read_run, runs_table
from capsjax.runs.data_record import record_data
from capsjax.runs.files import sealed, write_json
from capsjax.runs.workdir import WorkdirError

START = {
    "command": [
        "experiments/train.py",
        "--config=configs/mnist.py:keras",
        "--workdir=/a/b",
        "--config.data.dir=/data",
        "--config.seed=1",
        "--config.train.epochs=2",
    ],
    "backend": "cpu",
    "processor": "A Processor",
    "cpu_count": 2,
    "device": "cpu",
    "device_count": 1,
}


@pytest.fixture
def write_run(tmp_path):
    def write(name, seed=0, errors=None, seconds=60.0, preset="keras", **start):
        config = make_config(preset)
        config.name, config.seed, config.data.dir = f"mnist-{preset}", seed, f"/{name}"
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(config.to_json())
        (folder / "env.json").write_text(json.dumps([{**START, **start}]))
        record = {"step": 5, "epoch": 1.25, "split": "train", "loss": 1.0}
        (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
        if errors is not None:
            test = {"accuracy": 1 - errors / 10_000, "num_errors": errors, "num_examples": 10_000}
            summary = {"test": test, "num_parameters": 8_215_568, "train_seconds": seconds}
            summary |= {"selection": "last", "selected_step": 5}
            (folder / "summary.json").write_text(json.dumps(summary))
        return folder

    return write


def rows(*folders):
    lines = runs_table([read_run(folder) for folder in folders]).splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_a_run(write_run):
    (row,) = rows(write_run("a", errors=91))
    assert row == [
        "`train.py --config=configs/mnist.py:keras --config.train.epochs=2`",
        "10",
        "0",
        "99.09",
        "91",
        "99.09 (one, last)",
        "8,215,568",
        "last",
        "1:00",
        "A Processor, 2 cores",
    ]


@pytest.mark.parametrize(
    ("selection", "metric", "shown"),
    [("best", "accuracy", "best accuracy"), ("best", "loss", "best"), ("last", "accuracy", "last")],
)
def test_the_parameters_that_count(write_run, selection, metric, shown):
    folder = write_run("a", errors=91)
    fields = json.loads((folder / "config.json").read_text())
    chosen = {"selection": selection, "selection_metric": metric}
    (folder / "config.json").write_text(json.dumps({**fields, **chosen}))
    assert rows(folder)[0][-3] == shown


def test_the_command_of_a_run_that_was_installed(write_run):
    command = ["/usr/bin/capsjax", "--config=a b.py", "--workdir=/a"]
    (earlier,) = rows(write_run("a", errors=91, command=command))
    command.insert(1, "train")
    (now,) = rows(write_run("b", errors=91, command=command))
    assert earlier[0] == now[0] == "`capsjax train '--config=a b.py'`"


def test_seeds_share_a_row_and_other_configs_do_not(write_run):
    seeds = [
        write_run(f"a{seed}", seed, errors, 60.0 + seed) for seed, errors in enumerate((90, 110))
    ]
    same, other = rows(*seeds, write_run("b", errors=50, preset="pytorch"))
    # Means of 99.10 and 98.90, and of 60 and 61 s; the sample deviation is 0.2 / √2.
    assert same[2:5] == ["0, 1", "99.00 ± 0.14", "90, 110"]
    assert same[8] == "1:00"
    assert other[3:6] == ["99.50", "50", "99.66 (mean, a fixed epoch)"]


def test_a_run_that_is_given_twice_counts_once(write_run):
    folder = write_run("a", errors=90)
    (row,) = rows(folder, folder / ".." / "a")
    assert row[2:5] == ["0", "99.10", "90"]


def test_a_run_that_was_made_again_has_a_row_of_its_own(write_run):
    folders = [write_run(name, seed, errors=90) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    both, again = rows(*folders)
    assert (both[2], again[2]) == ("0, 1", "0")
    assert both[0].endswith(f"` in `{folders[0]}`, `{folders[2]}`")
    assert again[0].endswith(f"` in `{folders[1]}`")


def test_runs_of_other_code_do_not_share_a_row(write_run):
    folders = [write_run(name, seed, errors=90) for seed, name in enumerate("abc")]
    for folder, code in zip(folders, ("old", "new", "old"), strict=True):
        entry = {"kind": "routing algorithm", "name": "mine", "file": "/mine.py", "code": code}
        entry |= {"sha256": code, "copy": f"code/{code}/mine.py"}
        write_json(folder / "own_files.json", sealed({"files": [entry]}))
    assert [row[2] for row in rows(*folders)] == ["0, 2", "1"]


def test_the_command_is_that_of_the_last_start(write_run):
    folder = write_run("a", errors=90)
    starts = json.loads((folder / "env.json").read_text())
    more = {
        **starts[0],
        "command": ["capsjax", "train", "--config=mnist", "--config.train.epochs=9"],
    }
    (folder / "env.json").write_text(json.dumps([*starts, more]))
    assert rows(folder)[0][0] == "`capsjax train --config=mnist --config.train.epochs=9`"


def test_a_run_that_is_not_finished_has_no_accuracy(write_run):
    done, going = write_run("a", 0, errors=100), write_run("b", 1)
    assert rows(going)[0][1:5] == ["10 (not finished: at 1.2)", "1", "-", "-"]
    assert rows(done, going)[0][1:5] == ["10 (not finished: at 1.2)", "0, 1", "99.00", "100, -"]
    assert rows(write_run("c", 0), write_run("d", 1, errors=88))[0][4] == "-, 88"


def test_a_run_that_ended_early_shows_its_epochs(write_run):
    early, whole, going = (write_run(f"a{seed}", seed, errors=100) for seed in range(3))
    for folder, epochs in ((early, 7), (whole, 10)):
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps({**summary, "epochs": epochs}))
    (going / "summary.json").unlink()
    assert rows(whole)[0][1] == "10"
    assert rows(early)[0][1] == "10 (ended early: at 7)"
    assert rows(early, whole, going)[0][1] == "10 (ended early: at 7; not finished: at 1.2)"


def test_the_values_of_flags_that_are_not_shown_may_be_words_of_their_own(write_run):
    command = ["experiments/train.py", "--config", "a.py", "--workdir", "x", "--config.seed", "3"]
    (row,) = rows(write_run("a", errors=91, command=[*command, "--debug"]))
    assert row[0] == "`train.py --config a.py --debug`"


def test_trials_of_a_sweep_have_a_row_for_each_of_its_points(write_run):
    command = ["capsjax", "--config=digits", "--config.base.data.dir=/data", "--workdir=/a"]
    folders = []
    for rounds in (1, 2):
        for seed in (0, 1):
            name = f"rounds={rounds},seed={seed}"
            folder = write_run(name, seed, errors=90, command=command)
            fields = {**json.loads((folder / "config.json").read_text()), "name": name}
            (folder / "config.json").write_text(json.dumps(fields))
            folders.append(folder)
    assert [(row[0], row[2]) for row in rows(*folders)] == [
        ("`rounds=1` of `capsjax sweep --config=digits`", "0, 1"),
        ("`rounds=2` of `capsjax sweep --config=digits`", "0, 1"),
    ]


def test_a_run_on_maps_has_no_number_of_errors(write_run):
    folder = write_run("a", errors=91)
    summary = json.loads((folder / "summary.json").read_text())
    del summary["test"]["num_errors"]
    (folder / "summary.json").write_text(json.dumps(summary))
    assert rows(folder)[0][4] == "-"


def test_runs_on_other_training_data_do_not_share_a_row(write_run):
    folders = [write_run(f"a{seed}", seed, errors=100) for seed in range(3)]
    for folder, images in zip(folders, ("a", "a", "b"), strict=True):
        record_data(folder, {"training": {"number": 5, "images": images}})
    assert [row[2] for row in rows(*folders)] == ["0, 1", "2"]


def test_folders_with_commas_in_their_names_are_found(write_run, monkeypatch, tmp_path, capsys):
    trial, other = write_run("rounds=1,seed=0", errors=91), write_run("b", errors=50, preset="cnn")
    both = [trial, other]
    assert table.split_folders(f"{trial},{other}") == both
    assert table.split_folders(f"{other},{trial}") == both[::-1]
    assert table.split_folders(f"{tmp_path}/none,{trial}") == [tmp_path / "none", trial]
    monkeypatch.setattr(table, "FLAGS", SimpleNamespace(workdirs=[str(trial), str(other)]))
    table.main()
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_accelerators_are_named(write_run):
    (row,) = rows(write_run("a", errors=1, backend="gpu", device="A GPU", device_count=2))
    assert row[-1] == "2 x A GPU"


def test_every_document_is_that_of_a_config():
    presets = [f"mnist-{preset}" for family in FAMILIES.values() for preset in family.presets]
    assert set(DOCUMENTS) <= {*presets, "pooling-capsule", "pooling-max"}


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(WorkdirError, match="no run in"):
        read_run(tmp_path)


def test_without_folders_the_flag_is_named(monkeypatch):
    from absl import flags

    values = flags.FlagValues()
    flags.DEFINE_multi_string("workdirs", [], "", flag_values=values)
    values(["table"])
    monkeypatch.setattr(table, "FLAGS", values)
    with pytest.raises(ValueError, match="--workdirs=RUN,RUN"):
        table.main()
