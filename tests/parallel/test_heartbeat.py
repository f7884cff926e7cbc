"""What a process reports while it waits for the others."""

import socket
import time

import jax

from mirage_jax.parallel import processes
from mirage_jax.parallel.heartbeat import Heartbeat


def test_the_heartbeat_names_itself_and_leaves_no_file(tmp_path):
    said = []
    with Heartbeat(tmp_path, -1, 0, said.append, every=0.01) as heartbeat:
        assert heartbeat.present() == [socket.gethostname()]
        while not said:
            time.sleep(0.01)
    assert said[0].endswith(f"here: {socket.gethostname()}")
    assert not list(tmp_path.iterdir())


def test_the_hosts_that_do_not_come_are_named(monkeypatch, tmp_path, capsys):
    own = socket.gethostname()
    said = ""

    def waits(**_):
        nonlocal said
        while "\n" not in said:
            time.sleep(0.01)
            said += capsys.readouterr().err

    monkeypatch.setattr(jax.distributed, "initialize", waits)
    (tmp_path / "node2").touch()
    environment = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_JOB_NODELIST": f"{own},node[2-4]"}
    processes.initialize(folder=tmp_path, heartbeat_every=0.01, environment=environment)
    last = said.splitlines()[-1]
    assert last.startswith("waiting for the other processes")
    assert f"here: {', '.join(sorted((own, 'node2')))};" in last
    assert last.endswith("; no sign of node3, node4 (2 of 4)")
