"""Runs of experiments/train.py in processes of their own, and what they leave behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

from capsjax.predictor import load_predictor
from capsjax.writers import read_metrics
from tests.tiny import ROOT, tiny_flags

# Long enough to be hit in the middle, with a checkpoint every few steps.
LONG = {"train__epochs": 400, "checkpoint__every_steps": 7, "checkpoint__every_epochs": 1000}


def start(workdir: Path, *flags: str, xla_flags: str = "", **overrides) -> subprocess.Popen:
    """By default compiled as for a user, without the flags of the tests."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags}
    command = [sys.executable, "experiments/train.py", f"--workdir={workdir}", *flags]
    return subprocess.Popen(
        [*command, *tiny_flags(**overrides)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def wait_for_steps(workdir: Path, process: subprocess.Popen, step: int) -> None:
    """Until the run has written metrics of that step."""
    deadline = time.monotonic() + 300
    while not any(record["step"] >= step for record in read_metrics(workdir)):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def final_params(workdir: Path) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(load_predictor(workdir, "last").params)
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
