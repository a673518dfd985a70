"""What a run shows on TensorBoard, and what it prints of itself while one waits."""

import contextlib
import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest

from capsjax.runs.train import train_and_evaluate
from capsjax.runs.writers import MetricsWriter, describe_board, read_metrics
from tests.events import read_pictures, read_scalars, read_texts
from tests.run_processes import LONG, start, wait_for_steps
from tests.tiny import tiny_config, tiny_convnet_config

pytestmark = pytest.mark.ci

PICTURE = np.full((4, 6, 3), 7, np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of three epochs of four steps, and what it printed."""
    workdir, output = tmp_path_factory.mktemp("board") / "run", io.StringIO()
    with contextlib.redirect_stdout(output):
        train_and_evaluate(tiny_config(log__tensorboard=True), workdir)
    return workdir, output.getvalue()


def test_curves_are_those_of_metrics_jsonl(run):
    scalars = read_scalars(run[0] / "tensorboard")
    for split in ("train", "validation"):
        records = [record for record in read_metrics(run[0]) if record["split"] == split]
        expected = [(record["step"], pytest.approx(record["loss"])) for record in records]
        assert scalars[f"{split}/loss"] == expected


def test_pictures_are_drawn_after_some_epochs(run):
    pictures = read_pictures(run[0] / "tensorboard")
    assert pictures.keys() == {"reconstructions", "confusion", "mistakes"}
    for name in pictures:
        assert [step for step, _ in pictures[name]] == [4, 8, 12], name
        assert all(picture.std() > 0 for _, picture in pictures[name])
    # Ten digits, enlarged tenfold, with gaps; a row for the reconstructions.
    assert pictures["reconstructions"][0][1].shape == (2 * 86, 10 * 86 + 6, 3)


def test_the_config_is_a_text(run):
    (text,) = read_texts(run[0] / "tensorboard")["config/text_summary"]
    assert "    train.batch_size = 32\n" in text
    assert "    model.routing.name = 'dynamic'\n" in text
    assert "model.routing.em" not in text, "settings of an algorithm that the run does not use"


def test_what_one_waits_for_and_how_to_look_are_printed_once(run):
    lines = run[1].splitlines()
    (compiling,) = [n for n, line in enumerate(lines) if line.startswith("compiling the training")]
    (compiled,) = [n for n, line in enumerate(lines) if "; compiled in" in line]
    assert lines[compiling].startswith("compiling the training step (CapsNet, ")
    assert lines[compiling].endswith(" parameters) ...")
    assert compiling < compiled
    assert lines.count("compiling the validation ...") == 1
    assert len([line for line in lines if f"tensorboard --logdir={run[0]}" in line]) == 1


@pytest.mark.ci
def test_without_reconstructions_and_validation_there_are_no_such_pictures(tmp_path):
    config = tiny_convnet_config(
        log__tensorboard=True, data__validation_size=0, selection="last", train__epochs=1
    )
    train_and_evaluate(config, tmp_path / "run")
    assert read_pictures(tmp_path / "run" / "tensorboard") == {}
    assert "train/loss" in read_scalars(tmp_path / "run" / "tensorboard")


def write(directory, resume_step, steps):
    writer = MetricsWriter(directory, resume_step=resume_step)
    if resume_step == 0:
        writer.write_text("config", "text")
    for step in steps:
        writer.write(step, step / 10, "train", {"loss": 1.0})
        writer.write_picture(step, "mistakes", PICTURE)
    writer.close()


@pytest.mark.parametrize("kept", [0, 20, 100])
def test_what_is_written_again_counts_once(tmp_path, kept):
    """After a kill before the first checkpoint too, where a run begins anew."""
    board, whole = tmp_path / "tensorboard", [10, 20, 30, 40] if kept < 100 else [10, 20, 30]
    write(tmp_path, 0, [10, 20, 30])
    (first,) = board.iterdir()
    # Its name has the second of the start, and another start in that second the same one.
    first.rename(first.with_name("events.out.tfevents.1.first"))
    write(tmp_path, kept, [step for step in (10, 20, 30, 40) if step > kept])
    assert [step for step, _ in read_scalars(board)["train/loss"]] == whole
    assert [step for step, _ in read_pictures(board)["mistakes"]] == whole
    assert read_texts(board)["config/text_summary"] == ["text"]


def test_a_picture_comes_back_as_it_was(tmp_path):
    write(tmp_path, 0, [10])
    ((_, picture),) = read_pictures(tmp_path / "tensorboard")["mistakes"]
    np.testing.assert_array_equal(picture, PICTURE)


@pytest.mark.ci
def test_a_killed_run_shows_what_one_shows_that_was_not(tmp_path):
    shown = {}
    for name in ("alone", "killed"):
        options = {**LONG, "train__epochs": 12, "log__tensorboard": True}
        process = start(tmp_path / name, **options)
        if name == "killed":
            wait_for_steps(tmp_path / name, process, 10)
            process.kill()
            process.communicate()
            process = start(tmp_path / name, **options)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        board = tmp_path / name / "tensorboard"
        pictures = {
            picture: [(step, pixels.tobytes()) for step, pixels in found]
            for picture, found in read_pictures(board).items()
        }
        shown[name] = (read_scalars(board)["validation/loss"], pictures, read_texts(board))
    assert len(list((tmp_path / "killed" / "tensorboard").iterdir())) == 2
    assert shown["killed"] == shown["alone"]


@pytest.mark.parametrize("is_there", [True, False])
def test_the_command_names_what_is_missing(monkeypatch, is_there):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: is_there or None)
    line = describe_board(Path("runs/a b"))
    assert line.startswith("curves and pictures: tensorboard --logdir='runs/a b'")
    assert ("pip install tensorboard" in line) is not is_there
