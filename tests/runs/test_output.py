"""What a program prints where it cannot be written: a full disk, a closed pipe, a log instead."""

import io
import os
import sys

import pytest

from capsjax.runs import output
from capsjax.runs.output import LOG, STANDARD_OUTPUT, Output, outlive_output, watch_output
from tests.run_processes import start


class Closed(io.StringIO):
    """A pipe whose reader has gone, after some lines."""

    def __init__(self, lines):
        super().__init__()
        self.left = lines

    def flush(self):
        self.left -= 1
        if self.left < 0:
            raise BrokenPipeError(32, "Broken pipe")


def test_lines_are_written_at_once_and_the_rest_when_it_is_flushed():
    stream = io.StringIO()
    shown = Output(stream, STANDARD_OUTPUT)
    shown.write("a line\n")
    assert stream.getvalue() == "a line\n"
    shown.write("begun")
    assert stream.getvalue() == "a line\n"
    shown.flush()
    assert stream.getvalue() == "a line\nbegun"
    assert not shown.isatty(), "asked of the stream"


def test_without_a_log_the_error_names_the_stream_and_comes_once():
    shown = Output(Closed(1), STANDARD_OUTPUT)
    print("first", file=shown)
    with pytest.raises(BrokenPipeError, match="'standard output'"):
        print("second", file=shown)
    print("third", file=shown)


def test_with_a_log_no_line_is_lost(tmp_path, capsys):
    shown = Output(Closed(1), STANDARD_OUTPUT)
    shown.fall_back_to(tmp_path / LOG)
    print("first", file=shown)
    assert not (tmp_path / LOG).exists()
    print("second", file=shown)
    print("third", file=shown)
    header, *lines = (tmp_path / LOG).read_text().splitlines()
    assert "Broken pipe: 'standard output'; what follows would have been printed there" in header
    assert lines == ["second", "third"]
    told = f"[Errno 32] Broken pipe: 'standard output'; going on, and printing to {tmp_path / LOG}"
    assert capsys.readouterr().err == f"{told}\n"


def test_a_progress_bar_is_not_logged(tmp_path):
    shown = Output(Closed(0), "standard error")
    shown.fall_back_to(tmp_path / LOG)
    for _ in range(3):
        shown.write("\r 50%|#####     |")
        shown.flush()
    print("a line", file=shown)
    assert "50%" not in (tmp_path / LOG).read_text().split("\n", 1)[1]
    assert (tmp_path / LOG).read_text().endswith("a line\n")


def test_a_log_that_cannot_be_written_either_costs_the_lines_alone(tmp_path):
    shown = Output(Closed(0), STANDARD_OUTPUT)
    shown.fall_back_to(tmp_path / "missing" / LOG)
    print("a line", file=shown)


def test_both_streams_of_a_program_fall_back_to_the_log_of_its_run(tmp_path, monkeypatch):
    monkeypatch.setattr(output.sys, "stdout", Closed(0))
    monkeypatch.setattr(output.sys, "stderr", Closed(0))
    watch_output()
    outlive_output(tmp_path)
    print("a line")
    print("an error", file=sys.stderr)
    text = (tmp_path / LOG).read_text()
    assert "a line\n" in text
    assert "an error\n" in text


@pytest.mark.ci
def test_a_run_whose_reader_goes_ends_as_one_whose_reader_stays(tmp_path):
    """Both of its streams are closed after the first line."""
    process = start(tmp_path / "run")
    assert "compiling the training step" in process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=300) == 0
    assert (tmp_path / "run" / "summary.json").exists()
    assert "test accuracy" in (tmp_path / "run" / LOG).read_text().splitlines()[-1]
    assert os.listdir(tmp_path) == ["run"]
