"""Files written beside their place: whole or not at all, and errors that name the file."""

import errno
import os
import subprocess
import sys
import threading
import time

import pytest

from mirage_jax.io import atomic
from mirage_jax.io.atomic import partial_path, read_unchanged, replacing, write_atomically


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


def test_two_writers_at_once_do_not_meet(tmp_path):
    path, names, both = tmp_path / "a.bin", set(), threading.Barrier(2)

    def write(content):
        with replacing(path) as partial:
            names.add(partial)
            partial.write_bytes(content)
            both.wait()  # the other has begun, too

    threads = [threading.Thread(target=write, args=(bytes([n]) * 1000,)) for n in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names) == 2 and os.listdir(tmp_path) == ["a.bin"]
    assert path.read_bytes() in (b"\1" * 1000, b"\2" * 1000)


def left_by(path, host, process, days=0.0):
    """A temporary file of a writer of `path`."""
    name = partial_path(path).name.replace(str(os.getpid()), str(process))
    left = path.with_name(name.replace(atomic._host(), host))
    left.write_bytes(b"half")
    then = time.time() - days * 86_400
    os.utime(left, (then, then))
    return left


def test_what_nobody_writes_to_any_more_goes_with_the_next_write(tmp_path):
    path, here = tmp_path / "a[1].json", atomic._host()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    living = os.getppid()
    stays = {
        left_by(path, here, living),
        left_by(path, "elsewhere", ended.pid, days=0.9),
        left_by(tmp_path / "b.json", here, ended.pid),  # of another file
    }
    nested = left_by(path, here, ended.pid)
    goes = [left_by(path, "elsewhere2", living, days=1.1)]
    goes.append(nested.rename(tmp_path / f".{nested.stem}.partial-{here}-{ended.pid}-2.json"))
    goes.append(left_by(path, here, ended.pid))
    write_atomically(path, "{}")
    assert set(tmp_path.iterdir()) == {*stays, path}
    assert not any(left.exists() for left in goes)


def test_a_file_that_is_replaced_while_it_is_read_is_read_anew(tmp_path):
    path, reads = tmp_path / "a", []
    write_atomically(path, "0")

    def read():
        reads.append(path.read_text())
        if len(reads) < 3:
            write_atomically(path, f"{len(reads)}")
            raise ValueError("parts of two")
        return reads[-1]

    assert read_unchanged(path, read) == "2"
    with pytest.raises(ValueError, match="damaged"):
        read_unchanged(path, lambda: (_ for _ in ()).throw(ValueError("damaged")))


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS])
def test_errors_of_a_disk_that_name_no_file_name_the_one_that_is_written(tmp_path, code):
    with pytest.raises(OSError) as error, replacing(tmp_path / "a"):
        raise OSError(code, os.strerror(code))
    assert (error.value.errno, error.value.filename) == (code, str(tmp_path / "a"))
    with pytest.raises(ConnectionError) as error, replacing(tmp_path / "a"):
        raise ConnectionError(errno.ECONNRESET, "of something else")
    assert error.value.filename is None
