"""Progress: bar or lines, ETA and speed by a clock of our own; signals as a wish to stop."""

import contextlib
import errno
import io
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from capsjax.runs import interrupt as interrupt_module
from capsjax.runs import progress
from capsjax.runs.interrupt import SIGNALS, Interrupt
from capsjax.runs.progress import RunProgress, format_seconds
from tests.tiny import ROOT


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is told to go on."""

    class Clock:
        now = 1000.0

        def perf_counter(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_speed_and_time_to_the_end(clock):
    shown = RunProgress(total=1000, done=0, batch_size=128)
    clock.now += 20.0
    shown.update(100)
    assert shown.images_per_second() == 100 * 128 / 20
    assert shown.eta() == 20 / 100 * 900
    clock.now += 30.0
    shown.update(400)
    assert shown.images_per_second() == 400 * 128 / 50
    assert shown.eta() == 50 / 400 * 600
    shown.close()


def test_steps_before_this_start_took_no_time(clock):
    """A resumed run must not think that it did 900 steps in the first second."""
    shown = RunProgress(total=1000, done=900, batch_size=10)
    clock.now += 5.0
    shown.update(950)
    assert shown.images_per_second() == 50 * 10 / 5
    assert shown.eta() == 5.0
    shown.close()


def test_no_step_yet_is_no_division_by_zero(clock):
    shown = RunProgress(total=10, done=10, batch_size=128)
    assert shown.images_per_second() == 0
    assert shown.eta() == 0
    shown.report(1.0, "train", {})
    shown.close()


def test_end_is_reached(clock):
    shown = RunProgress(total=10, done=0, batch_size=1)
    clock.now += 3.0
    shown.update(10)
    assert shown.eta() == 0
    shown.close()


def test_more_than_the_end_is_no_time_to_the_end(clock, capsys):
    """As where a trial fails whose steps were counted already."""
    shown = RunProgress(total=10, done=0, batch_size=1)
    clock.now += 3.0
    shown.update(11)
    assert shown.eta() == 0
    shown.report(1.0, "train", {})
    assert "ETA 0:00" in capsys.readouterr().out
    shown.close()


def test_without_a_terminal_there_are_lines_and_no_bar(clock, capsys):
    shown = RunProgress(total=1000, done=0, batch_size=128)
    clock.now += 20.0
    shown.update(100)
    metrics = {"accuracy": 0.5, "loss": 0.25, "margin": 0.125, "other": 9.0}
    shown.report(0.5, "train", metrics)
    shown.report(0.5, "validation", {"accuracy": 1.0})
    shown.close()
    output = capsys.readouterr()
    assert output.err == ""
    assert output.out.splitlines() == [
        "epoch 0.50 step 100/1000 train: loss 0.2500 margin 0.1250 accuracy 0.5000"
        " | 640 images/s, ETA 3:00",
        "epoch 0.50 step 100/1000 validation: accuracy 1.0000 | 640 images/s, ETA 3:00",
    ]


def test_on_a_terminal_there_is_a_bar(clock, monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    shown = RunProgress(total=1000, done=300, batch_size=128)
    clock.now += 20.0
    shown.update(400)
    shown.report(0.5, "train", {"loss": 0.25})
    shown.report(1.0, "validation", {"accuracy": 0.5})
    shown.close()
    text = terminal.getvalue()
    assert "400/1000" in text
    assert "640 images/s" in text
    assert "loss 0.2500" in text
    assert "epoch 1.00 step 400/1000 validation: accuracy 0.5000\n" in text
    assert capsys.readouterr().out == ""


def test_what_is_waited_for_is_a_line(capsys):
    with progress.waiting("compiling (CapsNet)"):
        assert capsys.readouterr().out == "compiling (CapsNet) ...\n"
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_the_seconds_go_on(monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "SECONDS_OF_A_TICK", 0.05)
    threads = threading.active_count()
    with contextlib.suppress(ValueError), progress.waiting("compiling"):
        time.sleep(1.2)
        raise ValueError
    shown = [text.strip() for text in terminal.getvalue().split("\r")]
    assert {"compiling ... 00:00", "compiling ... 00:01"} <= set(shown)
    assert shown[-1] == "", "the line stays"
    assert capsys.readouterr().out == ""
    assert threading.active_count() <= threads + 1, "tqdm's own monitor may stay"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0:00"), (9.9, "0:09"), (65.0, "1:05"), (600.0, "10:00"), (3725.0, "1:02:05")],
)
def test_seconds_for_people(seconds, text):
    assert format_seconds(seconds) == text


@pytest.fixture
def handlers():
    """The signal handlers before a test, and those of pytest put back whatever the test does."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored
    yield current(before)
    for number, handler in before.items():
        signal.signal(number, handler)


def current(handlers):
    return {number: signal.getsignal(number) for number in handlers}


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # Python runs handlers between two of its own instructions


def test_a_closed_terminal_and_the_warning_of_slurm_are_requests_to_stop_too():
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1} == set(SIGNALS)


@pytest.mark.parametrize("number", SIGNALS)
def test_first_signal_is_noted_and_handlers_are_put_back(handlers, number, capfd):
    with Interrupt() as interrupt:
        assert interrupt.signal is None
        assert current(handlers) != handlers
        send(number)
        assert interrupt.signal == number
    assert current(handlers) == handlers
    assert f"{number.name}: saving, then stopping" in capfd.readouterr().err


def test_no_signal(handlers, capfd):
    with Interrupt() as interrupt:
        pass
    assert interrupt.signal is None
    assert current(handlers) == handlers
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_second_ctrl_c_stops_at_once(handlers, first):
    def twice():
        with Interrupt():
            send(first)
            send(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        twice()
    assert current(handlers) == handlers


def test_second_ctrl_c_is_left_to_the_handler_before(handlers):
    calls = []
    signal.signal(signal.SIGINT, lambda number, _: calls.append(number))
    with Interrupt():
        send(signal.SIGINT)
        assert calls == []
        send(signal.SIGINT)
    assert calls == [signal.SIGINT]


def test_nohup_still_holds(handlers):
    """A terminal may close without ending the run, if that is what the user asked for."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Interrupt() as interrupt:
        send(signal.SIGHUP)
    assert interrupt.signal is None
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_a_signal_is_noted_though_nobody_can_be_told(handlers, monkeypatch):
    """A closed terminal cannot be written to."""

    def closed(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(interrupt_module.os, "write", closed)
    with Interrupt() as interrupt:
        send(signal.SIGHUP)
    assert interrupt.signal == signal.SIGHUP


def test_second_sigterm_still_waits_for_the_save(handlers):
    """Schedulers repeat it; only a person at the keyboard is in a hurry."""
    with Interrupt() as interrupt:
        send(signal.SIGTERM)
        send(signal.SIGTERM)
    assert interrupt.signal == signal.SIGTERM


def test_handlers_are_put_back_after_an_error(handlers):
    with pytest.raises(RuntimeError, match="in the block"), Interrupt():
        raise RuntimeError("in the block")
    assert current(handlers) == handlers


@pytest.mark.parametrize("times", [1, 2])
def test_where_ctrl_c_ends_a_program_the_first_one_in_the_block_is_noted(times):
    """The handler runs at once here, before the thread that ends the program wakes up."""
    program = """
import time
from capsjax.runs.interrupt import Interrupt, exit_at_ctrl_c
exit_at_ctrl_c()
with Interrupt() as interrupt:
    print("ready", flush=True)
    while interrupt.signal is None:
        pass
    print("noted", flush=True)
    time.sleep(1.0)
print("saved")
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with process:
        for line in ["ready\n", "noted\n"][:times]:
            assert process.stdout.readline() == line
            process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=120)
    expected = {1: (0, "noted\nsaved\n"), 2: (130, "")}
    assert (process.returncode, output) == expected[times]
    assert errors.endswith("interrupted\n") == (times == 2)


def test_program_that_is_asked_to_stop_does_its_last_things():
    program = """
import time
from capsjax.runs.interrupt import Interrupt
with Interrupt() as interrupt:
    print("ready", flush=True)
    while interrupt.signal is None:
        time.sleep(0.01)
print("saved", interrupt.signal.name)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=120)
    assert (process.returncode, output) == (0, "saved SIGTERM\n")
