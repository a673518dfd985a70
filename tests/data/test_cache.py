"""Decoded data sets on disk: decoded once, whole or not at all, and never in the way."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from capsjax.data import Arrays
from capsjax.data.cache import cache_dir, cached
from tests.tiny import ROOT

IMAGES = np.random.RandomState(0).randint(0, 256, (7, 4, 4, 1)).astype(np.uint8)
LABELS = np.arange(7, dtype=np.int32)


class Decoder:
    """Counts how often it is asked."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return Arrays(IMAGES, LABELS, 10)


def check(arrays):
    np.testing.assert_array_equal(arrays.images, IMAGES)
    np.testing.assert_array_equal(arrays.labels, LABELS)
    assert (arrays.images.dtype, arrays.labels.dtype) == (np.uint8, np.int32)
    assert arrays.num_classes == 10


def files():
    return sorted(path.name for path in cache_dir().iterdir())


def test_decodes_once():
    decode = Decoder()
    for _ in range(3):
        check(cached("some", decode))
    assert decode.calls == 1
    assert files() == ["some.npz"]


def test_each_key_has_its_own_file():
    cached("some", Decoder())
    decode = Decoder()
    check(cached("other", decode))
    assert decode.calls == 1
    assert files() == ["other.npz", "some.npz"]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"CAPSJAX_CACHE_DIR": "~/here"}, "/home/me/here"),
        ({"XDG_CACHE_HOME": "/elsewhere"}, "/elsewhere/capsjax"),
        ({}, "/home/me/.cache/capsjax"),
    ],
)
def test_place_of_the_cache(monkeypatch, variables, expected):
    for name in ("CAPSJAX_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    assert cache_dir() == Path(expected)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"nonsense",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data[:150] + bytes([data[150] ^ 255]) + data[151:],
    ],
    ids=["empty", "nonsense", "half", "last byte missing", "one byte changed"],
)
def test_damaged_file_is_made_anew(damage):
    cached("some", Decoder())
    path = cache_dir() / "some.npz"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    decode = Decoder()
    check(cached("some", decode))
    check(cached("some", decode))
    assert decode.calls == 1
    assert path.read_bytes() == whole
    assert files() == ["some.npz"]


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": IMAGES, "labels": LABELS},
        {"images": IMAGES.astype(float), "labels": LABELS, "num_classes": 10},
        {"images": IMAGES, "labels": LABELS, "num_classes": 3},
        {"images": np.empty(7, object), "labels": LABELS, "num_classes": 10},
    ],
    ids=["missing key", "wrong type", "labels out of range", "pickled"],
)
def test_file_of_something_else_is_made_anew(arrays):
    cache_dir().mkdir()
    np.savez(cache_dir() / "some.npz", **arrays)
    decode = Decoder()
    check(cached("some", decode))
    check(cached("some", decode))
    assert decode.calls == 1


def test_threads_that_start_at_once_all_get_whole_arrays():
    barrier = threading.Barrier(4)
    results = []

    def decode():
        barrier.wait(10)  # until all four are past the look for the file
        return Arrays(IMAGES, LABELS, 10)

    threads = [
        threading.Thread(target=lambda: results.append(cached("some", decode))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for arrays in results:
        check(arrays)
    assert files() == ["some.npz"]
    check(cached("some", pytest.fail))


@pytest.mark.ci
def test_processes_that_start_at_once_all_get_whole_arrays(tmp_path):
    program = """
import sys, time
from pathlib import Path
import numpy as np
from capsjax.data import Arrays
from capsjax.data.cache import cached

def decode():
    mine, other = (Path(sys.argv[1]) / name for name in sys.argv[2:])
    mine.touch()
    while not other.exists():  # until both are past the look for the file
        time.sleep(0.01)
    images = np.random.RandomState(0).randint(0, 256, (7, 4, 4, 1)).astype(np.uint8)
    return Arrays(images, np.arange(7, dtype=np.int32), 10)

arrays = cached("some", decode)
assert arrays.images.shape == (7, 4, 4, 1)
print(int(arrays.images.sum()))
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path), *names],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for names in (("a", "b"), ("b", "a"))
    ]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert [int(output) for output in outputs] == [int(IMAGES.sum())] * 2
    assert files() == ["some.npz"]
    check(cached("some", pytest.fail))


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "function", ["numpy.savez", "os.replace", "tempfile.NamedTemporaryFile", "pathlib.Path.mkdir"]
)
def test_disk_that_does_not_take_it_costs_no_more_than_the_decoding(monkeypatch, function):
    decode = Decoder()
    with monkeypatch.context() as patch:
        patch.setattr(function, no_space)
        check(cached("some", decode))
    assert not cache_dir().exists() or files() == []
    check(cached("some", decode))
    assert decode.calls == 2
    assert files() == ["some.npz"]


def test_half_a_file_written_to_a_full_disk_is_taken_away(monkeypatch):
    def half(file, **_):
        file.write(b"half")
        no_space()

    monkeypatch.setattr(np, "savez", half)
    check(cached("some", Decoder()))
    assert files() == []


def test_cache_directory_that_is_a_file(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CAPSJAX_CACHE_DIR", str(tmp_path / "file"))
    check(cached("some", Decoder()))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_directory(monkeypatch, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    monkeypatch.setenv("CAPSJAX_CACHE_DIR", str(folder))
    check(cached("some", Decoder()))
    assert files() == []


def test_damaged_file_that_cannot_be_taken_away(monkeypatch):
    """A file of another user, in a cache directory that is shared."""
    cache_dir().mkdir()
    (cache_dir() / "some.npz").write_bytes(b"damaged")
    for function in ("os.unlink", "os.replace", "pathlib.Path.unlink"):
        monkeypatch.setattr(function, no_space)
    check(cached("some", Decoder()))


def test_ctrl_c_while_writing_leaves_no_temporary_file(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cached("some", Decoder())
    assert files() == []


def test_file_with_a_damaged_zip_header_is_made_anew():
    cached("some", Decoder())
    path = cache_dir() / "some.npz"
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 10] ^= 1  # compression method of the first array
    path.write_bytes(data)
    check(cached("some", Decoder()))
