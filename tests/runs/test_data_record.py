"""The data of a run belong to it: others under the same name are refused."""

import shutil

import numpy as np
import pytest

from capsjax.data import Arrays, load_part
from capsjax.runs import data_record, pace, train
from capsjax.runs.data_record import check_data, fingerprints, read_data, record_data
from capsjax.runs.files import WorkdirError
from tests.npz_digits import DIGITS, TEST, save_digits
from tests.tiny import tiny_config


def save(path, **changed):
    """Write the digits with changes; two of the test images are of an eleventh class."""
    test_labels = np.concatenate([[10, 10], TEST.labels[2:]])
    return save_digits(path, **{"test_labels": test_labels, **changed})


def config_of(path, **overrides):
    return tiny_config(data__name="npz", data__file=str(path), train__epochs=2, **overrides)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run on a .npz file that was stopped after its first epoch."""
    folder = tmp_path_factory.mktemp("data")
    file = save(folder / "own.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pace, "agree", lambda steps, due, _: (steps, due, 15))
        with pytest.raises(SystemExit):
            train.train_and_evaluate(config_of(file), folder / "run")
    return folder / "run", file


@pytest.fixture
def run(stopped, tmp_path):
    """A copy of it, with a file of its own."""
    shutil.copytree(stopped[0], tmp_path / "run")
    shutil.copy(stopped[1], tmp_path / "own.npz")
    return tmp_path / "run", tmp_path / "own.npz"


@pytest.mark.ci
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": 255 - DIGITS.images}, "the training images differ; the validation images "),
        # Which images are in which part follows from their labels.
        (
            {"labels": DIGITS.labels[::-1]},
            "the training images and labels differ; the validation images and labels ",
        ),
        ({"test_labels": TEST.labels}, "the training classes differ; the validation classes "),
    ],
)
def test_other_data_of_the_same_name_are_refused_by_part(run, changed, message):
    workdir, file = run
    before = (workdir / "env.json").read_bytes()
    save(file, **changed)
    with pytest.raises(WorkdirError, match=f"the same name: {message}.*name another --workdir"):
        train.train_and_evaluate(config_of(file), workdir)
    assert (workdir / "env.json").read_bytes() == before, "it was not started"


def test_fewer_images_are_refused_by_their_number(tmp_path):
    record_data(tmp_path, fingerprints(training=DIGITS))
    with pytest.raises(WorkdirError, match=r"1437 training examples there, 1430 here\. Give it"):
        check_data(tmp_path, fingerprints(training=DIGITS.take(np.arange(1430))))


def test_another_config_is_named_before_the_data_that_follow_from_it(run):
    workdir, file = run
    with pytest.raises(WorkdirError, match=r"another config \(data.train_size: 128 there, 64"):
        train.train_and_evaluate(config_of(file, data__train_size=64), workdir)


@pytest.mark.ci
def test_the_same_data_elsewhere_resume_and_the_test_data_are_recorded_at_the_end(
    run, tmp_path, capsys
):
    workdir, file = run
    assert read_data(workdir).keys() == {"training", "validation"}
    moved = file.rename(tmp_path / "moved.npz")
    summary = train.train_and_evaluate(config_of(moved), workdir)
    assert summary["steps"] == 8
    test = load_part("npz", "test", file=str(moved))
    assert read_data(workdir)["test"] == test.fingerprint()
    warning = "warning: test images have classes that no training image has: 10\n"
    assert warning in capsys.readouterr().out

    save(moved, labels=DIGITS.labels[::-1])
    with pytest.raises(WorkdirError, match="the training images and labels differ"):
        train.train_and_evaluate(config_of(moved), workdir)
    # The results are lost, and the test data are others: not evaluated again.
    (workdir / "summary.json").unlink()
    save(moved, test_images=255 - TEST.images)
    with pytest.raises(WorkdirError, match=r"the same name: the test images differ\. "):
        train.train_and_evaluate(config_of(moved), workdir)
    assert not (workdir / "summary.json").exists()


def test_a_run_without_a_record_adopts_its_data(run):
    workdir, file = run
    recorded = read_data(workdir)
    (workdir / "data.json").unlink()
    config = config_of(file)
    start = {"command": [], "backend": "cpu"}
    data = fingerprints(**dict(zip(recorded, train.load_training(**config.data), strict=True)))
    train.open_workdir(workdir, config, start, data)
    assert read_data(workdir) == recorded


@pytest.mark.parametrize("damage", [b"{", b"[]", b"{}", b"\xff", None])
def test_a_damaged_record_is_made_anew_with_a_warning(tmp_path, caplog, damage):
    found = fingerprints(training=DIGITS, validation=None)
    record_data(tmp_path, found)
    path = tmp_path / "data.json"
    whole = path.read_bytes()
    path.write_bytes(damage if damage is not None else whole.replace(b"1437", b"1436"))
    with pytest.raises(WorkdirError, match=r"data\.json is damaged: .* which data belong to the"):
        check_data(tmp_path, found)
    record_data(tmp_path, found)
    assert path.read_bytes() == whole
    assert (tmp_path / "data.json.damaged").exists()
    (line,) = caplog.messages
    assert "data.json is damaged" in line
    assert "without a comparison" in line


def test_processes_with_other_data_are_told_the_part(monkeypatch):
    asked = []
    monkeypatch.setattr(data_record.processes, "check_same", lambda *each: asked.append(each))
    data_record.check_processes(fingerprints(training=DIGITS, validation=DIGITS))
    assert len(asked) == 8
    assert ("the training data (number)", 1437) in asked
    assert ("the validation data (labels)", DIGITS.fingerprint()["labels"]) in asked


def test_new_classes_in_the_test_data_are_warned_of(capsys):
    labels = np.where(DIGITS.labels == 3, 2, DIGITS.labels)
    training = Arrays(DIGITS.images, labels, 10)
    data_record.check_test(DIGITS, training, print)
    assert capsys.readouterr().out.endswith("classes that no training image has: 3\n")
    data_record.check_test(training, DIGITS, print)
    assert capsys.readouterr().out == ""
