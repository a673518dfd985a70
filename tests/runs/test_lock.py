"""The lock on a folder: a second program is refused, and what a dead one left is taken over."""

import errno
import json
import os
import socket
import subprocess
import sys

import pytest

from capsjax.runs import lock, train
from capsjax.runs.files import WorkdirError
from capsjax.runs.lock import LOCK, FolderLock, hold
from capsjax.sweeps import levels_of, make_sweep
from capsjax.sweeps.run import run_sweep
from tests.run_processes import LONG, start, wait_for_steps
from tests.tiny import ROOT, tiny_config


def test_a_second_program_is_refused_and_told_who_holds_the_folder(tmp_path):
    with hold(tmp_path / "run"):
        holder = json.loads((tmp_path / "run" / LOCK).read_text())
        assert (holder["pid"], holder["host"]) == (os.getpid(), socket.gethostname())
        message = f"run is in use by process {os.getpid()} on {socket.gethostname()} since 2"
        with pytest.raises(WorkdirError, match=message):
            FolderLock(tmp_path / "run").acquire()
        assert (tmp_path / "run" / LOCK).exists(), "it is the other's"


def test_a_folder_is_free_after_its_program(tmp_path):
    for _ in range(2):
        with hold(tmp_path):
            pass
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError, match="in the block"), hold(tmp_path):
        raise RuntimeError("in the block")
    assert list(tmp_path.iterdir()) == []


def lock_and_die(folder):
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from capsjax.runs.lock import FolderLock\n"
        "FolderLock(Path(sys.argv[1])).acquire()\n"
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program, str(folder)], cwd=ROOT, check=True)


@pytest.mark.slow
def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    lock_and_die(tmp_path)
    assert (tmp_path / LOCK).exists()
    with hold(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_a_lock_that_was_given_back_meanwhile_is_not_taken_for_that_of_the_folder(
    tmp_path, monkeypatch
):
    flock, calls = lock.fcntl.flock, []

    def deleted_at_first(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            (tmp_path / LOCK).unlink()
        flock(*arguments)

    monkeypatch.setattr(lock.fcntl, "flock", deleted_at_first)
    with hold(tmp_path):
        monkeypatch.undo()
        with pytest.raises(WorkdirError, match="is in use by"):
            FolderLock(tmp_path).acquire()


@pytest.fixture
def without_locks(monkeypatch):
    """A disk that has no locks, as some shared ones."""

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", flock)


@pytest.mark.slow
def test_where_a_disk_has_no_locks_the_file_counts(without_locks, tmp_path):
    with hold(tmp_path), pytest.raises(WorkdirError, match=f"in use by process {os.getpid()}"):
        FolderLock(tmp_path).acquire()
    assert not (tmp_path / LOCK).exists()
    lock_and_die(tmp_path)
    with hold(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_a_process_of_another_machine_may_live(without_locks, tmp_path):
    holder = {"pid": 2**22 + 1, "host": "elsewhere", "since": "2026-01-02"}
    (tmp_path / LOCK).write_text(json.dumps(holder))
    with pytest.raises(WorkdirError, match=r"on elsewhere since 2026-01-02.*delete .*lock"):
        FolderLock(tmp_path).acquire()


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_a_file_that_names_nobody_is_taken_over(without_locks, tmp_path, text):
    (tmp_path / LOCK).write_text(text)
    with hold(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_a_run_and_a_sweep_are_refused_before_they_write(tmp_path):
    factors = {"rounds": levels_of("model.routing.dynamic.num_iterations", (1,))}
    sweep = make_sweep("test", tiny_config(), factors, num_seeds=1)
    with hold(tmp_path):
        for begin in (
            lambda: train.train_and_evaluate(tiny_config(), tmp_path),
            lambda: run_sweep(sweep, tmp_path),
        ):
            with pytest.raises(WorkdirError, match="is in use by process"):
                begin()
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]


@pytest.mark.ci
def test_a_second_run_is_refused_while_the_first_goes_on(tmp_path):
    first = start(tmp_path / "run", **LONG)
    wait_for_steps(tmp_path / "run", first, 10)
    second = start(tmp_path / "run", **LONG)
    output, _ = second.communicate(timeout=300)
    assert second.returncode == 1
    assert f"is in use by process {first.pid} on " in output
    assert output.count("\n") == 1
    first.kill()
    first.communicate()
