"""metrics.jsonl and TensorBoard's files, and what a resumed run does to them."""

import json
import math
import zlib

import pytest

from capsjax.runs.writers import MetricsWriter, read_metrics


def write(directory, steps, **options):
    writer = MetricsWriter(directory, **{"tensorboard": False, **options})
    for step in steps:
        writer.write(step, step / 10, "train", {"loss": 1.0 / (1 + step)})
    writer.close()


def steps(directory):
    return [record["step"] for record in read_metrics(directory)]


def test_one_object_a_line(tmp_path):
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.write(5, 0.5, "train", {"loss": 0.25, "accuracy": 0.75})
    writer.write(10, 1.0, "validation", {"loss": 0.5})
    writer.close()
    lines = [
        '{"step": 5, "epoch": 0.5, "split": "train", "loss": 0.25, "accuracy": 0.75}',
        '{"step": 10, "epoch": 1.0, "split": "validation", "loss": 0.5}',
    ]
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == [
        f'{line[:-1]}, "crc32": {zlib.crc32(line.encode())}}}' for line in lines
    ]
    assert [record["split"] for record in read_metrics(tmp_path)] == ["train", "validation"]


def test_each_line_is_on_disk_at_once(tmp_path):
    writer = MetricsWriter(tmp_path, tensorboard=False)
    for step in range(3):
        writer.write(step, 0.0, "train", {})
        assert steps(tmp_path) == list(range(step + 1))
    writer.close()


def test_no_file_is_no_metrics(tmp_path):
    assert read_metrics(tmp_path) == []


def test_not_a_number_comes_back(tmp_path):
    """A run that diverges ends with such a line, and it has to be readable."""
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.write(1, 0.0, "train", {"loss": math.nan, "margin": math.inf})
    writer.close()
    (record,) = read_metrics(tmp_path)
    assert math.isnan(record["loss"])
    assert record["margin"] == math.inf


def test_lines_after_the_resume_step_are_written_again(tmp_path):
    write(tmp_path, [10, 20, 30, 40])
    write(tmp_path, [30, 35], resume_step=20)
    assert steps(tmp_path) == [10, 20, 30, 35]


def test_new_run_in_an_old_folder_starts_over(tmp_path):
    write(tmp_path, [10, 20])
    write(tmp_path, [5])
    assert steps(tmp_path) == [5]


@pytest.mark.parametrize("half", ['{"step": 30, "epo', '{"step": 30', "{", '{"step": 30, "a": "\n'])
def test_half_a_last_line_is_dropped(tmp_path, half):
    write(tmp_path, [10, 20])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(half)
    assert steps(tmp_path) == [10, 20]
    write(tmp_path, [30], resume_step=20)
    text = (tmp_path / "metrics.jsonl").read_text()
    assert [json.loads(line)["step"] for line in text.splitlines()] == [10, 20, 30]
    assert text.endswith("}\n")


def test_line_that_is_json_but_no_object_is_dropped(tmp_path):
    write(tmp_path, [10])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write("3")
    write(tmp_path, [20], resume_step=10)
    assert steps(tmp_path) == [10, 20]


@pytest.mark.parametrize(
    "damage",
    [
        b"\xff",
        b"{}",
        b'{"step": "20", "epoch": 2.0, "split": "train"}',
        b'{"step": 20, "epoch": 2.0}',
        b'{"step": 20, "epoch": 2.0, "split": "train", "loss": "0.5"}',
        b"[1, 2]",
        b"",
    ],
)
def test_a_damaged_line_is_left_out_with_its_number(tmp_path, caplog, damage):
    write(tmp_path, [10, 20, 30])
    path = tmp_path / "metrics.jsonl"
    first, _, third, _ = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([first, damage, third, b""]))
    assert steps(tmp_path) == [10, 30]
    (line,) = caplog.messages
    assert line.startswith(f"{path} is damaged: line 2 is no whole record of metrics")
    write(tmp_path, [40], resume_step=30)
    caplog.clear()
    assert steps(tmp_path) == [10, 30, 40]
    assert caplog.messages == []


def test_no_flipped_bit_changes_a_number(tmp_path):
    write(tmp_path, [10, 20, 30])
    path, before = tmp_path / "metrics.jsonl", read_metrics(tmp_path)
    first, line, third, _ = path.read_bytes().split(b"\n")
    for place in range(len(line)):
        flipped = bytearray(line)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(b"\n".join([first, bytes(flipped), third, b""]))
        read = [record for record in read_metrics(tmp_path) if record["step"] == 20]
        assert all(before[1].items() <= record.items() for record in read)


def test_lines_of_older_runs_have_no_checksum(tmp_path):
    line = '{"step": 5, "epoch": 0.5, "split": "train", "loss": 0.25}\n'
    (tmp_path / "metrics.jsonl").write_text(line)
    assert read_metrics(tmp_path) == [json.loads(line)]


@pytest.mark.parametrize("damage", ["emptied", "deleted", "cut at a line", "whole"])
def test_lines_that_are_lost_are_missed(tmp_path, caplog, damage):
    writer = MetricsWriter(tmp_path, tensorboard=False)
    for step in (1, 2, 3):
        writer.write(step, 0.0, "train", {})
    assert writer.sync() == 3
    writer.write(4, 0.0, "train", {})
    writer.close()
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    if damage == "deleted":
        path.unlink()
    elif damage != "whole":
        path.write_text("" if damage == "emptied" else lines[0])
    resumed = MetricsWriter(tmp_path, False, resume_step=3, num_lines=3)
    kept = {"whole": 3, "cut at a line": 1}.get(damage, 0)
    assert resumed.sync() == kept
    resumed.close()
    assert (f"has {kept} of the 3 lines that were written up to step 3" in caplog.text) == (
        kept < 3
    )


def test_a_power_cut_after_a_save_loses_no_line(tmp_path, monkeypatch):
    writer, synced = MetricsWriter(tmp_path, tensorboard=False), []
    monkeypatch.setattr(
        "capsjax.runs.writers.os.fsync",
        lambda _: synced.append(len(read_metrics(tmp_path))),
    )
    writer.write(1, 0.0, "train", {})
    writer.sync()
    writer.close()
    assert synced == [1]


def test_resuming_where_nothing_was_written(tmp_path):
    write(tmp_path, [30], resume_step=20)
    assert steps(tmp_path) == [30]


def test_no_temporary_file_stays(tmp_path):
    write(tmp_path, [10, 20])
    write(tmp_path, [30], resume_step=20)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.ci
def test_tensorboard_gets_a_file_of_events(tmp_path):
    write(tmp_path, [10, 20], tensorboard=True)
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert events.name.startswith("events.out.tfevents.")
    content = events.read_bytes()
    assert content.count(b"train/loss") == 2
    write(tmp_path, [30], tensorboard=True, resume_step=20)
    assert len(list((tmp_path / "tensorboard").iterdir())) >= 1


def test_tensorboard_forgets_what_comes_after_the_resume_step(tmp_path, monkeypatch):
    asked = []

    class Board:
        def __init__(self, folder, purge_step, filename_suffix):
            asked.append((folder, purge_step, filename_suffix))

        def close(self):
            asked.append("closed")

    monkeypatch.setattr("tensorboardX.SummaryWriter", Board)
    MetricsWriter(tmp_path).close()
    MetricsWriter(tmp_path, resume_step=20).close()
    folder = str(tmp_path / "tensorboard")
    assert asked == [(folder, 0, ".0"), "closed", (folder, 21, ".20"), "closed"]


def test_without_tensorboard_there_is_no_such_folder(tmp_path):
    write(tmp_path, [10])
    assert not (tmp_path / "tensorboard").exists()


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer._file.close()
    writer._file = open("/dev/full", "w")  # noqa: SIM115 (the writer closes it)
    for action in (lambda: writer.write(1, 0.0, "train", {}), writer.close):
        with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/metrics.jsonl'"):
            action()


def test_tensorboard_whose_writer_has_ended_does_not_hang(tmp_path):
    """Its queue takes ten values and waits for a thread that an error has ended."""
    writer = MetricsWriter(tmp_path)
    writer._board.file_writer.event_writer._worker.stop()
    with pytest.raises(OSError, match=f"has stopped, as it does on a full disk: '{tmp_path}/tens"):
        writer.write(1, 0.0, "train", {"loss": 1.0})
    writer.close()
