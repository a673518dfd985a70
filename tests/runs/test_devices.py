"""Several devices do what one does: training and evaluation divided over a mesh."""

import json
import os
import socket
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from capsjax.data import load_training
from capsjax.runs import devices, processes
from capsjax.runs.checkpoint import CheckpointError
from capsjax.training.build import build, build_train_steps
from tests.tiny import ROOT, tiny_config

# Run with four devices. Saves, for each number of devices, the state after six steps (an epoch of
# four and half of the next), and what evaluation says of it and of the state before.
PROGRAM = """
import sys
import jax
import numpy as np
from jax.sharding import Mesh
from capsjax.runs import devices, processes
from capsjax.data import load_training
from capsjax.training.build import build, build_evaluate, build_train_steps
from tests.tiny import tiny_config, tiny_convnet_config


def train_on_each_number_of_devices(family, config):
    training, validation = load_training(**config.data)
    built = build(config, training.image_shape, training.num_classes, len(training))
    start = jax.jit(lambda: built.init_state(0))()
    for count in (1, 2, 4):
        mesh = Mesh(np.array(jax.devices()[:count]), ("data",))
        steps = jax.jit(build_train_steps(config, built, mesh))
        evaluate = jax.jit(build_evaluate(config, built, mesh))
        state = before = devices.replicate(start, mesh)
        data = devices.replicate((training.images, training.labels), mesh)
        for _ in range(2):
            state, health = steps(state, *data, np.int32(6 - int(state.step)))
        part = devices.replicate((validation.images, validation.labels), mesh)
        found = {
            "state": state,
            "health": health,
            "before": evaluate(before.variables, *part),
            "after": evaluate(state.variables, *part),
        }
        for path, leaf in jax.tree_util.tree_leaves_with_path(found):
            copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
            assert leaf.sharding.is_fully_replicated and len(copies) == count
            assert all(np.array_equal(copy, copies[0]) for copy in copies), path
            results[f"{family} {count} {jax.tree_util.keystr(path)}"] = copies[0]


# 50 validation images: a share of 13 each on four devices, in batches of 7.
results, common = {}, {"augment__max_shift": 1, "evaluate__batch_size": 7}
# A margin loss that is a mean over the batch, and a reconstruction loss that is a sum over it.
train_on_each_number_of_devices(
    "capsnet", tiny_config(reconstruction_loss__reduction="batch_sum", **common)
)
# Dropout, and batch norm of the whole batch.
train_on_each_number_of_devices("convnet", tiny_convnet_config(**common))
np.savez(sys.argv[1], **results)
"""


# Run with two devices. Prints the metrics of two steps with interpreted kernels, on one and on two.
OF_KERNELS = """
import json
import jax
import numpy as np
from jax.sharding import Mesh
from capsjax.kernels import triton
from capsjax.metrics import means_of
from capsjax.training.build import build, build_train_steps
from tests.tiny import tiny_config

jax.default_backend, triton.interpreted = lambda: "gpu", lambda: True
config = tiny_config(
    model__compute__dtype="bfloat16",
    model__compute__conv="primary_caps:fused_fourier",
    model__conv__features=16,
    train__batch_size=8,
)
rng = np.random.default_rng(0)
images = rng.integers(0, 256, (16, 28, 28, 1), np.uint8)
labels = rng.integers(0, 10, 16).astype(np.int32)
built = build(config, images.shape[1:], 10, len(labels))
for count in (1, 2):
    mesh = Mesh(np.array(jax.devices()[:count]), ("data",))
    steps = jax.jit(build_train_steps(config, built, mesh))
    state, _ = steps(built.init_state(0), images, labels, np.int32(2))
    print(json.dumps(means_of(state.window)))
"""


each_family = pytest.mark.parametrize("family", ["capsnet", "convnet"])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """By family of networks and number of devices, all numbers by name."""
    path = tmp_path_factory.mktemp("devices") / "results.npz"
    flags = "--xla_force_host_platform_device_count=4"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    subprocess.run([sys.executable, "-c", PROGRAM, path], check=True, cwd=ROOT, env=environment)
    found = {}
    with np.load(path) as file:
        for key in file.files:
            family, count, name = key.split(" ", 2)
            found.setdefault(family, {}).setdefault(int(count), {})[name] = file[key]
    return found


@pytest.mark.ci
@pytest.mark.long
@each_family
@pytest.mark.parametrize("count", [2, 4])
def test_several_devices_train_as_one_does(results, family, count):
    one, several = results[family][1], results[family][count]
    assert one.keys() == several.keys()
    assert one["['state'].step"] == several["['state'].step"] == 6
    for name in one:
        # 2e-6 of the largest number was measured.
        atol = 1e-5 * np.abs(one[name]).max()
        np.testing.assert_allclose(several[name], one[name], rtol=0, atol=atol, err_msg=name)


@pytest.mark.ci
@pytest.mark.long
@each_family
@pytest.mark.parametrize("count", [1, 2, 4])
def test_evaluation_takes_every_example_once_on_any_number_of_devices(results, family, count):
    one, several = results[family][1], results[family][count]
    assert several["['before'].sums.count"] == 50
    assert several["['before'].scores"].shape == (50, 10)
    correct = "['before'].sums.totals['correct']"
    assert several[correct] == one[correct]
    # Of the same parameters: each example is computed alone, wherever it is.
    for name in (name for name in one if name.startswith("['before']")):
        np.testing.assert_allclose(several[name], one[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.ci
@pytest.mark.long
def test_kernels_of_a_gpu_work_on_shares_of_a_batch():
    flags = "--xla_force_host_platform_device_count=2"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {flags}"
    command = [sys.executable, "-c", OF_KERNELS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    one, two = map(json.loads, done.stdout.splitlines())
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert two[name] == pytest.approx(value, rel=2e-3), name


@pytest.mark.slow
def test_on_one_device_the_program_is_the_one_without_a_mesh():
    config = tiny_config()
    training, _ = load_training(**config.data)
    built = build(config, training.image_shape, training.num_classes, len(training))
    state = jax.eval_shape(lambda: built.init_state(0))
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    texts = [
        jax.jit(build_train_steps(config, built, each))
        .lower(state, training.images, training.labels, np.int32(1))
        .as_text()
        for each in (None, mesh)
    ]
    assert texts[0] == texts[1]
    assert "all_reduce" not in texts[0]


@pytest.mark.parametrize(
    ("batch_size", "count", "remedy"), [(30, 4, "28 or 32"), (3, 4, "take 4,"), (9, 2, "8 or 10")]
)
def test_a_batch_that_does_not_divide_by_the_devices_is_refused(batch_size, count, remedy):
    config = tiny_config(train__batch_size=batch_size)
    built = build(config, (8, 8, 1), 10, 128)
    with pytest.raises(ValueError, match=rf"batch_size={batch_size} does not divide.*{remedy}"):
        build_train_steps(config, built, Mesh(np.array(jax.devices()[:1] * count), ("data",)))


def test_one_process_agrees_with_itself():
    mesh = devices.make_mesh("data")
    assert mesh.axis_names == ("data",)
    assert mesh.size == len(jax.devices())
    assert processes.is_primary()
    tree = {"a": np.arange(3.0), "b": np.float32(2)}
    chex.assert_trees_all_equal(devices.to_host(devices.replicate(tree, mesh)), tree)
    assert processes.on_primary(lambda: "runs/a") == "runs/a"
    processes.check_same("nothing", object())
    processes.barrier("nobody to wait for")
    with processes.primary_first():
        pass


def test_to_host_gives_numpy_of_arrays_on_a_device():
    fetched = devices.to_host((jnp.ones(2), 3))
    assert all(isinstance(each, np.ndarray) for each in fetched)


@pytest.mark.parametrize(
    ("coordinator", "num_processes", "process_id", "message"),
    [
        ("", 2, 0, "--coordinator=HOST:PORT is missing"),
        ("", 0, 1, "--coordinator=HOST:PORT is missing"),
        ("node1", 2, 0, "--coordinator=node1 is not HOST:PORT"),
        (":1234", 2, 0, "is not HOST:PORT"),
        ("node1:many", 2, 0, "is not HOST:PORT"),
        ("node1:70000", 2, 0, "is not HOST:PORT"),
        ("node1:1234", 0, 0, "--num_processes=N is missing"),
        ("node1:1234", 2, 2, "--process_id is 0 for the first process, up to 1"),
        ("node1:1234", 2, -1, "--process_id is 0 for the first process, up to 1"),
        ("no such host:1234", 2, 1, "no host 'no such host'"),
    ],
)
def test_flags_that_do_not_fit_together(coordinator, num_processes, process_id, message):
    with pytest.raises(ValueError, match=message):
        processes.initialize(coordinator, num_processes, process_id)


def test_a_coordinator_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(processes, "START_TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ValueError, match=rf"no process 0 at 127.0.0.1:{port} within 0.5 s"):
        processes.initialize(f"127.0.0.1:{port}", 2, 1)


def test_a_port_that_is_taken():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ValueError, match=f"cannot listen on port {port}"):
            processes.initialize(f"127.0.0.1:{port}", 2, 0)


def test_slurm_is_asked_only_where_it_runs_several_tasks(monkeypatch):
    joined = []
    monkeypatch.setattr(processes, "_join", lambda **arguments: joined.append(arguments))
    processes.initialize("", 0, -1)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    processes.initialize("", 0, -1)
    assert joined == []
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    processes.initialize("", 0, -1)
    assert joined == [{"cluster_detection_method": "slurm"}]


def test_a_lost_process_is_told_from_other_errors(monkeypatch):
    gloo = ValueError("UNKNOWN: Gloo AllGather failed: Read error: Connection reset by peer")
    barrier = jax.errors.JaxRuntimeError("INTERNAL: Barrier failed because: task is in ERROR")
    memory = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
    wrapped = CheckpointError("could not save step 3")
    wrapped.__cause__ = gloo
    assert not processes.is_lost_process(gloo)  # there is only one process
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    assert [processes.is_lost_process(each) for each in (gloo, barrier, wrapped)] == [True] * 3
    for error in (memory, CheckpointError("by peer"), KeyError("Gloo")):
        assert not processes.is_lost_process(error)
