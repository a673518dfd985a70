"""The folder of a run: its config comes back, a foreign one is refused, no file is ever half."""

import datetime
import errno
import json
import os
import re
import stat
import subprocess
import sys

import jax
import pytest
from ml_collections import ConfigDict

import capsjax
from capsjax.config import make_config
from capsjax.config.capsnet import PRESETS
from capsjax.config.tagged import resolved
from capsjax.runs import files, workdir
from capsjax.runs.environment import describe_environment
from capsjax.runs.files import read_json, write_json, write_text
from capsjax.runs.starts import program_command
from capsjax.runs.workdir import (
    WorkdirError,
    flatten,
    is_sweep,
    new_workdir,
    open_workdir,
    read_config,
    read_finished,
    read_summary,
)
from tests.tiny import tiny_config

COMMAND = {"command": ["train.py", "--config=c.py"], "overrides": {}}


def small_config(**changes):
    config = ConfigDict(
        {
            "seed": 0,
            "data": {"name": "digits", "dir": "", "file": "", "split_seed": 0},
            "decoder": {"hidden": (512, 1024), "none": (), "rate": 1e-3, "use": True},
            "checkpoint": {"keep": 2, "every_minutes": 5.0},
            "log": {"every_steps": 50},
            "evaluate": {"batch_size": 100},
        }
    )
    config.update_from_flattened_dict(changes)
    return config.lock()


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_comes_back_as_it_was(tmp_path, preset):
    config = make_config(preset).lock()
    open_workdir(tmp_path / "run", config, COMMAND)
    before, after = (flatten(resolved(each)) for each in (config, read_config(tmp_path / "run")))
    assert before == after
    # 1 == 1.0 == True: equal values may still differ in type.
    assert {name: type(value) for name, value in after.items()} == {
        name: type(value) for name, value in before.items()
    }


def test_tuples_stay_tuples_and_the_config_is_locked(tmp_path):
    open_workdir(tmp_path / "run", small_config(), COMMAND)
    config = read_config(tmp_path / "run")
    assert config.decoder.hidden == (512, 1024)
    assert config.decoder.none == ()
    assert isinstance(config.decoder.hidden, tuple)
    with pytest.raises(AttributeError):
        config.decoder.width = 3
    with pytest.raises(AttributeError):
        config.new = 3


def test_workdir_is_made_with_its_parents(tmp_path):
    open_workdir(tmp_path / "a" / "b" / "run", small_config(), COMMAND)
    assert sorted(path.name for path in (tmp_path / "a/b/run").iterdir()) == [
        "config.json",
        "env.json",
    ]


def test_empty_folder_is_taken(tmp_path):
    open_workdir(tmp_path, small_config(), COMMAND)
    assert read_config(tmp_path) == small_config()


def test_another_config_is_refused_and_the_differing_fields_are_named(tmp_path):
    open_workdir(tmp_path, small_config(), COMMAND)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    other = small_config(**{"seed": 1, "decoder.hidden": (512, 10), "log.every_steps": 7})
    with pytest.raises(WorkdirError) as error:
        open_workdir(tmp_path, other, COMMAND)
    message = str(error.value)
    assert "decoder.hidden: (512, 1024) there, (512, 10) here; seed: 0 there, 1 here" in message
    assert "every_steps" not in message
    assert "--workdir" in message
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_of_many_fields_that_differ_the_first_are_named(tmp_path):
    open_workdir(tmp_path, small_config(), COMMAND)
    with pytest.raises(WorkdirError, match=r"; f5: None there, 5 here; and 4 more\)"):
        open_workdir(tmp_path, small_config(**{f"f{k}": k for k in range(12)}), COMMAND)


def test_a_sweep_is_not_taken_for_a_run_nor_a_run_for_a_sweep(tmp_path):
    sweep = ConfigDict({"num_seeds": 2, "base": small_config()})
    run, table = tmp_path / "run", tmp_path / "table"
    open_workdir(run, small_config(), COMMAND)
    open_workdir(table, sweep, COMMAND)
    assert (is_sweep(run), is_sweep(table)) == (False, True)
    with pytest.raises(WorkdirError, match="holds a run, and this is a sweep: name another"):
        open_workdir(run, sweep, COMMAND)
    with pytest.raises(WorkdirError, match="holds a sweep, and this is a run: name another"):
        open_workdir(table, small_config(), COMMAND)
    with pytest.raises(WorkdirError, match=r"table is a sweep: .* such as .*table/trials$"):
        read_config(table)
    open_workdir(table / "trials" / "rounds=1,seed=0", small_config(), COMMAND)
    with pytest.raises(WorkdirError, match=r"table/trials/rounds=1,seed=0$"):
        read_config(table)


def test_field_that_only_one_config_has_is_named(tmp_path):
    open_workdir(tmp_path, small_config(), COMMAND)
    fields = small_config().to_dict()
    with pytest.raises(WorkdirError, match="extra: None there, 3 here"):
        open_workdir(tmp_path, ConfigDict({**fields, "extra": 3}), COMMAND)
    del fields["seed"]
    with pytest.raises(WorkdirError, match="seed: 0 there, None here"):
        open_workdir(tmp_path, ConfigDict(fields), COMMAND)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data.dir", "/elsewhere"),
        ("data.file", "other.npz"),
        ("checkpoint.keep", 9),
        ("checkpoint.every_minutes", 0.5),
        ("log.every_steps", 1),
        ("evaluate.batch_size", 7),
    ],
)
def test_field_that_changes_no_result_may_differ(tmp_path, name, value):
    open_workdir(tmp_path, small_config(), COMMAND)
    open_workdir(tmp_path, small_config(**{name: value}), COMMAND)
    assert read_config(tmp_path) == small_config()  # the first one stays


@pytest.mark.parametrize("name", ["data.name", "data.split_seed", "seed", "decoder.rate"])
def test_field_that_changes_results_may_not_differ(tmp_path, name):
    open_workdir(tmp_path, small_config(), COMMAND)
    value = {"data.name": "mnist", "decoder.rate": 1.0}.get(name, 1)
    with pytest.raises(WorkdirError, match=f"{name}: "):
        open_workdir(tmp_path, small_config(**{name: value}), COMMAND)


@pytest.mark.parametrize("prefix", ["", "base."])
def test_run_made_before_a_field_was_added_is_read_and_resumes(tmp_path, prefix):
    def with_field(value):
        config = make_config("paper,small")
        config.schedule.anneal_epochs = value
        return (ConfigDict({"base": config, "num_seeds": 1}) if prefix else config).lock()

    open_workdir(tmp_path, with_field(0), COMMAND)
    fields = read_json(tmp_path / "config.json")
    del (fields["base"] if prefix else fields)["schedule"]["anneal_epochs"]
    write_json(tmp_path / "config.json", fields)
    (tmp_path / "env.json").unlink()  # it knows the digest of the config

    assert workdir.stored_fields(tmp_path) == flatten(resolved(with_field(0)))
    if not prefix:  # a sweep is no run
        assert resolved(read_config(tmp_path)) == resolved(with_field(0))
    open_workdir(tmp_path, with_field(0), COMMAND)
    assert read_json(tmp_path / "config.json") == fields
    message = f"config \\({prefix}schedule.anneal_epochs: 0 there, 5 here\\)"
    with pytest.raises(WorkdirError, match=message):
        open_workdir(tmp_path, with_field(5), COMMAND)


@pytest.mark.parametrize("foreign", ["thesis.txt", ".hidden", "metrics.jsonl"])
def test_folder_of_something_else_is_refused(tmp_path, foreign):
    (tmp_path / foreign).write_text("mine")
    with pytest.raises(WorkdirError, match=r"is not empty and holds no run \(no config.json\)"):
        open_workdir(tmp_path, small_config(), COMMAND)
    assert [path.name for path in tmp_path.iterdir()] == [foreign]


def test_folder_of_a_start_that_was_killed_before_its_config_is_taken(tmp_path):
    for name in ("config.jsonabc123.tmp", "lock", "log.txt"):
        (tmp_path / name).write_text('{"seed"')
    open_workdir(tmp_path, small_config(), COMMAND)
    assert read_config(tmp_path) == small_config()
    assert not list(tmp_path.glob("*.tmp")), "nobody needs it any more"


def test_file_is_no_workdir(tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(WorkdirError, match="file is a file"):
        open_workdir(path, small_config(), COMMAND)
    with pytest.raises(WorkdirError, match="no run in"):
        read_config(path)
    assert path.read_text() == "mine"


def test_workdir_below_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WorkdirError):
        open_workdir(tmp_path / "file" / "run", small_config(), COMMAND)


def test_folder_without_a_run(tmp_path):
    with pytest.raises(WorkdirError, match=r"no run in .*nothing \(it has no config.json\)"):
        read_config(tmp_path / "nothing")


@pytest.mark.parametrize("text", ["", '{"seed": 0', "\udcff"])
def test_damaged_config_is_said_to_be(tmp_path, text):
    (tmp_path / "config.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(WorkdirError, match=r"config.json is damaged: "):
        read_config(tmp_path)
    with pytest.raises(WorkdirError, match=r"config.json is damaged: "):
        open_workdir(tmp_path, small_config(), COMMAND)


def test_config_that_is_json_but_no_config(tmp_path):
    (tmp_path / "config.json").write_text("[1, 2]")
    with pytest.raises(WorkdirError, match="damaged"):
        read_config(tmp_path)


def test_damaged_env_does_not_keep_a_run_from_going_on(tmp_path):
    open_workdir(tmp_path, small_config(), COMMAND)
    (tmp_path / "env.json").write_text("[{")
    try:
        open_workdir(tmp_path, small_config(), COMMAND)
    except WorkdirError as error:
        pytest.fail(str(error))


def test_each_start_is_added_to_env(tmp_path):
    for number in range(3):
        open_workdir(tmp_path, small_config(), {"command": [str(number)], "overrides": {"a": 1}})
    starts = read_json(tmp_path / "env.json")
    assert [start["command"] for start in starts] == [["0"], ["1"], ["2"]]
    assert starts[0]["overrides"] == {"a": 1}


def test_environment_says_what_a_result_may_depend_on():
    env = describe_environment()
    assert env["packages"]["jax"] == jax.__version__
    assert env["packages"].keys() >= {"capsjax", "jaxlib", "flax", "optax", "numpy"}
    assert env["python"] == ".".join(map(str, sys.version_info[:3]))
    assert env["backend"] == jax.default_backend()
    assert env["device_count"] == jax.device_count()
    assert env["cpu_count"] == os.cpu_count()
    assert re.fullmatch(r"[0-9a-f]{40}\+?", env["commit"] or "0" * 40)
    assert datetime.datetime.fromisoformat(env["time"]).utcoffset() == datetime.timedelta(0)
    json.dumps(env)


def test_environment_without_git(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    assert describe_environment()["commit"] is None


def test_command_is_the_programs_own(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--config=c.py"])
    assert program_command({"seed": 3}) == {
        "command": ["train.py", "--config=c.py"],
        "overrides": {"seed": 3},
    }


def test_new_workdir_never_collides(tmp_path, monkeypatch):
    class Frozen(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(workdir.datetime, "datetime", Frozen)
    names = []
    for _ in range(3):
        path = new_workdir("digits", tmp_path)
        path.mkdir()
        names.append(path.name)
    stem = "digits-20260102-030405"
    assert names == [stem, f"{stem}-2", f"{stem}-3"]


def test_summary_says_finished(tmp_path):
    assert read_summary(tmp_path) is None
    results = {"test": {}, "selection": "last", "selected_step": 5, "train_seconds": 0.5}
    write_json(tmp_path / "summary.json", results)
    assert read_summary(tmp_path) == results


def test_json_is_for_people(tmp_path):
    write_json(tmp_path / "a.json", {"name": "|s|² é", "pair": (1, 2)})
    assert (tmp_path / "a.json").read_text("utf-8") == (
        '{\n  "name": "|s|² é",\n  "pair": [\n    1,\n    2\n  ]\n}\n'
    )
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o644


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("function", ["fsync", "replace", "chmod"])
def test_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, function):
    path = tmp_path / "a.json"
    write_json(path, "old")
    monkeypatch.setattr(files.os, function, no_space)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        write_json(path, "new")
    assert read_json(path) == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_value_that_json_cannot_hold_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, "old")
    with pytest.raises(TypeError):
        write_json(path, {"new": object()})
    assert read_json(path) == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_interrupted_write_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "a.txt", "new")
    assert list(tmp_path.iterdir()) == []


def test_new_content_reaches_the_disk_before_the_name(tmp_path, monkeypatch):
    """Otherwise a power cut may leave an empty file under the final name."""
    calls = []
    for name in ("fsync", "replace"):
        function = getattr(os, name)
        monkeypatch.setattr(
            files.os, name, lambda *a, name=name, f=function: (calls.append(name), f(*a))
        )
    write_text(tmp_path / "a.txt", "new")
    assert calls == ["fsync", "replace"]


def test_version_is_the_packages():
    assert describe_environment()["packages"]["capsjax"] == capsjax.__version__


def finished_run(folder, config):
    open_workdir(folder, config, COMMAND)
    write_json(folder / "summary.json", files.sealed(dict.fromkeys(workdir.RESULTS, 1)))


def test_a_run_may_be_given_more_epochs_and_keeps_its_results(tmp_path, capsys, caplog):
    config, longer = (tiny_config(train__epochs=epochs) for epochs in (3, 5))
    finished_run(tmp_path, config)
    assert read_finished(tmp_path, longer, COMMAND) is None
    open_workdir(tmp_path, longer, COMMAND)
    assert read_config(tmp_path).train.epochs == 5
    assert not (tmp_path / "summary.json").exists()
    assert files.read_sealed(tmp_path / "summary-3-epochs.json")["test"] == 1
    assert "goes on from 3 to 5 epochs; its results after 3 are in" in capsys.readouterr().out
    assert caplog.messages == []
    with pytest.raises(WorkdirError, match=r"train\.epochs: 5 there, 3 here"):
        open_workdir(tmp_path, config, COMMAND)


def test_more_epochs_and_another_change_are_another_run(tmp_path):
    finished_run(tmp_path, tiny_config(train__epochs=3))
    other = tiny_config(train__epochs=5, loss_weights__margin=2.0)
    for action in (
        lambda: read_finished(tmp_path, other, COMMAND),
        lambda: open_workdir(tmp_path, other, {}),
    ):
        with pytest.raises(WorkdirError, match=r"margin: 1\.0 there, 2\.0 here; train\.epochs: 3"):
            action()


def kill_while_lengthened(folder, longer, monkeypatch, function):
    """Give a run more epochs, and kill the program at a function."""

    def kill(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(function, kill)
        with pytest.raises(KeyboardInterrupt):
            open_workdir(folder, longer, COMMAND)


def test_a_kill_while_a_run_is_given_more_epochs_loses_nothing(tmp_path, monkeypatch):
    config, longer = (tiny_config(train__epochs=epochs) for epochs in (3, 5))
    finished_run(tmp_path, config)

    kill_while_lengthened(tmp_path, longer, monkeypatch, "capsjax.runs.longer.write_json")
    assert read_config(tmp_path).train.epochs == 3
    open_workdir(tmp_path, longer, COMMAND)
    assert read_config(tmp_path).train.epochs == 5
    assert (tmp_path / "summary-3-epochs.json").exists()


def test_a_refused_start_with_more_epochs_changes_nothing(tmp_path):
    config, longer = (tiny_config(train__epochs=epochs) for epochs in (3, 5))
    data = {"training": {"number": 9, "images": "a", "labels": "b"}}
    open_workdir(tmp_path, config, COMMAND, data)
    write_json(tmp_path / "summary.json", files.sealed(dict.fromkeys(workdir.RESULTS, 1)))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = {"training": {"number": 9, "images": "c", "labels": "b"}}
    with pytest.raises(WorkdirError, match="these are not the data"):
        open_workdir(tmp_path, longer, COMMAND, other)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_kill_before_the_config_of_a_longer_run_is_written_damages_nothing(tmp_path, monkeypatch):
    config, longer = (tiny_config(train__epochs=epochs) for epochs in (3, 5))
    finished_run(tmp_path, config)

    kill_while_lengthened(tmp_path, longer, monkeypatch, "capsjax.runs.workdir.lengthen")
    assert read_config(tmp_path).train.epochs == 3
    assert read_finished(tmp_path, config, COMMAND) is not None
    open_workdir(tmp_path, longer, COMMAND)
    assert read_config(tmp_path).train.epochs == 5


def test_a_damaged_number_of_epochs_is_not_taken_for_a_shorter_run(tmp_path, capsys):
    config = tiny_config(train__epochs=3)
    finished_run(tmp_path, config)
    whole = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(whole.replace('"epochs": 3', '"epochs": 1'))
    assert read_finished(tmp_path, config, COMMAND) is not None
    open_workdir(tmp_path, config, COMMAND)
    assert (tmp_path / "config.json").read_text() == whole
    assert (tmp_path / "summary.json").exists()
    assert "goes on" not in capsys.readouterr().out


def test_a_damaged_config_of_a_longer_run_is_mended_by_its_last_command(tmp_path):
    config, longer = (tiny_config(train__epochs=epochs) for epochs in (3, 5))
    open_workdir(tmp_path, config, COMMAND)
    open_workdir(tmp_path, longer, COMMAND)
    whole = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(whole[:200])
    with pytest.raises(WorkdirError, match=r"The same command as at its last start"):
        read_config(tmp_path)
    with pytest.raises(WorkdirError, match="Give the config of its last start"):
        open_workdir(tmp_path, config, COMMAND)
    open_workdir(tmp_path, longer, COMMAND)
    assert (tmp_path / "config.json").read_text() == whole


def test_a_damaged_config_that_cannot_be_written_anew_stays(tmp_path, monkeypatch):
    open_workdir(tmp_path, small_config(), COMMAND)
    (tmp_path / "config.json").write_text("{")

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_json", refuse)
        with pytest.raises(OSError, match="No space left"):
            open_workdir(tmp_path, small_config(), COMMAND)
    open_workdir(tmp_path, small_config(), COMMAND)
    assert read_config(tmp_path).seed == 0


@pytest.mark.parametrize(("anneal_epochs", "warnings"), [(0, 1), (3, 0)])
def test_a_rate_that_has_fallen_to_its_end_is_pointed_out(
    tmp_path, caplog, anneal_epochs, warnings
):
    settings = {"schedule__name": "cosine", "schedule__anneal_epochs": anneal_epochs}
    finished_run(tmp_path, tiny_config(train__epochs=3, **settings))
    open_workdir(tmp_path, tiny_config(train__epochs=5, **settings), COMMAND)
    assert len(caplog.messages) == warnings
    assert all("fallen to its end once, after 3 epochs, and falls" in x for x in caplog.messages)


def test_a_rate_that_has_not_fallen_to_its_end_is_not_told_to_have(tmp_path, caplog):
    """A run that was stopped before its end, and one whose start was killed after its summary."""
    first, second, third = (
        tiny_config(train__epochs=epochs, schedule__name="linear") for epochs in (3, 5, 7)
    )
    open_workdir(tmp_path, first, COMMAND)
    open_workdir(tmp_path, second, COMMAND)
    (line,) = caplog.messages
    assert "followed a schedule of 3 epochs so far, and follows one of 5 from here on" in line
    (tmp_path / "summary-5-epochs.json").write_text("{}")
    open_workdir(tmp_path, third, COMMAND)
    assert "fallen to its end once, after 5 epochs, and falls again" in caplog.messages[-1]
