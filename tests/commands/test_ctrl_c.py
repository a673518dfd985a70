"""Ctrl-C before there is anything to save: while a command imports and compiles."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.tiny import ROOT, tiny_flags

pytestmark = pytest.mark.ci

# Moments count from the first line of Python: before it, the interpreter answers Ctrl-C.
PROGRAM = """
import runpy, sys
print("started", flush=True)
sys.argv[0] = "experiments/train.py"
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def process(tmp_path):
    """A run as a person starts it: nothing is compiled yet, and nothing ignores the signal."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, f"--workdir={tmp_path / 'run'}", *tiny_flags()],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XLA_FLAGS": "", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    with process:
        assert process.stdout.readline() == "started\n"
        yield process
        process.kill()


def assert_ctrl_c_ends(process):
    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (130, "", "interrupted\n")
    assert time.monotonic() - sent < 3


@pytest.mark.parametrize("seconds", [0.1, 0.3, 0.6, 1.0])
def test_ctrl_c_ends_the_imports_at_once(process, seconds):
    time.sleep(seconds)
    assert_ctrl_c_ends(process)


def test_ctrl_c_ends_a_compilation_at_once(process, tmp_path):
    while not (tmp_path / "run" / "env.json").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    time.sleep(0.3)  # compiling takes some
    assert_ctrl_c_ends(process)
