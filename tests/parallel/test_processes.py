"""Several processes as one program: the same run as in one, and clear words where it cannot be."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from mirage_jax import parallel
from mirage_jax.parallel import processes
from mirage_jax.training import checkpoints
from mirage_jax.training.metrics import read_metrics

PROGRAM = Path(__file__).with_name("two_processes.py")
ROOT = PROGRAM.parents[2]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(workdir, devices, port, count, number):
    coordinator = f"127.0.0.1:{port}"
    arguments = (sys.executable, PROGRAM, workdir, devices, coordinator, count, number)
    folders = (ROOT, ROOT / "tests", ROOT / "tests" / "training")
    return subprocess.Popen(
        list(map(str, arguments)),
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join(map(str, folders)),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(workdir, devices, count):
    port = free_port()
    running = [start(workdir, devices, port, count, number) for number in range(count)]
    outputs = [process.communicate(timeout=120) for process in running]
    for process, (out, err) in zip(running, outputs, strict=True):
        assert process.returncode == 0, out + err
    return [line for out, _ in outputs for line in out.splitlines()]


def test_two_processes_of_two_devices_are_one_of_four(tmp_path):
    said = run(tmp_path / "two", 2, 2)
    assert "process 0 (0, 2) (2, 8)" in said and not any(s.startswith("process 1") for s in said)
    kernels = [line.split()[2:] for line in said if line.startswith("kernel")]
    assert len(kernels) == 2 and kernels[0] == kernels[1]
    assert "process 0 (0, 1) (2, 8)" in run(tmp_path / "one", 4, 1)
    for name in ("params", "ema"):
        two, one = (
            checkpoints.load_params(tmp_path / folder, ema=name == "ema")
            for folder in ("two", "one")
        )
        for layer in one:
            # Sums over devices in another order; Adam passes roundings on at full size.
            np.testing.assert_allclose(two[layer]["kernel"], one[layer]["kernel"], atol=1e-6)
    lines = [read_metrics(tmp_path / folder / "metrics.jsonl") for folder in ("two", "one")]
    for two, one in zip(*lines, strict=True):
        for name in two:
            if not name.startswith("time/"):
                assert two[name] == pytest.approx(one[name], rel=1e-5), name


def test_a_process_that_does_not_come_is_named():
    code = f"""
from mirage_jax.parallel import processes
try:
    processes.initialize("127.0.0.1:{free_port()}", processes=3, process=0, timeout=2)
except ValueError as error:
    print("refused:", error, flush=True)
"""
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60
    )
    assert "refused: the processes of this run did not come together within 2 s" in done.stdout
    assert "no word from process 1, 2" in done.stdout


def test_the_coordination_service_is_understood():
    message = (
        "DEADLINE_EXCEEDED: Barrier timed out. Id: PJRT_Client_Connect::0. # of tasks that reached "
        "the barrier: 1/3. The first task at the barrier: /job:jax_worker/replica:0/task:0. Some "
        "timed out task names:\n/job:jax_worker/replica:0/task:2\n/job:jax_worker/replica:0/task:1"
    )
    assert processes.absent(message) == [1, 2]
    assert processes.absent("UNAVAILABLE: no connection to task:0") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"processes": 2}, "found 2 .* without a coordinator"),
        ({"coordinator": "host", "processes": 2, "process": 0}, "found 'host', expected host:port"),
        ({"coordinator": "host:1", "processes": 2, "process": 2}, "process: found 2 of 2"),
        ({"coordinator": "host:1"}, "process: found -1 of 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        processes.initialize(**arguments)


def test_alone_unless_a_launcher_says_otherwise(monkeypatch):
    called = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: called.append(options))
    assert not processes.initialize(environment={})
    assert not processes.initialize(environment={"SLURM_STEP_NUM_TASKS": "1"})
    assert called == []
    for several in ({"SLURM_STEP_NUM_TASKS": "4"}, {"JAX_COORDINATOR_ADDRESS": "a:1"}):
        processes.initialize(environment=several)
    processes.initialize("auto", environment={})
    assert len(called) == 3 and all("coordinator_address" not in options for options in called)
    processes.initialize("a:1", processes=2, process=1, environment={}, timeout=7)
    assert called[-1]["process_id"] == 1 and called[-1]["initialization_timeout"] == 7


def test_a_failure_is_never_passed_over(monkeypatch):
    def fails(**_):
        raise RuntimeError("nobody there")

    monkeypatch.setattr(jax.distributed, "initialize", fails)
    with pytest.raises(ValueError, match=r"\(coordinator auto\): nobody there"):
        processes.initialize("auto", environment={})


@pytest.mark.devices(4)
def test_the_share_of_a_process_is_what_its_devices_hold():
    for sizes in ({"data": 4}, {"data": 2, "context": 2}, {"data": 1, "tensor": 4}):
        assert processes.batch_share(parallel.make_mesh(**sizes)) == (0, 1)
