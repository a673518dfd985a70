"""Runs of train.py and sweep.py in processes of their own, and what they leave behind."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from capsjax.runs.predictor import load_predictor
from capsjax.runs.writers import read_metrics
from tests.tiny import ROOT, tiny_flags

# Long enough to be hit in the middle, with a checkpoint every few steps.
LONG = {"train__epochs": 400, "checkpoint__every_steps": 7, "checkpoint__every_epochs": 1000}


def start(
    workdir: Path, *flags: str, xla_flags: str = "", home: Path | None = None, **overrides
) -> subprocess.Popen:
    """By default compiled as for a user, without the flags of the tests."""
    all_flags = [f"--workdir={workdir}", *flags, *tiny_flags(**overrides)]
    return _start("train", all_flags, xla_flags, home)


def start_sweep(
    workdir: Path, *flags: str, xla_flags: str | None = None, **overrides
) -> subprocess.Popen:
    """Four tiny trials on the digits, three of them in one program.

    By default compiled as the tests are: a sweep compiles several programs at every start.
    """
    fields = tiny_flags("sweeps/digits.py", "base.", **overrides)
    flags = [f"--workdir={workdir}", *fields, "--config.num_seeds=1", "--population=3", *flags]
    return _start("sweep", flags, os.environ["XLA_FLAGS"] if xla_flags is None else xla_flags)


def _start(
    script: str, flags: list[str], xla_flags: str, home: Path | None = None
) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, f"experiments/{script}.py", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": xla_flags,
            "HOME": str(home or os.environ["HOME"]),
        },
    )


def wait_for_steps(workdir: Path, process: subprocess.Popen, step: int) -> None:
    """Until the run has written metrics of that step."""
    _wait_for(lambda: _has_step(workdir, step), process)


def wait_for_trials(workdir: Path, process: subprocess.Popen, step: int) -> None:
    """Until a trial of the sweep has written metrics of that step."""
    trials = workdir / "trials"
    _wait_for(lambda: any(_has_step(folder, step) for folder in trials.glob("*")), process)


def _has_step(workdir: Path, step: int) -> bool:
    return any(record["step"] >= step for record in read_metrics(workdir))


def _wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def final_params(workdir: Path) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(load_predictor(workdir, "last").variables)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same_run(first: Path, second: Path) -> None:
    one, other = final_params(first), final_params(second)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)

    def numbers(workdir):  # everything but speed, which no two runs share
        records = read_metrics(workdir)
        return [{k: v for k, v in each.items() if k != "images_per_second"} for each in records]

    assert numbers(first) == numbers(second)


def results_of_sweep(workdir: Path) -> dict[str, tuple]:
    """Metrics and results of each trial, but for times."""
    found = {}
    for folder in sorted((workdir / "trials").glob("*")):
        records = read_metrics(folder)
        for record in records:
            record.pop("images_per_second", None)
        summary = json.loads((folder / "summary.json").read_text())
        found[folder.name] = records, summary["test"], summary["validation"]
    return found
