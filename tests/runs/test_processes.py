"""Two processes that train one network together, on the loopback address."""

import json
import os
import signal
import socket
import time

import numpy as np
import pytest

from capsjax.runs import train
from capsjax.runs.checkpoint import Checkpoints
from capsjax.runs.processes import LOST_PROCESS
from capsjax.runs.writers import read_metrics
from tests.npz_digits import DIGITS, save_digits
from tests.run_processes import assert_same_run, final_params, start, wait_for_steps
from tests.tiny import tiny_config

pytestmark = pytest.mark.ci

# 160 steps; a checkpoint every 20 and after an epoch that was better than all before.
OVERRIDES = {
    "data__train_size": 640,
    "train__epochs": 8,
    "checkpoint__every_steps": 20,
    "checkpoint__every_epochs": 1000,
    "log__every_steps": 2,
}


@pytest.fixture(scope="module")
def start_two():
    """Starts both processes of a run. None of them outlives the tests."""
    started = []

    def both(workdir, homes=(None, None)):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        flags = (f"--coordinator=127.0.0.1:{port}", "--num_processes=2")
        # Not compiled for speed: each process compiles for itself, at every start.
        xla_flags = os.environ["XLA_FLAGS"]
        two = [
            start(
                workdir,
                *flags,
                f"--process_id={each}",
                xla_flags=xla_flags,
                home=homes[each],
                **OVERRIDES,
            )
            for each in range(2)
        ]
        started.extend(two)
        return two

    yield both
    for process in started:
        process.kill()
        process.communicate()


def outputs(processes) -> list[str]:
    return [process.communicate(timeout=120)[0] for process in processes]


@pytest.fixture(scope="module")
def reference(start_two, tmp_path_factory):
    """The folder of a run without interruption, and what both processes printed."""
    workdir = tmp_path_factory.mktemp("processes") / "reference"
    two = start_two(workdir)
    printed = outputs(two)
    assert [process.returncode for process in two] == [0, 0], printed
    return workdir, printed


def test_two_processes_write_one_set_of_files_and_one_speaks(reference):
    workdir, (first, second) = reference
    assert {
        "checkpoints",
        "config.json",
        "data.json",
        "env.json",
        "metrics.jsonl",
        "summary.json",
    } == set(os.listdir(workdir))
    (begun,) = json.loads((workdir / "env.json").read_text())
    assert (begun["process_count"], begun["device_count"]) == (2, 2)
    written = [(record["step"], record["split"]) for record in read_metrics(workdir)]
    assert len(written) == len(set(written))
    assert "test accuracy" in first
    assert not [line for line in second.splitlines() if "[Gloo]" not in line]


def test_two_processes_train_what_one_trains(reference, tmp_path):
    summary = train.train_and_evaluate(tiny_config(**OVERRIDES), tmp_path / "one")
    together = json.loads((reference[0] / "summary.json").read_text())
    assert together["device_count"] == 2 * summary["device_count"]
    assert together["selected_step"] == summary["selected_step"]
    assert together["test"]["num_examples"] == summary["test"]["num_examples"]
    assert together["test"]["num_errors"] == pytest.approx(summary["test"]["num_errors"], abs=1)
    one, two = final_params(tmp_path / "one"), final_params(reference[0])
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=0, atol=1e-3, err_msg=name)


@pytest.mark.long
@pytest.mark.parametrize("killed", [0, 1])
def test_kill_9_of_one_ends_the_other_and_costs_no_more_than_time(
    reference, start_two, tmp_path, killed
):
    run = tmp_path / "run"
    two = start_two(run)
    wait_for_steps(run, two[0], 50)
    two[killed].kill()
    began = time.monotonic()
    survivor = two[1 - killed]
    (output,) = outputs([survivor])
    assert time.monotonic() - began < 60
    assert survivor.returncode == 1
    assert output.splitlines()[-1].startswith(f"error: {LOST_PROCESS}"), output
    assert "Traceback" not in output

    two = start_two(run)
    first, second = outputs(two)
    assert [process.returncode for process in two] == [0, 0], first + second
    assert "resuming" in first
    assert_same_run(reference[0], run)


@pytest.mark.long
def test_sigterm_to_one_process_stops_both_with_a_checkpoint(start_two, tmp_path):
    run = tmp_path / "run"
    two = start_two(run)
    wait_for_steps(run, two[0], 10)
    two[1].send_signal(signal.SIGTERM)
    first, second = outputs(two)
    assert [process.returncode for process in two] == [128 + signal.SIGTERM] * 2, first + second
    saved = max(Checkpoints(run / "checkpoints").steps())
    assert f"saved step {saved}" in first
    assert "SIGTERM: saving, then stopping" in second


@pytest.mark.long
def test_two_machines_with_other_data_are_refused_by_part(start_two, tmp_path, monkeypatch):
    monkeypatch.setitem(OVERRIDES, "data__name", "npz")
    monkeypatch.setitem(OVERRIDES, "data__file", "~/own.npz")
    # A stratified split would choose other images by other labels.
    monkeypatch.setitem(OVERRIDES, "data__split", "shuffled")
    homes = tmp_path / "0", tmp_path / "1"
    for home, labels in zip(homes, (DIGITS.labels, DIGITS.labels[::-1]), strict=True):
        home.mkdir()
        save_digits(home / "own.npz", labels=labels)
    printed = outputs(start_two(tmp_path / "run", homes))
    line = "error: the training data (labels) differs between the processes of this run"
    assert all(line in each for each in printed), printed
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flags", [["--num_processes=2"], ["--coordinator=127.0.0.1"]])
def test_flags_that_do_not_fit_are_one_line(flags, tmp_path):
    process = start(tmp_path / "run", *flags)
    (output,) = outputs([process])
    assert process.returncode == 1
    assert output.startswith("error: --coordinator=")
    assert output.count("\n") == 1
