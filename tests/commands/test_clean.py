"""`capsjax clean`: deletes what it may, and nothing else."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from capsjax.commands import clean
from capsjax.data import Arrays
from capsjax.data.cache import cache_dir, cached
from capsjax.runs.caches import find_caches

ARRAYS = Arrays(np.zeros((500, 4, 4, 1), np.uint8), np.zeros(500, np.int32), 10)


@pytest.fixture(autouse=True)
def no_folder_of_jax(monkeypatch):
    """The tests' own is not to be found, let alone deleted."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)


def write(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


def write_info(folder, name):
    path = write(folder / "dataset_info.json", 0)
    path.write_text(json.dumps({"name": name}))
    return path


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """One of each cache, and files of the user's beside them."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "jax"))
    # A key as `load_tfds` makes it.
    cached("mnist-3.0.1-test10000-train60000-9fa0c-0123456789ab-train", lambda: ARRAYS)
    caches = {
        "compiled": write(cache_dir() / "compiled" / "deep" / "program-cache", 1_500_000),
        "decoded": write(next(cache_dir().glob("*.npz")), 10_690),
        "half": write(cache_dir() / "tmpk3x_1.tmp", 10),
        "jax": write(tmp_path / "jax" / "jit_step-8e2b-cache", 2_000_000),
        "mnist": write(tmp_path / "tfds" / "mnist" / "3.0.1" / "records", 3_000_000),
        "mnist info": write_info(tmp_path / "tfds" / "mnist" / "3.0.1", "mnist"),
        "emnist": write_info(tmp_path / "tfds" / "emnist" / "letters" / "3.1.0", "emnist"),
        "downloads": write(tmp_path / "tfds" / "downloads" / "archive.tar.gz", 10),
        "its page": write(tmp_path / "tfds" / "downloads" / "archive.tar.gz.INFO", 10),
        "extracted": write(tmp_path / "tfds" / "downloads" / "extracted" / "image", 10),
    }
    users = [
        write(cache_dir() / "own-train.npz", 10),
        write(tmp_path / "jax" / "notes.txt", 10),
        write(tmp_path / "tfds" / "mine" / "thesis.tex", 10),
        # A directory of TFDS's in TFDS's directory, and what its own page calls otherwise.
        write_info(tmp_path / "tfds" / "alice" / "cifar10" / "3.0.2", "cifar10"),
        write(tmp_path / "tfds" / "mnist" / "notes.txt", 10),
        write(tmp_path / "tfds" / "downloads" / "manual" / "imagenet.tar", 10),
    ]
    return caches, users


def run(monkeypatch, capsys, **flags):
    values = {"dry_run": False, "shared": False, "data_dir": ""}
    monkeypatch.setattr(clean, "FLAGS", SimpleNamespace(**{**values, **flags}))
    clean.main()
    return capsys.readouterr().out.splitlines()


def test_a_dry_run_lists_sizes_and_deletes_nothing(kept, tmp_path, monkeypatch, capsys):
    caches, users = kept
    lines = run(monkeypatch, capsys, dry_run=True, shared=True)
    assert lines == [
        f"would delete: 1.50 MB of compiled programs in {tmp_path / 'cache' / 'compiled'}",
        f"would delete: 0.0107 MB of decoded data sets in {tmp_path / 'cache'}",
        f"would delete: 3.00 MB of prepared data sets of TFDS in {tmp_path / 'tfds'}: "
        "downloads/archive.tar.gz, downloads/archive.tar.gz.INFO, downloads/extracted, "
        "emnist/letters/3.1.0, mnist/3.0.1",
        f"would delete: 2.00 MB of compiled programs of JAX in {tmp_path / 'jax'}: "
        "jit_step-8e2b-cache",
    ]
    assert all(path.exists() for path in [*caches.values(), *users])


def test_what_is_capsjax_s_own_is_deleted_and_the_rest_only_if_it_is_meant(
    kept, monkeypatch, capsys
):
    caches, users = kept
    lines = run(monkeypatch, capsys)
    assert [line.partition(":")[0] for line in lines] == ["deleted", "deleted", "kept", "kept"]
    assert "--shared deletes them" in lines[2]
    gone = {name for name, path in caches.items() if not path.exists()}
    assert gone == {"compiled", "decoded", "half"}
    lines = run(monkeypatch, capsys, shared=True)
    assert [line.partition(":")[0] for line in lines] == ["deleted", "deleted"]
    assert not any(path.exists() for path in caches.values())
    assert all(path.exists() for path in users)
    assert not (caches["emnist"].parents[2]).exists()
    assert run(monkeypatch, capsys, shared=True) == ["nothing is kept"]


def test_tfds_s_directory_of_a_flag_is_taken(tmp_path):
    info = write_info(tmp_path / "elsewhere" / "mnist" / "3.0.1", "mnist")
    (found,) = find_caches(str(tmp_path / "elsewhere"))
    assert found.paths == [info.parent]


def test_a_prepared_set_behind_a_link_is_left_alone(tmp_path):
    write_info(tmp_path / "elsewhere" / "mnist" / "3.0.1", "mnist")
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "mnist").symlink_to(tmp_path / "elsewhere" / "mnist")
    assert find_caches(str(tmp_path / "sets")) == []


def test_a_link_is_deleted_and_not_what_it_points_to(tmp_path):
    target = write(tmp_path / "target" / "program-cache", 10)
    (cache_dir() / "compiled").mkdir(parents=True)
    (cache_dir() / "compiled" / "linked").symlink_to(target.parent)
    (found,) = find_caches()
    found.remove()
    assert target.exists()
    assert not (cache_dir() / "compiled").exists()
