"""A sweep on several devices, and in two processes on the loopback address."""

import json
import os
import socket

import pytest

from capsjax.runs.processes import LOST_PROCESS
from tests.run_processes import results_of_sweep, start_sweep, wait_for_trials

pytestmark = [pytest.mark.ci, pytest.mark.long]

LONG = {"train__epochs": 40, "checkpoint__every_steps": 10, "log__every_steps": 2}


@pytest.fixture(scope="module")
def started():
    """Processes that no test outlives."""
    processes = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def start_on(devices, workdir):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    return start_sweep(workdir, xla_flags=flags, **LONG)


def start_two(workdir):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    flags = (f"--coordinator=127.0.0.1:{port}", "--num_processes=2")
    return [start_sweep(workdir, *flags, f"--process_id={each}", **LONG) for each in range(2)]


def assert_alike(results, expected):
    assert results.keys() == expected.keys()
    assert len(results) == 4
    for trial, (records, test, validation) in results.items():
        expected_records, expected_test, expected_validation = expected[trial]
        assert test["num_errors"] == expected_test["num_errors"]
        assert validation["loss"] == pytest.approx(expected_validation["loss"], rel=1e-4)
        assert len(records) == len(expected_records)
        for record, other in zip(records, expected_records, strict=True):
            assert record.keys() == other.keys()
            assert record["loss"] == pytest.approx(other["loss"], rel=1e-4)


@pytest.fixture(scope="module")
def on_one_device(started, tmp_path_factory):
    """Results of the sweep as one process with one device has them."""
    workdir = tmp_path_factory.mktemp("sweeps") / "one"
    process = start_on(1, workdir)
    started.append(process)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return results_of_sweep(workdir)


def test_results_on_1_2_and_4_devices_are_equal(on_one_device, started, tmp_path):
    # Three and one members do not divide by two or four: copies fill up the devices.
    processes = {devices: start_on(devices, tmp_path / str(devices)) for devices in (2, 4)}
    started.extend(processes.values())
    # What four devices have begun, two go on with.
    wait_for_trials(tmp_path / "4", processes[4], 20)
    processes[4].terminate()
    output = processes[4].communicate(timeout=120)[0]
    assert "saved step" in output
    processes[4] = start_on(2, tmp_path / "4")
    started.append(processes[4])
    for devices, process in processes.items():
        output = process.communicate(timeout=300)[0]
        assert process.returncode == 0, output
        assert_alike(results_of_sweep(tmp_path / str(devices)), on_one_device)
    assert "resuming from step" in output
    starts = json.loads((tmp_path / "4" / "env.json").read_text())
    assert [start["device_count"] for start in starts] == [4, 2]


def test_two_processes_of_which_one_is_killed(on_one_device, started, tmp_path):
    workdir = tmp_path / "two"
    two = start_two(workdir)
    started.extend(two)
    wait_for_trials(workdir, two[0], 40)
    two[1].kill()
    output = two[0].communicate(timeout=120)[0]
    assert two[0].returncode == 1
    assert f"error: {LOST_PROCESS}" in output
    two = start_two(workdir)
    started.extend(two)
    outputs = [process.communicate(timeout=300)[0] for process in two]
    assert [process.returncode for process in two] == [0, 0], outputs
    assert "resuming from step" in outputs[0]
    assert "4 of 4 trials finished" in outputs[0]
    assert not [line for line in outputs[1].splitlines() if "[Gloo]" not in line]
    assert_alike(results_of_sweep(workdir), on_one_device)
