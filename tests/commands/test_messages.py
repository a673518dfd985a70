"""Errors as one line with a remedy, and nothing beside it."""

import errno
import logging
import os
import resource
import subprocess
import sys
import threading

import pytest

from capsjax.commands import command_line, messages, train
from capsjax.commands import list as list_command
from capsjax.commands.messages import in_config_file, one_line
from capsjax.config.files import load_module
from capsjax.runs.own_code import place_in_own_file
from capsjax.runs.workdir import read_config
from tests.tiny import ROOT, tiny_flags


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "Make room there"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EACCES, "whether it may be written"),
        (errno.EROFS, "copy the folder"),
    ],
)
def test_an_error_of_the_system_has_its_path_and_a_remedy(number, remedy):
    line = one_line(OSError(number, os.strerror(number), "runs/a/env.json"))
    assert line.startswith(f"[Errno {number}] {os.strerror(number)}: 'runs/a/env.json'. ")
    assert remedy in line


def test_lines_become_one():
    assert one_line(ValueError("first\n   second\n")) == "first second"
    assert one_line(KeyError("name")) == "name"
    assert one_line(ValueError(ValueError("inner"))) == "inner"
    assert one_line(ValueError()) == "ValueError"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config():\n    return 1 / 0\n", "line 2): ZeroDivisionError: division by zero"),
        ("\n\ndef get_config(:\n", "line 3): SyntaxError: invalid syntax"),
        ("import nothing_here\n", "line 1): ModuleNotFoundError: No module named 'nothing_here'"),
        ("x = 1\n", "has no attribute 'get_config'"),
        ("def get_config():\n    raise ValueError('my own words')\n", "my own words"),
    ],
)
def test_a_config_file_that_raises_is_named_with_its_line(tmp_path, text, message):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(ValueError, match=r".") as failure:
        command_line._check_config_file([f"--config={file}"], train)
    line = str(failure.value)
    assert message in line
    assert "my own words" in line or str(file) in line
    assert "\n" not in line


def test_a_config_file_that_returns_something_else_is_named(monkeypatch):
    monkeypatch.setattr(command_line, "load_config", lambda *_: 3)
    with pytest.raises(ValueError, match=r"get_config of mine\.py returns no ConfigDict"):
        command_line._check_config_file(["--config=mine.py"], train)


def test_what_a_library_raises_within_a_config_file_is_named_with_the_line_of_the_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("import json\ndef get_config():\n\n    return json.loads(3)\n")
    with pytest.raises(TypeError) as failure:
        command_line.load_config(file)
    assert f"({file}, line 4): TypeError: the JSON" in in_config_file(failure.value, str(file))


def test_an_error_in_a_file_of_ones_own_has_its_place_and_others_have_none(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("import json\n\n\ndef look(table):\n    return json.loads(table['b'])\n")
    mine = load_module(file, "mine")
    with pytest.raises(KeyError) as failure:
        mine.look({})
    assert place_in_own_file(failure.value).startswith(f"{tmp_path / 'mine.py'}, line 5, in look")
    with pytest.raises(TypeError) as failure:  # raised in a library, which that line called
        mine.look({"b": 3})
    assert place_in_own_file(failure.value).endswith("line 5, in look: TypeError")
    with pytest.raises(ValueError, match="no run") as failure:
        read_config(tmp_path)
    failure.value.__traceback__ = failure.value.__traceback__.tb_next  # without this test's frame
    assert place_in_own_file(failure.value) == ""


@pytest.mark.parametrize("argument", ["digits", "sweeps/digits"])
def test_a_command_without_configs_leaves_them_alone(argument):
    command_line._check_config_file([f"--config={argument}"], list_command)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyError("'base'"), r"no config field 'base'\. --print_config prints all fields"),
        (KeyError("'seeed'\nDid you mean 'seed'?"), "no config field 'seeed'. Did you mean 'seed"),
        (AttributeError("int has no x"), "int has no x"),
    ],
)
def test_a_field_that_is_unknown_is_named(monkeypatch, error, message):
    def read(argv):
        raise error

    monkeypatch.setattr(command_line.flags, "FLAGS", read)
    with pytest.raises((ValueError, AttributeError), match=message):
        command_line._read_flags(["train"])


@pytest.fixture
def quiet(monkeypatch):
    """As a command is, for one test."""
    for module, name in ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook")):
        monkeypatch.setattr(module, name, getattr(module, name))
    absl, asyncio = logging.getLogger("absl"), logging.getLogger("asyncio")
    filters, level = list(absl.filters), asyncio.level
    messages.leave_errors_to_one_line()
    yield absl, asyncio
    absl.filters[:] = filters
    asyncio.setLevel(level)


def test_errors_in_threads_of_libraries_are_not_printed(quiet, capfd, caplog):
    def fail():
        raise RuntimeError("in a thread")

    def fail_in_library():
        """As tensorstore reports an error from a thread of its own."""
        try:
            fail()
        except RuntimeError:
            sys.excepthook(*sys.exc_info())

    for target in (fail, fail_in_library):
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
    absl, asyncio = quiet
    try:
        fail()
    except RuntimeError:
        absl.exception("as Orbax does")
        asyncio.exception("a task was never retrieved")
    absl.warning("what we report ourselves")
    assert capfd.readouterr().err.count("in a thread") == 0
    assert [record.getMessage() for record in caplog.records] == ["what we report ourselves"]


def test_an_error_of_the_program_itself_is_printed(quiet, capfd):
    try:
        raise RuntimeError("in the program")
    except RuntimeError:
        sys.excepthook(*sys.exc_info())
    assert "RuntimeError: in the program" in capfd.readouterr().err


def limit_files():
    """No file may be larger: a disk that fills up, for which nobody needs to be root."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


@pytest.mark.ci
def test_a_full_disk_is_one_line_with_the_path(tmp_path):
    command = [sys.executable, "experiments/train.py", f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(
        [*command, *tiny_flags()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"},
        preexec_fn=limit_files,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"could not save step 4 in {tmp_path / 'run' / 'checkpoints'} (File too large)" in line
    assert line.startswith("error: ")


@pytest.mark.ci
@pytest.mark.parametrize("reads", [True, False])
def test_a_command_whose_output_cannot_be_written_ends(reads):
    command = [sys.executable, "-c", "from capsjax.commands import main; main()", "list"]
    if reads:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        process.stdout.close()
        assert process.wait(timeout=300) == 141
        assert process.stderr.read() == ""
        process.stderr.close()
    else:
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300
            )
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert "No space left on device: 'standard output'. Make room there" in line
