"""Checkpoints: equal bit for bit, the last few and the best, and what damage and full disks do."""

import contextlib
import errno
import logging
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from capsjax.runs import manifest
from capsjax.runs.checkpoint import CheckpointError, Checkpoints
from tests.tiny import ROOT


def make_state(seed=0):
    rng = np.random.RandomState(seed)
    return {
        "params": {
            "w": jnp.asarray(rng.randn(3, 4), jnp.float32),
            "b": (jnp.zeros(4), jnp.ones(2)),
        },
        "half": jnp.asarray(rng.randn(5), jnp.bfloat16),
        "odd": jnp.array([jnp.nan, jnp.inf, -0.0, 1e-42], jnp.float32),
        "bytes": jnp.arange(7, dtype=jnp.uint8),
        "flags": jnp.array([True, False]),
        "key": jax.random.PRNGKey(seed),
        "step": jnp.int32(-3),
        "large": jnp.asarray(rng.randn(100, 100), jnp.float32),
    }


LIKE = jax.eval_shape(make_state)


class Before(NamedTuple):
    """A state as it was, and below with a field that was added."""

    step: jax.Array
    params: dict


class After(NamedTuple):
    step: jax.Array
    params: dict
    statistics: dict


def check_equal(restored, state):
    chex.assert_trees_all_equal_shapes_and_dtypes(restored, state)
    for left, right in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes()


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture
def two(directory):
    """Steps 1 and 2, saved from seeds 1 and 2."""
    checkpoints = Checkpoints(directory, keep=5)
    for step in (1, 2):
        checkpoints.save(step, make_state(step), {"epoch": step}, value=1.0 / step)
    return directory


def contents(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
    }


def truncate_arrays(directory, step):
    files = [path for path in (directory / str(step)).rglob("*") if path.parent.name == "d"]
    assert files
    for path in files:
        os.truncate(path, path.stat().st_size // 2)


def test_a_field_that_was_added_later_may_be_missing_if_it_is_empty(directory):
    params = {"w": jnp.arange(3.0)}
    Checkpoints(directory).save(1, Before(jnp.int32(1), params), {})
    new = After(jnp.int32(1), params, {})
    restored = Checkpoints(directory).restore(jax.eval_shape(lambda: new)).state
    assert isinstance(restored, After)
    check_equal(restored, new)
    with pytest.raises(CheckpointError, match="another network"):
        Checkpoints(directory).restore(new._replace(statistics={"mean": jnp.zeros(2)}))
    # And one that has nothing in it is not lost on the way.
    Checkpoints(directory).save(2, {"states": new}, {})
    assert Checkpoints(directory).restore({"states": new}).state["states"].statistics == {}


def test_state_comes_back_bit_for_bit(directory):
    state = make_state()
    notes = {"epoch": 1.5, "name": "a", "none": None, "list": [1, 2], "dict": {"x": True}}
    Checkpoints(directory).save(7, state, notes)
    restored = Checkpoints(directory, read_only=True).restore(LIKE)
    check_equal(restored.state, state)
    assert restored.step == 7
    assert restored.notes == notes
    assert Checkpoints(directory).notes() == notes
    leaf = jax.tree.leaves(restored.state)[0]
    assert leaf.sharding == jax.sharding.SingleDeviceSharding(jax.devices()[0])


def test_like_may_be_a_state(directory):
    state = make_state()
    checkpoints = Checkpoints(directory)
    checkpoints.save(1, state, {})
    check_equal(checkpoints.restore(make_state(5)).state, state)


@pytest.mark.parametrize(
    ("keep", "losses", "kept", "best"),
    [
        (1, [0.5, 0.1, 0.3, 0.4], [2, 4], 2),
        (2, [0.1, 0.2, 0.3, 0.4, 0.5], [1, 4, 5], 1),
        (2, [0.5, 0.4, 0.3], [2, 3], 3),
        (1, [None, 0.2, None, None], [2, 4], 2),
        (2, [None, None, None], [2, 3], None),
        (9, [0.3, 0.2, None], [1, 2, 3], 2),
    ],
)
def test_keeps_the_last_ones_and_the_best(directory, keep, losses, kept, best):
    checkpoints = Checkpoints(directory, keep=keep)
    for step, loss in enumerate(losses, start=1):
        checkpoints.save(step, {"w": np.float32(step)}, {"step": step}, loss)
    for each in (checkpoints, Checkpoints(directory, keep=keep)):
        assert each.steps() == kept
        assert each.best_step() == best
        assert each.validation_values() == {
            step: losses[step - 1] for step in kept if losses[step - 1] is not None
        }


def test_the_best_by_accuracy_has_most_of_it(directory):
    checkpoints = Checkpoints(directory, keep=1, metric="accuracy")
    for step, accuracy in enumerate([0.5, 0.75, 0.75, 0.25, float("nan")], start=1):
        checkpoints.save(step, {"w": np.float32(step)}, {}, accuracy)
    for each in (checkpoints, Checkpoints(directory, read_only=True, metric="accuracy")):
        assert each.steps() == [2, 5]
        assert each.validation_values() == {2: 0.75}
        assert float(each.restore({"w": np.float32(0)}, "best").state["w"]) == 2
    by_loss = Checkpoints(directory, read_only=True)
    assert by_loss.best_step() is None
    with pytest.raises(CheckpointError, match="has a validation loss to be best by; use 'last'"):
        by_loss.restore({"w": np.float32(0)}, "best")


def test_keeping_goes_on_after_a_restart(directory):
    for step, loss in enumerate([0.3, 0.1, 0.2, 0.4], start=1):
        Checkpoints(directory, keep=1).save(step, {"w": np.zeros(2)}, {}, loss)
    assert Checkpoints(directory).steps() == [2, 4]


def test_restores_last_best_and_a_step(directory):
    checkpoints = Checkpoints(directory, keep=3)
    for step, loss in enumerate([0.3, 0.1, 0.2], start=1):
        checkpoints.save(step, {"w": jnp.float32(step)}, {"step": step}, loss)
    for which, step in {"last": 3, "best": 2, "1": 1, "3": 3}.items():
        restored = checkpoints.restore({"w": jnp.float32(0)}, which)
        assert (restored.step, restored.notes) == (step, {"step": step})
        assert float(restored.state["w"]) == step
        assert checkpoints.notes(which) == {"step": step}


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("3", "unknown checkpoint '3'; known: 1, 2"),
        ("bets", "did you mean 'best'"),
        ("-1", "not a step either"),
        ("", "known: best, last"),
    ],
)
def test_unknown_checkpoint_is_named(two, which, message):
    checkpoints = Checkpoints(two, read_only=True)
    with pytest.raises(ValueError, match=message):
        checkpoints.restore(LIKE, which)
    with pytest.raises(ValueError, match=message):
        checkpoints.notes(which)


def test_best_without_any_validation_loss(directory):
    checkpoints = Checkpoints(directory)
    checkpoints.save(4, make_state(), {})
    with pytest.raises(CheckpointError, match="to be best by; use 'last' or one of 4"):
        checkpoints.restore(LIKE, "best")


@pytest.mark.parametrize("which", ["last", "best", "3"])
def test_no_checkpoint_at_all(directory, which):
    checkpoints = Checkpoints(directory, read_only=True)
    assert checkpoints.steps() == []
    assert checkpoints.best_step() is None
    assert checkpoints.restore_last_whole(LIKE) is None
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*: train first"):
        checkpoints.restore(LIKE, which)


@pytest.mark.parametrize("keep", [0, -1])
def test_keeps_at_least_one(directory, keep):
    with pytest.raises(ValueError, match=f"checkpoint.keep is at least 1, not {keep}"):
        Checkpoints(directory, keep=keep)


def test_same_step_twice_is_saved_once(directory):
    checkpoints = Checkpoints(directory)
    checkpoints.save(1, make_state(1), {"first": True}, 0.5)
    before = contents(directory)
    checkpoints.save(1, make_state(2), {"first": False}, 0.1)
    Checkpoints(directory).save(1, make_state(2), {"first": False}, 0.1)
    assert contents(directory) == before
    check_equal(checkpoints.restore(LIKE).state, make_state(1))


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {**state, "large": jnp.zeros((100, 101))},
        lambda state: {**state, "large": jnp.zeros((50, 100))},
        lambda state: {**state, "large": jnp.zeros(10_000)},
        lambda state: {**state, "more": jnp.zeros(1)},
        lambda state: {name: value for name, value in state.items() if name != "large"},
        lambda state: {**state, "params": {**state["params"], "b": (jnp.zeros(4),)}},
    ],
    ids=["larger", "smaller", "flat", "one more", "one less", "shorter tuple"],
)
def test_state_of_another_network_is_refused(two, change):
    before = contents(two.parent)
    checkpoints = Checkpoints(two)
    like = change(make_state())
    with pytest.raises(CheckpointError, match=r"step 2 .* damaged or belongs to another network"):
        checkpoints.restore(like)
    with pytest.raises(CheckpointError, match=r"no checkpoint .* can be read"):
        checkpoints.restore_last_whole(like)
    assert contents(two.parent) == before


def test_falls_back_to_the_last_whole_checkpoint(two, caplog):
    truncate_arrays(two, 2)
    checkpoints = Checkpoints(two, keep=5)
    with pytest.raises(CheckpointError, match=r"step 2 .* is damaged"):
        checkpoints.restore(LIKE)
    with caplog.at_level(logging.WARNING, logger="absl"):
        restored = checkpoints.restore_last_whole(LIKE)
    assert restored.step == 1
    check_equal(restored.state, make_state(1))
    assert restored.notes == {"epoch": 1}
    assert "going on from step 1" in caplog.text
    assert checkpoints.steps() == [1]
    aside = two.parent / "checkpoints_damaged"
    assert [path.name for path in aside.iterdir()] == ["2"]

    # The run comes by step 2 again.
    checkpoints.save(2, make_state(22), {"epoch": 2}, 0.2)
    assert checkpoints.steps() == [1, 2]
    check_equal(Checkpoints(two, keep=5).restore_last_whole(LIKE).state, make_state(22))

    # And may be unlucky again: nothing that was set aside is overwritten.
    truncate_arrays(two, 2)
    assert Checkpoints(two, keep=5).restore_last_whole(LIKE).step == 1
    assert sorted(path.name for path in aside.iterdir()) == ["2", "2_"]


def test_falls_back_over_several(directory):
    checkpoints = Checkpoints(directory, keep=5)
    for step in (1, 2, 3):
        checkpoints.save(step, make_state(step), {})
    for step in (2, 3):
        truncate_arrays(directory, step)
    checkpoints = Checkpoints(directory, keep=5)
    check_equal(checkpoints.restore_last_whole(LIKE).state, make_state(1))
    assert checkpoints.steps() == [1]


def test_all_damaged(two):
    for step in (1, 2):
        truncate_arrays(two, step)
    before = contents(two.parent)
    with pytest.raises(CheckpointError, match=r"can be read: .* Start anew in another --workdir"):
        Checkpoints(two).restore_last_whole(LIKE)
    assert contents(two.parent) == before


def spoil(path, damage):
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "half":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


@pytest.mark.ci
@pytest.mark.parametrize("damage", ["half", "missing", "bit"])
def test_damage_to_any_file_is_noticed_and_named(two, damage, tmp_path, caplog):
    names = [path.relative_to(two / "2") for path in (two / "2").rglob("*") if path.is_file()]
    assert {"manifest.sha256", "metrics/metrics", "notes/metadata"} < set(map(str, names))
    assert sum(name.parent.name == "d" for name in names) > 1
    for index, name in enumerate(names):
        copy = tmp_path / f"copy{index}" / "checkpoints"
        shutil.copytree(two, copy)
        spoil(copy / "2" / name, damage)
        with pytest.raises(CheckpointError) as refused:
            Checkpoints(copy, read_only=True).restore(LIKE)
        assert f"step 2 in {copy} is damaged: {name} is " in str(refused.value)
        assert str(refused.value).endswith("Whole instead: --checkpoint=1")
        caplog.clear()
        checkpoints = Checkpoints(copy, keep=5)
        restored = checkpoints.restore_last_whole(LIKE)
        assert (restored.step, restored.notes) == (1, {"epoch": 1}), name
        check_equal(restored.state, make_state(1))
        assert checkpoints.best_step() == 1
        (line,) = [record.getMessage() for record in caplog.records]
        assert f"damaged: {name} is " in line
        assert line.endswith("checkpoints_damaged/2; going on from step 1: step 2 is trained again")


def test_the_best_is_not_taken_by_damaged_metrics(two):
    (two / "1" / "metrics" / "metrics").write_text('{"validation_loss": 0.1}')
    checkpoints = Checkpoints(two, read_only=True)
    for read in (lambda: checkpoints.restore(LIKE, "best"), lambda: checkpoints.notes("best")):
        with pytest.raises(
            CheckpointError, match=r"step 1 .*metrics/metrics is not what was saved"
        ):
            read()
    assert checkpoints.restore(LIKE, "last").step == 2


def test_a_damaged_checkpoint_before_the_last_is_set_aside_with_its_cost(directory, caplog):
    def damaged(step):
        checkpoints = Checkpoints(directory, keep=3, steps_per_epoch=2)
        for each, loss in ((2, 0.25), (4, 0.5), (6, 0.75)):
            checkpoints.save(each, make_state(each), {}, loss)
        truncate_arrays(directory, step)
        caplog.clear()
        checkpoints = Checkpoints(directory, keep=3, steps_per_epoch=2)
        assert checkpoints.restore_last_whole(LIKE).step == 6
        assert checkpoints.steps() == sorted({2, 4, 6} - {step})
        (line,) = [record.getMessage() for record in caplog.records]
        return line

    assert damaged(4).endswith("nothing is lost with it")
    assert "the best so far (validation loss 0.25) and are lost: the best of the" in damaged(2)


def test_the_end_of_a_run_takes_the_best_that_is_whole(directory, caplog):
    checkpoints = Checkpoints(directory, keep=3)
    for step, loss in ((1, 0.25), (2, 0.5), (3, 0.75)):
        checkpoints.save(step, make_state(step), {}, loss)
    truncate_arrays(directory, 1)
    restored = checkpoints.restore_best_whole(LIKE)
    assert restored.step == 2
    check_equal(restored.state, make_state(2))
    assert "the best so far (validation loss 0.25) and are lost" in caplog.text
    # The last one can be trained again, at no loss but time.
    truncate_arrays(directory, 2)
    truncate_arrays(directory, 3)
    with pytest.raises(CheckpointError, match=r"step 3 .* Start the same command again"):
        checkpoints.restore_best_whole(LIKE)
    assert checkpoints.steps() == [3]


def test_a_damaged_checkpoint_of_the_same_step_is_saved_again(two):
    truncate_arrays(two, 2)
    Checkpoints(two, keep=5).save(2, make_state(22), {"epoch": 2}, 0.5)
    checkpoints = Checkpoints(two, read_only=True)
    assert checkpoints.steps() == [1, 2]
    check_equal(checkpoints.restore(LIKE).state, make_state(22))


def test_a_save_counts_only_with_its_manifest_and_deletes_nothing_before(two, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    checkpoints = Checkpoints(two, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(3, make_state(3), {}, 0.1)
    assert Checkpoints(two, read_only=True).steps() == [1, 2]
    checkpoints = Checkpoints(two, keep=1)
    check_equal(checkpoints.restore_last_whole(LIKE).state, make_state(2))
    checkpoints.save(3, make_state(3), {}, 0.1)
    assert sorted(path.name for path in two.iterdir()) == ["3"]


def test_all_is_on_the_disk_before_a_checkpoint_has_its_name(two, monkeypatch):
    """The order of calls is all that a test can see of what a power cut leaves."""
    events = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(handle):
        events.append(("fsync", os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def watched_replace(source, target):
        events.append(("replace", str(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    checkpoints = Checkpoints(two, keep=1)
    checkpoints.save(3, make_state(3), {}, 0.1)
    named = events.index(("replace", str(two / "3")))
    partial = two / "partial-3"
    manifested = events.index(("replace", str(partial / "manifest.sha256")))
    assert manifested < named
    for path in (two / "3").rglob("*"):
        if path.name != "manifest.sha256":
            written = events.index(("fsync", str(partial / path.relative_to(two / "3"))))
            assert written < manifested, path
    before, after = events[manifested:named], events[named:]
    assert ("fsync", str(partial)) in before
    deleted = after.index(("replace", str(two / "partial-1")))
    assert after.index(("fsync", str(two))) < deleted


def test_notes_do_not_need_the_state(two):
    truncate_arrays(two, 2)
    assert Checkpoints(two, read_only=True).notes() == {"epoch": 2}


def test_damaged_notes(two):
    (two / "2" / "notes" / "metadata").write_text('{"epo')
    checkpoints = Checkpoints(two, keep=5)
    with pytest.raises(CheckpointError, match=r"step 2 .* is damaged"):
        checkpoints.notes()
    assert checkpoints.restore_last_whole(LIKE).step == 1


def test_full_disk_leaves_the_earlier_checkpoints(two, monkeypatch):
    def no_space(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    checkpoints = Checkpoints(two, keep=5)
    with monkeypatch.context() as patch:
        patch.setattr(ocp.Checkpointer, "save", no_space)
        with pytest.raises(CheckpointError, match=r"step 3 .*No space left.*Make room .* goes on"):
            checkpoints.save(3, make_state(3), {}, 0.1)
    assert checkpoints.steps() == [1, 2]
    check_equal(checkpoints.restore(LIKE).state, make_state(2))
    checkpoints.save(3, make_state(3), {}, 0.1)
    check_equal(checkpoints.restore(LIKE, "best").state, make_state(3))


def test_disk_that_takes_half_of_the_state(two):
    """The real thing, as far as a test may go: the system refuses to write past 64 KiB."""
    checkpoints = Checkpoints(two, keep=1)
    state = {"w": np.random.RandomState(0).rand(1 << 17)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(CheckpointError, match="could not save step 3"):
            checkpoints.save(3, state, {}, 0.1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    for each in (checkpoints, Checkpoints(two)):
        assert each.steps() == [1, 2]
        check_equal(each.restore(LIKE).state, make_state(2))
    Checkpoints(two, keep=1).save(3, state, {}, 0.1)
    assert Checkpoints(two).steps() == [3]


SAVES_UNTIL_KILLED = """
import sys
import numpy as np
from capsjax.runs.checkpoint import Checkpoints

checkpoints = Checkpoints(sys.argv[1], keep=2)
step = max(checkpoints.steps(), default=0)
while True:
    step += 1
    checkpoints.save(step, {"w": np.random.RandomState(step).rand(1 << 21)}, {}, 1 / step)
"""


def whole_steps(directory):
    names = [path.name for path in directory.iterdir()] if directory.exists() else []
    return sorted(int(name) for name in names if name.isdigit())


def kill_in_mid_save(process, directory, delay):
    """Stop it again and again until it stands in the middle of a save, then kill it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(delay)
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if directory.exists() and any(not path.name.isdigit() for path in directory.iterdir()):
            break
        process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()


@pytest.mark.ci
def test_kill_in_the_middle_of_a_save(directory):
    rng = np.random.RandomState(0)
    like = {"w": jax.ShapeDtypeStruct((1 << 21,), np.float64)}
    for _ in range(3):
        before = whole_steps(directory)
        process = subprocess.Popen(
            [sys.executable, "-c", SAVES_UNTIL_KILLED, str(directory)],
            cwd=ROOT,
        )
        deadline = time.monotonic() + 60
        while whole_steps(directory) == before:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        kill_in_mid_save(process, directory, delay=rng.uniform(0.01, 0.1))
        assert any(not path.name.isdigit() for path in directory.iterdir())
        assert Checkpoints(directory, read_only=True).steps() == whole_steps(directory)
        with jax.enable_x64(True):
            restored = Checkpoints(directory, keep=2).restore_last_whole(like)
        assert restored.step > max(before, default=0)
        expected = np.random.RandomState(restored.step).rand(1 << 21)
        np.testing.assert_array_equal(restored.state["w"], expected)


def test_leftover_of_a_killed_save_goes_with_the_next_save(two):
    half = two / "3.orbax-checkpoint-tmp"
    shutil.copytree(two / "2", half)
    (half / "commit_success.txt").unlink(missing_ok=True)
    before = contents(two)
    assert Checkpoints(two, read_only=True).steps() == [1, 2]
    assert contents(two) == before
    checkpoints = Checkpoints(two, keep=5)
    checkpoints.save(9, make_state(9), {})
    assert sorted(path.name for path in two.iterdir()) == ["1", "2", "9"]


def test_reading_changes_nothing_on_disk(two):
    before = contents(two.parent)
    checkpoints = Checkpoints(two, read_only=True)
    checkpoints.restore(LIKE)
    checkpoints.restore(LIKE, "best")
    checkpoints.restore_last_whole(LIKE)
    checkpoints.notes()
    checkpoints.validation_values()
    assert contents(two.parent) == before


def test_looking_makes_no_directory(directory):
    assert Checkpoints(directory, read_only=True).steps() == []
    assert not directory.exists()


def test_read_only_does_not_save(two):
    before = contents(two.parent)
    with contextlib.suppress(ValueError):  # it may refuse, CheckpointError is one
        Checkpoints(two, read_only=True).save(3, make_state(), {})
    assert contents(two.parent) == before


def test_read_only_sets_nothing_aside(two):
    truncate_arrays(two, 2)
    before = contents(two.parent)
    assert Checkpoints(two, read_only=True).restore_last_whole(LIKE).step == 1
    assert contents(two.parent) == before


@pytest.mark.parametrize(
    "losses", [[0.1, math.nan, 0.5], [0.5, 0.1, math.nan], [math.nan, 0.1, 0.5]]
)
def test_not_a_number_is_not_the_best(directory, losses):
    checkpoints = Checkpoints(directory, keep=1)
    for step, loss in enumerate(losses):
        checkpoints.save(step, {"w": np.zeros(2)}, {}, loss)
    best = losses.index(0.1)
    assert checkpoints.best_step() == best
    assert checkpoints.steps() == [best, 2]
