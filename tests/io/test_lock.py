"""One writer at a time: who is refused, and what a killed owner leaves."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mirage_jax.io import lock
from mirage_jax.io.lock import LockedError, locked

HOLDER = """
import os, sys, time
from mirage_jax.io.lock import locked
with locked(sys.argv[1], "training"):
    if len(sys.argv) == 2:
        print("held", flush=True)
    elif os.fork() == 0:
        print("child", os.getpid(), flush=True)
        time.sleep(60)
    sys.stdin.read()
"""


@pytest.fixture
def hold(tmp_path):
    """Starts a process that holds `tmp_path/lock`."""
    started = []

    def start(*more):
        command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock"), *more]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_second_is_told_who_holds_it_since_when_and_what_to_do(tmp_path, hold):
    process = hold()
    assert process.stdout.readline() == "held\n"
    with pytest.raises(LockedError) as error, locked(tmp_path / "lock", "more training"):
        pass
    said = str(error.value)
    assert said.startswith(f"{tmp_path}: process {process.pid} on ")
    assert time.strftime(" since %Y-") in said and "(training)" in said and "wait for it" in said
    process.communicate()
    assert not (tmp_path / "lock").exists()
    with locked(tmp_path / "lock", "more training"):
        assert json.loads((tmp_path / "lock").read_text())["process"] == os.getpid()


@pytest.mark.parametrize("forks", [False, True])
def test_a_killed_owner_is_succeeded_at_once(tmp_path, hold, forks):
    process = hold(*["fork"] * forks)
    said = process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "lock").exists()
    start = time.monotonic()
    try:
        with locked(tmp_path / "lock", "training"):
            assert time.monotonic() - start < 1
    finally:
        if forks:
            os.kill(int(said.split()[1]), signal.SIGKILL)


def test_threads_of_one_process_exclude_each_other(tmp_path):
    with locked(tmp_path / "lock", "one"):
        with pytest.raises(LockedError), locked(tmp_path / "lock", "two"):
            pass
        with locked(tmp_path / "other" / "lock", "elsewhere"):
            pass
        with locked(tmp_path / "lock", "one", active=False):  # another process of the same run
            pass
        assert (tmp_path / "lock").exists()
    with pytest.raises(KeyError), locked(tmp_path / "lock", "one"):
        raise KeyError
    assert [p.name for p in tmp_path.iterdir()] == ["other"]


@pytest.fixture
def of_another_host(tmp_path, monkeypatch):
    """A lock file of another host, on a file system whose `flock` does not reach there."""
    monkeypatch.setattr(lock, "RENEWED_EVERY", 0.1)
    monkeypatch.setattr(lock, "_WATCHED", 0.6)
    owner = {"host": "far", "process": 7, "since": "2026-01-01 00:00:00 +0000", "task": "training"}
    (tmp_path / "lock").write_text(json.dumps(owner))
    return tmp_path / "lock"


@pytest.mark.parametrize("error", [None, errno.ENOLCK, errno.EOPNOTSUPP])
def test_an_owner_on_another_host_that_gives_signs_of_life_is_respected(
    of_another_host, monkeypatch, error
):
    if error:

        def unsupported(*_):
            raise OSError(error, "not here")

        monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    done = threading.Event()

    def renew():
        while not done.wait(0.1):
            os.utime(of_another_host)

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        refused = pytest.raises(LockedError, match="process 7 on far since 2026-01-01")
        with refused, locked(of_another_host, "training"):
            pass
    finally:
        done.set()
        thread.join()
    assert json.loads(of_another_host.read_text())["host"] == "far"
    # It has been killed: nothing renews it.
    with locked(of_another_host, "training"):
        assert json.loads(of_another_host.read_text())["process"] == os.getpid()
        first = of_another_host.stat().st_mtime_ns
        time.sleep(0.4)
        assert of_another_host.stat().st_mtime_ns > first


def test_an_owner_that_ends_while_it_is_watched_leaves_the_lock(of_another_host):
    threading.Timer(0.2, of_another_host.unlink).start()
    with locked(of_another_host, "training"):
        assert json.loads(of_another_host.read_text())["process"] == os.getpid()
        with pytest.raises(LockedError), locked(of_another_host, "training"):
            pass


def test_an_owner_long_dead_is_not_waited_for(of_another_host, monkeypatch):
    monkeypatch.setattr(lock, "_WATCHED", 60.0)
    long_ago = time.time() - 3600
    os.utime(of_another_host, (long_ago, long_ago))
    start = time.monotonic()
    with locked(of_another_host, "training"):
        assert time.monotonic() - start < 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": "far"}'])
def test_a_file_that_says_nothing_holds_nothing(tmp_path, text):
    (tmp_path / "lock").write_text(text)
    with locked(tmp_path / "lock", "training"):
        assert json.loads((tmp_path / "lock").read_text())["task"] == "training"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), locked(tmp_path / "file" / "lock", "training"):
        pass
