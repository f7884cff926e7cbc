"""Files written beside their place: whole or not at all, and errors that name the file."""

import errno
import os

import pytest

from mirage_jax.io import atomic
from mirage_jax.io.atomic import partial_path, replacing, write_atomically


def test_a_file_appears_only_when_the_block_ends(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")
    with replacing(path) as partial:
        assert partial.suffix == ".mp4" and partial.parent == tmp_path
        assert partial == partial_path(path)
        partial.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["clip.mp4"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")
    with pytest.raises(KeyError, match="no such texture"), replacing(path) as partial:
        partial.write_bytes(b"half")
        raise KeyError("no such texture")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["clip.mp4"]


@pytest.mark.parametrize("fails", [False, True])
def test_folders_too(tmp_path, fails):
    try:
        with replacing(tmp_path / "weights") as partial:
            partial.mkdir()
            (partial / "a.bin").write_bytes(b"1")
            if fails:
                raise RuntimeError("stopped")
    except RuntimeError:
        assert os.listdir(tmp_path) == []
    else:
        assert (tmp_path / "weights" / "a.bin").read_bytes() == b"1"
        assert os.listdir(tmp_path) == ["weights"]


@pytest.mark.parametrize("folder", [False, True])
def test_what_a_killed_process_left_is_not_taken_over(tmp_path, folder):
    left = partial_path(tmp_path / "weights")
    if folder:
        left.mkdir()
        (left / "old.bin").write_bytes(b"1")
    else:
        left.write_bytes(b"1")
    with replacing(tmp_path / "weights") as partial:
        partial.mkdir()
    assert os.listdir(tmp_path / "weights") == []


def test_texts_and_bytes_are_written_as_they_are(tmp_path):
    write_atomically(tmp_path / "a.json", "ü\n")
    write_atomically(str(tmp_path / "b.bin"), b"\r\n\x00")
    assert (tmp_path / "a.json").read_bytes() == "ü\n".encode()
    assert (tmp_path / "b.bin").read_bytes() == b"\r\n\x00"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("named", [False, True])
def test_a_full_disk_names_the_final_path(tmp_path, code, named):
    path = tmp_path / "world.safetensors"
    with pytest.raises(OSError) as error, replacing(path) as partial:
        partial.write_bytes(b"half")
        raise OSError(code, os.strerror(code), *([str(partial)] if named else []))
    assert (error.value.errno, error.value.filename) == (code, str(path))
    assert os.strerror(code) in str(error.value)
    assert os.listdir(tmp_path) == []


def test_other_errors_are_told_of_the_file_they_are_of(tmp_path):
    path = tmp_path / "nowhere" / "a.json"
    with pytest.raises(FileNotFoundError) as error:
        write_atomically(path, "text")
    assert error.value.filename == str(path)
    with pytest.raises(FileNotFoundError) as error, replacing(tmp_path / "a.json"):
        (tmp_path / "input.txt").read_bytes()
    assert error.value.filename == str(tmp_path / "input.txt")


def test_sync_comes_before_the_name(tmp_path, monkeypatch):
    path, seen = tmp_path / "a.json", []
    monkeypatch.setattr(atomic.os, "fsync", lambda _: seen.append(path.exists()))
    write_atomically(path, "text")
    assert seen == []
    path.unlink()
    write_atomically(path, "text", sync=True)
    assert seen == [False] and path.exists()
