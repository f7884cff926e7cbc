"""mirage compile: the command as it is called, and how the step talks between eight fake devices.

The numbers are golden: a lost sharding shows as other collectives. What they must at least be is
worked out from the sizes of the parameters.
"""

import functools
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from rich.console import Console

from helpers import paths
from mirage_jax.cli import compile as command

ROOT = paths.ROOT


@functools.cache
def compiled(folder, *arguments, config="wan22_5b_memory.py", program="train"):
    """What the command wrote, and what it printed."""
    env = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_DEFAULT_PRNG_IMPL": "rbg",
        "COLUMNS": "120",
        "PYTHONPATH": str(ROOT),
    }
    line = (
        f"-m mirage_jax.cli.main compile --config={ROOT}/experiments/{config} "
        f"--config.tiny=true --topology=cpu:8 --workdir={folder} --program={program}"
    )
    result = subprocess.run(
        [sys.executable, *line.split(), *arguments], env=env, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    (path,) = Path(folder).glob("compile/*.json")
    return json.loads(path.read_text()), result.stdout


@pytest.fixture(scope="module")
def branch(tmp_path_factory):
    """The branch beside a frozen backbone, parameters split over eight devices."""
    return compiled(tmp_path_factory.mktemp("branch"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Everything trained; data, parameters and layers each split over two devices."""
    mesh = {"data": 2, "fsdp": 2, "tensor": 2}
    arguments = [f"--config.mesh.{axis}={size}" for axis, size in mesh.items()]
    folder = tmp_path_factory.mktemp("whole")
    return compiled(folder, *arguments, "--config.denoiser_training.trained=all")


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    """A low-rank adapter of the backbone beside the branch; clips split over two devices."""
    arguments = ["--config.mesh.data=2", "--config.mesh.fsdp=4"]
    return compiled(tmp_path_factory.mktemp("joint"), *arguments, config="wan22_5b_joint.py")


def counts(report):
    """{kind: (written, executed)} of the collectives of the training step."""
    found = report["programs"]["train"]["program"]["collectives"]
    return {kind: (traffic["static"], traffic["executed"]) for kind, traffic in found.items()}


GOLDEN = {
    "0.10.2": {
        "branch": {"all-gather": (82, 114), "all-reduce": (26, 26)},
        "joint": {"all-gather": (90, 130), "all-reduce": (9, 12)},
        "whole": {
            "all-gather": (96, 133),
            "all-reduce": (50, 69),
            "all-to-all": (3, 3),
            "collective-permute": (29, 29),
        },
    },
    "0.12.0.1": {
        "branch": {"all-gather": (82, 114), "all-reduce": (26, 26)},
        "joint": {"all-gather": (90, 130), "all-reduce": (9, 12)},
        "whole": {
            "all-gather": (96, 133),
            "all-reduce": (51, 70),
            "all-to-all": (3, 3),
            "collective-permute": (29, 29),
        },
    },
}
"""Every version of XLA places collectives its own way."""


@pytest.mark.skipif(jax.__version__ not in GOLDEN, reason="no golden numbers for this XLA")
@pytest.mark.parametrize(
    "run", ["branch", *(pytest.param(run, marks=pytest.mark.long) for run in ("joint", "whole"))]
)
def test_collectives_of_the_training_step(run, request):
    report, _ = request.getfixturevalue(run)
    assert counts(report) == GOLDEN[jax.__version__][run]


def test_gradients_of_the_branch_alone_are_summed(branch):
    step = branch[0]["programs"]["train"]
    summed = step["program"]["collectives"]["all-reduce"]["payload"]
    # float32; beside them a few scalars and what the loss averages.
    assert 4 * step["trained"] <= summed < 1.1 * 4 * step["trained"]
    gathered = step["program"]["collectives"]["all-gather"]["payload"]
    every = 4 * (step["trained"] + step["frozen"])
    # Forwards and, as blocks are computed again, backwards; never once per device.
    assert every < gathered < 3 * every


def test_a_device_holds_its_share_of_the_state(branch, whole):
    batch = 30_000  # bytes of a tiny clip, at most
    step = branch[0]["programs"]["train"]
    share = (3 * 4 * step["trained"] + 4 * step["frozen"]) / 8
    assert share < step["memory"]["arguments"] < 1.02 * share + batch
    step = whole[0]["programs"]["train"]
    assert step["frozen"] == 0
    # A quarter where both axes split a parameter, half where one does.
    whole_state = 3 * 4 * step["trained"]
    assert whole_state / 4 < step["memory"]["arguments"] < whole_state / 2 + batch


@pytest.mark.long
def test_a_student_holds_its_average_and_its_teachers_branch_besides(branch, tmp_path):
    report, printed = compiled(tmp_path, config="distill.py:wan22_5b", program="distill")
    step, teacher = report["programs"]["distill"], branch[0]["programs"]["train"]
    assert step["trained"] == teacher["trained"]
    assert step["frozen"] == teacher["frozen"] + teacher["trained"]
    # Parameters, their average and two moments of each.
    share = (4 * 4 * step["trained"] + 4 * step["frozen"]) / 8
    assert share < step["memory"]["arguments"] < 1.02 * share + 30_000
    assert f"{step['trained']:,} / {step['frozen']:,}" in printed


@pytest.mark.long
def test_matching_trains_two_branches_beside_the_teachers(branch, tmp_path):
    report, _ = compiled(tmp_path, config="distill.py:wan22_5b", program="match")
    step, teacher = report["programs"]["match"], branch[0]["programs"]["train"]
    assert step["trained"] == 2 * teacher["trained"]
    # Beside them geometry head and encoder, through which rollouts go.
    assert step["frozen"] > teacher["frozen"] + teacher["trained"]


def test_what_is_printed_is_what_is_written(branch):
    report, printed = branch
    assert report["mesh"] == {"data": 1, "fsdp": 8, "context": 1, "tensor": 1}
    step = report["programs"]["train"]
    assert step["memory"]["fits"] is None and step["roofline"] is None
    for text in ("fsdp=8", f"{step['trained']:,} / {step['frozen']:,}", "all-gather"):
        assert text in printed


def test_a_best_time_is_printed_with_what_it_assumes(branch):
    report = json.loads(json.dumps(branch[0]))
    best = {"compute": 2.0, "hbm": 0.5, "ici": 0.25, "overlapped": 2.0, "serial": 2.75}
    report["programs"]["train"]["roofline"] = best | {"assumes": "links at their peak"}
    console = Console(record=True, file=io.StringIO(), width=120)
    console.print(command.table(report))
    text = console.export_text()
    assert "2.000 to 2.750 s" in text and "links at their peak" in text


@pytest.mark.parametrize(
    ("context", "tensor", "expected"),
    [(1, 4, "splash"), (4, 1, "ulysses:splash"), (4, 2, "ulysses:splash"), (4, 12, "ring")],
)
def test_attention_on_tpus_is_what_auto_would_take_there(context, tensor, expected):
    assert command.tpu_attention(24, {"context": context, "tensor": tensor}) == expected
