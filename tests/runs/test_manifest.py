"""The manifest of a folder: which damage it shows, and how a person checks it by hand."""

import errno
import os
import shutil
import subprocess

import pytest

from capsjax.runs import manifest


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "state" / "d").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").write_text("{}")
    (tmp_path / "state" / "d" / "array").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "state" / "nothing").write_bytes(b"")
    manifest.write(tmp_path)
    return tmp_path


def test_a_whole_folder_is_whole_and_what_is_added_does_not_matter(folder):
    assert manifest.difference(folder) is None
    (folder / "state" / ".nfs0001").write_text("left by a file system")
    assert manifest.difference(folder) is None


@pytest.mark.parametrize("name", ["notes", "state/d/array", manifest.NAME])
def test_each_flipped_bit_is_seen(folder, name):
    data = (folder / name).read_bytes()
    for position in {0, 1, len(data) // 2, len(data) - 1}:
        for bit in (0, 5, 7):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            (folder / name).write_bytes(changed)
            assert manifest.difference(folder).startswith(f"{name} is "), (position, bit)
    (folder / name).write_bytes(data)
    assert manifest.difference(folder) is None


def test_files_that_are_longer_or_missing_are_named(folder):
    with (folder / "state" / "nothing").open("ab") as file:
        file.write(b"x")
    assert manifest.difference(folder) == "state/nothing is not what was saved (another SHA-256)"
    (folder / "state" / "d" / "array").unlink()
    assert manifest.difference(folder) == "state/d/array is missing"
    (folder / manifest.NAME).unlink()
    assert manifest.difference(folder) == "manifest.sha256 is missing"


def test_a_line_less_in_the_manifest_is_damage_to_it(folder):
    lines = (folder / manifest.NAME).read_text().splitlines(keepends=True)
    (folder / manifest.NAME).write_text("".join(lines[1:]))
    assert manifest.difference(folder) == "manifest.sha256 is damaged"


def test_a_part_is_compared_alone(folder):
    (folder / "notes").write_text("[]")
    assert manifest.difference(folder, "state") is None
    assert manifest.difference(folder, "state/d") is None
    (folder / "state" / "nothing").unlink()
    assert manifest.difference(folder, "state/d") is None
    assert manifest.difference(folder, "state") == "state/nothing is missing"


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="a program of the system")
def test_a_person_can_check_it(folder):
    command = ["sha256sum", "--check", "--strict", "--quiet", manifest.NAME]
    assert subprocess.run(command, cwd=folder, check=False).returncode == 0
    (folder / "notes").write_text("[]")
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert "notes: FAILED" in done.stdout
    assert done.returncode == 1


def test_a_full_disk_leaves_no_manifest(folder, monkeypatch):
    (folder / manifest.NAME).unlink()

    def no_space(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        manifest.write(folder)
    assert not list(folder.glob("manifest*"))


def test_a_file_system_that_syncs_no_folders_is_no_error(folder, monkeypatch):
    def invalid(_):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", invalid)
    manifest.sync_folder(folder)
    monkeypatch.setattr(os, "fsync", lambda _: os.strerror(0))
    manifest.sync_folder(folder)
