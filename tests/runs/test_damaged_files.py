"""Small files of a run that a disk has spoiled: named, and made again where they can be."""

import contextlib
import os
import shutil

import numpy as np
import pytest

from capsjax.commands import evaluate, visualize
from capsjax.config.tagged import resolved
from capsjax.reports.runs import read_run
from capsjax.runs import data_record, predictor, starts, train, trained_data
from capsjax.runs.checkpoint import CheckpointError
from capsjax.runs.files import (
    DamagedFileError,
    WorkdirError,
    read_json,
    read_sealed,
    sealed,
    write_json,
)
from capsjax.runs.predictor import load_predictor
from capsjax.runs.workdir import open_workdir, read_config, read_summary
from capsjax.training.build import build
from tests.command_flags import of_trained_run
from tests.npz_digits import DIGITS, TEST, save_digits
from tests.tiny import tiny_config

START = {"command": ["train.py"]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    save_digits(folder / "own.npz")
    config = tiny_config(train__epochs=2, data__name="npz", data__file=str(folder / "own.npz"))
    train.train_and_evaluate(config, folder / "run")
    return folder / "run", config


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run, and its config."""
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run", finished[1]


@pytest.mark.ci
def test_a_damaged_summary_is_made_again_from_the_checkpoints(run, caplog, capsys):
    folder, config = run
    before = read_summary(folder)
    text = (folder / "summary.json").read_text()
    (folder / "summary.json").write_text(text.replace('"num_errors": ', '"num_errors": 1', 1))
    with pytest.raises(WorkdirError, match=r"summary.json is damaged: it differs .* Start the run"):
        read_run(folder)
    after = train.train_and_evaluate(config, folder)
    for name in ("test", "validation", "selected_step", "steps", "train_seconds"):
        assert after[name] == before[name]
    assert read_summary(folder) == after
    assert "evaluating 360 test images" in capsys.readouterr().out
    assert (folder / "summary.json.damaged").exists()
    assert "the results are computed again, from the last checkpoint" in caplog.text
    assert read_run(folder).summary == after


@pytest.mark.parametrize("text", ["", "[]", "{}", "\udcff", '{"test": {"accuracy": 1.0}}'])
def test_what_is_no_summary_is_not_taken_for_one(tmp_path, text):
    path = tmp_path / "summary.json"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(DamagedFileError, match=r"summary\.json is damaged: "):
        read_summary(tmp_path)


def test_every_flipped_bit_of_a_sealed_file_shows(tmp_path):
    fields = {"error": 0.12345678901234567, "é": [1, None, True], "shape": [28, 28], "n": 3}
    path = tmp_path / "sealed.json"
    write_json(path, sealed(fields))
    assert read_sealed(path)["error"] == fields["error"]
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            path.write_bytes(flipped)
            with contextlib.suppress(DamagedFileError):
                read = read_sealed(path)
                assert {name: read.get(name) for name in fields} == fields, (place, bit)


@pytest.mark.parametrize(
    ("old", "new"),
    [('"batch_size": 32', '"batch_size": 36'), ('"seed"', '"seee"'), ("{", "[")],
)
def test_a_damaged_config_is_written_anew_by_its_own_command_alone(run, old, new, caplog):
    folder, config = run
    path = folder / "config.json"
    whole = path.read_text()
    assert old in whole
    path.write_text(whole.replace(old, new, 1))
    with pytest.raises(WorkdirError, match=r"config\.json is damaged: .* same command as at its l"):
        load_predictor(folder)
    other = tiny_config(**{"train__epochs": 2, "data__name": "npz", "loss_weights__margin": 2.0})
    with pytest.raises(WorkdirError, match=r"[Nn]ame another --workdir"):
        open_workdir(folder, other, START)
    assert path.read_text() != whole
    open_workdir(folder, config, START)
    assert path.read_text() == whole
    assert (folder / "config.json.damaged").exists()
    assert "written anew from the config given here" in caplog.text
    read_config(folder)


@pytest.mark.ci
def test_no_flipped_bit_of_config_or_env_ends_in_another_error(run, monkeypatch, caplog):
    folder, config = run
    monkeypatch.setattr(starts, "describe_environment", lambda: {"backend": "cpu"})
    model, damaged = resolved(config)["model"], []
    generator = np.random.default_rng(0)
    whole = {name: (folder / name).read_bytes() for name in ("config.json", "env.json")}
    for name, data in whole.items():
        for place in generator.choice(len(data), 60, replace=False):
            flipped = bytearray(data)
            flipped[place] ^= 1 << int(generator.integers(8))
            (folder / name).write_bytes(flipped)
            try:
                assert resolved(read_config(folder))["model"] == model
            except WorkdirError as error:
                damaged.append(str(error))
            open_workdir(folder, config, START)
            assert resolved(read_config(folder))["model"] == model
            for each, content in whole.items():
                (folder / each).write_bytes(content)
    assert len(damaged) > 40
    assert all("config.json is damaged: " in message for message in damaged)


def test_a_damaged_config_of_before_digests_names_the_remedy(run):
    folder, config = run
    (folder / "config.json").write_text("{")
    (folder / "env.json").unlink()
    with pytest.raises(WorkdirError, match=r"env\.json does not show that it was the config given"):
        open_workdir(folder, config, START)


@pytest.mark.parametrize("which", ["last", "best"])
def test_a_run_may_replace_its_checkpoints_while_it_is_loaded(run, monkeypatch, which):
    folder, _ = run
    *_, last = sorted(folder.glob("checkpoints/[0-9]*"), key=lambda path: int(path.name))
    step, built = int(last.name), []

    def build_meanwhile(*arguments):
        if len(built) < 2:  # twice
            for number in map(int, os.listdir(folder / "checkpoints")):
                os.rename(folder / f"checkpoints/{number}", folder / f"checkpoints/{number + 100}")
        built.append(build(*arguments))
        return built[-1]

    monkeypatch.setattr(predictor, "build", build_meanwhile)
    assert load_predictor(folder, which).step > step
    assert len(built) == 3


def test_a_damaged_checkpoint_is_not_loaded_again_and_again(run, monkeypatch):
    folder, _ = run
    built = []
    monkeypatch.setattr(predictor, "build", lambda *each: built.append(1) or build(*each))
    for path in folder.glob("checkpoints/[0-9]*/manifest.sha256"):
        path.write_text("changed")
    with pytest.raises(CheckpointError, match="damaged"):
        load_predictor(folder)
    assert len(built) <= 1


@pytest.mark.parametrize("text", ["", "3", "{}", "[]", "[3]", '[{"comand": []}]', "\udcff"])
def test_a_damaged_env_is_set_aside_with_a_warning(run, text, caplog):
    folder, config = run
    path = folder / "env.json"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(WorkdirError, match=r"env\.json is damaged: .* Start the run again"):
        read_run(folder)
    open_workdir(folder, config, START)
    (start,) = read_json(path)
    assert start["command"] == ["train.py"]
    assert (folder / "env.json.damaged").exists()
    assert f"{path} is damaged: " in caplog.text
    read_run(folder)


@pytest.mark.parametrize("text", ["[", None])
def test_the_env_of_a_finished_run_is_made_anew_as_the_message_says(run, text):
    folder, config = run
    path = folder / "env.json"
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with pytest.raises(WorkdirError, match=r"env\.json is damaged: .* Start the run again"):
        read_run(folder)
    train.train_and_evaluate(config, folder)
    assert len(read_run(folder).starts) == 1


def test_the_record_of_a_finished_run_s_data_is_made_anew_with_the_test_part(run):
    folder, config = run
    (folder / "data.json").write_text("{")
    train.train_and_evaluate(config, folder)
    assert data_record.read_data(folder).keys() == {"training", "validation", "test"}


@pytest.mark.parametrize(
    ("record", "refused", "reason"),
    [
        (None, "write_json", "Read-only file system"),  # a run of an earlier version
        ("{", "set_aside", "(char 1)"),
    ],
)
def test_a_finished_run_on_a_disk_that_is_read_only_is_looked_at(
    run, monkeypatch, caplog, record, refused, reason
):
    folder, config = run

    def refuse(*_):
        raise OSError(30, "Read-only file system")

    (folder / "data.json").unlink()
    if record is not None:
        (folder / "data.json").write_text(record)
    monkeypatch.setattr(data_record, refused, refuse)
    assert train.train_and_evaluate(config, folder) == read_summary(folder)
    assert "Read-only file system: what is missing in the folder of this finished" in caplog.text
    assert f"{reason}: the test data of this finished run are not recorded" in caplog.text


def flags(folder, **changed):
    drawn = {"images": 3, "pose_range": 0.25, "pose_steps": 2}
    return of_trained_run(folder, **{"mistakes": 3, **drawn, **changed})


@pytest.mark.parametrize("command", [evaluate, visualize])
def test_other_test_data_are_refused_unless_they_are_meant(run, command, monkeypatch, tmp_path):
    folder, _ = run
    file = save_digits(tmp_path / "other.npz", test_images=255 - TEST.images)
    monkeypatch.setattr(command, "FLAGS", flags(folder, data_file=str(file)))
    # What follows the check is tested elsewhere.
    monkeypatch.setattr(visualize, "draw", lambda *_: [])
    made = []
    results = {"accuracy": 0.5, "num_errors": 1, "num_examples": 2}
    monkeypatch.setattr(
        evaluate, "evaluate", lambda *each, about: made.append(each[3]) or {**about, **results}
    )
    with pytest.raises(WorkdirError, match=r"the test images differ\. .* all the same: --other_da"):
        command.main()
    assert made == []

    for meant in (False, True):
        own = flags(folder, data_file=str(file) if meant else "", other_data=meant)
        monkeypatch.setattr(command, "FLAGS", own)
        command.main()
    if command is evaluate:
        names = [path.name for path in made]
    else:
        names = sorted(path.name for path in folder.glob("figures*"))
    assert len(set(names)) == 2, "other data do not overwrite the results on the run's own"
    assert names[1].startswith(f"{names[0]}-")


def test_other_training_data_are_refused_by_evaluation_too(run, monkeypatch, tmp_path):
    folder, _ = run
    file = save_digits(tmp_path / "other.npz", labels=DIGITS.labels[::-1])
    monkeypatch.setattr(evaluate, "FLAGS", flags(folder, data_file=str(file), part="train"))
    with pytest.raises(WorkdirError, match="the training images and labels differ; the validation"):
        evaluate.main()


def test_results_on_files_of_another_source_do_not_overwrite_each_other(finished, tmp_path):
    of_run = load_predictor(finished[0])
    of_run.config = tiny_config()

    def folder_for(name, images=None):
        file = "" if images is None else save_digits(tmp_path / "x.npz", test_images=images)
        _, folder = trained_data.load_data(
            of_run, tmp_path, tmp_path / "evaluation", name=name, file=str(file)
        )
        return folder.name

    images = (TEST.images, 255 - TEST.images, TEST.images)
    first, second, again = [folder_for("npz", each) for each in images]
    assert again == first != second
    assert first.startswith("evaluation-")
    of_run.config = tiny_config(data__name="mnist")
    assert folder_for("digits") == "evaluation"


def test_a_folder_beside_is_named_by_images_and_labels(tmp_path):
    first = trained_data.folder_beside(tmp_path / "a", TEST)
    labels = TEST.labels[::-1].copy()
    second = trained_data.folder_beside(tmp_path / "a", type(TEST)(TEST.images, labels, 10))
    assert first != second
    assert first.name.startswith("a-")
