"""The scripts of experiments/launch, run with stand-ins for what a cluster would have."""

import os
import shlex
import subprocess

import pytest
import yaml
from absl import flags

from helpers import paths
from mirage_jax.cli import train  # noqa: F401, defines the flags

LAUNCH = paths.EXPERIMENTS / "launch"
CONFIG = "experiments/worlds_128.py"
EXTRA = ["--stage=denoiser", "--note=two words"]


class Cluster:
    """A folder of stand-in commands that note how they were called, one line each."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "bin").mkdir()
        self.environment = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "HOME": str(folder)}

    def add(self, name, *statuses):
        """A command that ends with these statuses in turn, the last one from then on."""
        counter = self.folder / f"{name}.count"
        turns = " ".join(map(str, statuses or (0,)))
        script = f"""#!/bin/bash
        printf '%q ' {name} "$@" >> {self.folder}/calls; echo >> {self.folder}/calls
        echo "$JAX_LOCAL_DEVICE_IDS" > {self.folder}/devices
        statuses=({turns}); n=$(wc -l 2>/dev/null < {counter} || echo 0); echo >> {counter}
        exit "${{statuses[$((n < ${{#statuses[@]}} ? n : ${{#statuses[@]}} - 1))]}}"
        """
        path = self.folder / "bin" / name
        path.write_text(script)
        path.chmod(0o755)

    def run(self, *command, **variables):
        environment = self.environment | variables
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    def calls(self):
        return [shlex.split(line) for line in (self.folder / "calls").read_text().splitlines()]


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)


def train_call(workdir, *first):
    return ["mirage", "train", *first, f"--config={CONFIG}", f"--workdir={workdir}", *EXTRA]


@pytest.mark.parametrize(
    ("statuses", "times", "status"),
    [((0,), 1, 0), ((1, 137, 0), 3, 0), ((2,), 1, 2), ((1, 143), 2, 143), ((1,), 5, 1)],
)
def test_one_machine_tries_again_after_a_crash_and_no_more(cluster, statuses, times, status):
    cluster.add("mirage", *statuses)
    cluster.add("sleep")
    done = cluster.run("sh", LAUNCH / "one_machine.sh", CONFIG, "a run", *EXTRA)
    assert done.returncode == status
    calls = [call for call in cluster.calls() if call[0] == "mirage"]
    assert calls == [train_call("a run")] * times
    assert done.stderr.count("attempt") == times - 1


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (143, True), (1, False)])
def test_slurm_takes_every_gpu_of_a_node_and_goes_on_after_its_time(cluster, status, requeued):
    cluster.add("srun", status)
    cluster.add("scontrol")
    done = cluster.run(
        "bash", LAUNCH / "slurm_gpu.sh", CONFIG, "/runs/a b", *EXTRA,
        SLURM_GPUS_ON_NODE="4", SLURM_JOB_ID="17",
    )  # fmt: skip
    assert done.returncode == status
    calls = cluster.calls()
    expected = train_call("/runs/a b", "--coordinator=auto")
    assert calls[0] == ["srun", "--kill-on-bad-exit=1", *expected]
    assert calls[1:] == ([["scontrol", "requeue", "17"]] if requeued else [])
    srun_environment = (cluster.folder / "devices").read_text()
    assert requeued or srun_environment.strip() == "0,1,2,3"


def test_every_host_of_a_tpu_slice_gets_the_arguments_as_they_were(cluster):
    cluster.add("gcloud")
    cluster.add("mirage")
    (cluster.folder / "mirage_jax").mkdir()
    script = LAUNCH / "tpu_vm.sh"
    done = cluster.run("bash", script, CONFIG, "/mnt/a b", *EXTRA, TPU="slice", ZONE="z-1")
    assert done.returncode == 0
    (call,) = cluster.calls()
    assert call[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "slice"]
    assert call[6:8] == ["--zone=z-1", "--worker=all"]
    remote = call[8].removeprefix("--command=")
    assert cluster.run("bash", "-c", remote).returncode == 0
    assert cluster.calls()[1] == train_call("/mnt/a b", "--coordinator=auto")


@pytest.mark.parametrize("script", sorted(LAUNCH.glob("*.sh")), ids=lambda path: path.name)
def test_a_missing_argument_is_named(cluster, script):
    done = cluster.run("bash", script, TPU="slice", ZONE="z")
    assert done.returncode != 0 and "a config, such as experiments/" in done.stderr
    done = cluster.run("bash", script, CONFIG, TPU="slice", ZONE="z")
    assert done.returncode != 0 and "a work directory" in done.stderr


def test_the_jobset_has_a_host_for_every_four_chips_and_known_flags():
    (jobs,) = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())["spec"]["replicatedJobs"]
    job = jobs["template"]["spec"]
    pod = job["template"]["spec"]
    rows, columns, layers = map(
        int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    )
    (container,) = pod["containers"]
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert job["parallelism"] == job["completions"] == rows * columns * layers // chips
    assert container["command"] == ["mirage", "train"]
    names = [argument.removeprefix("--").partition("=")[0] for argument in container["args"]]
    assert set(names) <= set(flags.FLAGS)
    config = dict(zip(names, container["args"], strict=True))["config"].partition("=")[2]
    assert (LAUNCH.parents[1] / config).exists()
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    workdir = dict(zip(names, container["args"], strict=True))["workdir"].partition("=")[2]
    assert workdir in mounts
