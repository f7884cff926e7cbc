"""mirage compile: the command as it is called, and how the step talks between eight fake devices.

The numbers are golden: a lost sharding shows as other collectives. What they must at least be is
worked out from the sizes of the parameters.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mirage_jax.cli import common
from mirage_jax.cli import compile as command

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "experiments" / "wan22_5b_memory.py"


@functools.cache
def compiled(folder, *arguments):
    """What the command wrote, and what it printed."""
    env = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiles faster
        "JAX_DEFAULT_PRNG_IMPL": "rbg",
        "COLUMNS": "120",
        "PYTHONPATH": str(ROOT),
    }
    line = (
        f"-m mirage_jax.cli.main compile --config={CONFIG} --config.tiny=true --topology=cpu:8 "
        f"--workdir={folder} --program=train"
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
    arguments = ("--mesh=data=2,fsdp=2,tensor=2", "--config.denoiser_training.trained=all")
    return compiled(tmp_path_factory.mktemp("whole"), *arguments)


def test_the_mesh_is_the_configs_but_for_what_the_line_says():
    config = common.load_config(str(CONFIG))
    assert command.mesh_axes(config, "") == {"data": 1, "fsdp": -1, "context": 1, "tensor": 1}
    assert command.mesh_axes(config, "data=2,fsdp=64")["fsdp"] == 64
    for wrong in ("fdsp=2", "fsdp", "fsdp=two"):
        with pytest.raises(common.UserError, match=f"--mesh: found '{wrong}', expected axis=size"):
            command.mesh_axes(config, wrong)
