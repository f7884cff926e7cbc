"""Several processes as one program: the same run as in one, and clear words where it cannot be."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from helpers import paths
from helpers.ports import free_port
from mirage_jax import parallel
from mirage_jax.parallel import processes
from mirage_jax.training import checkpoints, preemption
from mirage_jax.training.metrics import read_metrics

PROGRAM = paths.HELPERS / "two_processes.py"
ROOT = PROGRAM.parents[2]


def start(workdir, devices, port, count, number, steps=6):
    coordinator = f"127.0.0.1:{port}"
    arguments = (sys.executable, PROGRAM, workdir, devices, coordinator, count, number, steps)
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
    outputs = [process.communicate(timeout=400) for process in running]
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


def test_sigterm_to_one_process_saves_and_ends_all(tmp_path):
    port = free_port()
    running = [start(tmp_path, 2, port, 2, number, steps=10_000) for number in range(2)]
    while not running[0].stdout.readline().startswith("step 3"):
        assert running[0].poll() is None, running[0].stderr.read()
    running[1].terminate()
    outputs = [process.communicate(timeout=200) for process in running]
    assert [process.returncode for process in running] == [143, 143], outputs
    (last,) = checkpoints.saved_steps(tmp_path / "checkpoints")[-1:]
    assert last < 10_000 and last % preemption.SYNC_EVERY == 0


def test_a_process_that_does_not_come_is_named(tmp_path):
    code = f"""
from pathlib import Path
from mirage_jax.parallel import processes
options = dict(timeout=3, folder=Path({str(tmp_path)!r}), heartbeat_every=1)
processes.initialize("127.0.0.1:{free_port()}", processes=3, process=0, **options)
"""
    (tmp_path / "process 2 on elsewhere").touch()
    (tmp_path / "process 1 on elsewhere").touch()  # of a run long ago
    os.utime(tmp_path / "process 1 on elsewhere", (0, 0))
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("waiting for the other")]
    assert said and said[0].endswith("process 2 on elsewhere; no sign of process 1"), done.stderr


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


def test_alone_a_process_feeds_the_whole_batch():
    assert processes.batch_share(parallel.make_mesh()) == (0, 1)


def test_a_coordinator_left_over_in_the_environment_is_named(monkeypatch):
    def fails(**_):
        raise ValueError("Number of processes must be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", fails)
    with pytest.raises(ValueError, match="JAX_COORDINATOR_ADDRESS is 'host:1': unset it"):
        processes.initialize(environment={"JAX_COORDINATOR_ADDRESS": "host:1"})
