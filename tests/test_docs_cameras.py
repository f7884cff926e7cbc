"""docs/cameras.md: its examples run, its table and names are those of the code."""

import re
import shlex
import sys

import numpy as np
import pytest
from absl.testing import flagsaver

from helpers import paths
from mirage_jax import trajectories
from mirage_jax.cli import trajectory
from mirage_jax.io import camera_files
from mirage_jax.io.camera_files import CameraRecord
from mirage_jax.trajectories.composed import BACK, STEPS

PAGE = (paths.ROOT / "docs" / "cameras.md").read_text()


def test_its_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = trajectories.make("look_and_walk", 81)
    camera_files.write("walk.npz", CameraRecord(path))
    np.save("plain.npy", path)
    blocks = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) > 5
    for command in commands:
        program, name, *words = shlex.split(command)
        assert (program, name) == ("mirage", "trajectory")
        monkeypatch.setattr(sys, "argv", ["mirage trajectory", *words])
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as leave:
            trajectory.cli()
        assert not leave.value.code, f"{command}: {capsys.readouterr()}"
    half = camera_files.read("path.npz").cam2world
    np.testing.assert_allclose(half[:, :3, 3], 0.5 * path[:, :3, 3], atol=1e-9)
    lens = camera_files.read("zoom.npz").intrinsics  # a metre farther from what was 3 m away
    np.testing.assert_allclose(lens[-1, :2] / lens[0, :2], 4 / 3)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "cameras.md", "exec"), {})
    assert "format: transforms" in capsys.readouterr().out


def test_its_table_is_the_registry():
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE, re.MULTILINE)
    assert [name for name, _ in rows] == list(camera_files.FORMATS)
    for name, row in rows:
        kind = camera_files.FORMATS[name]
        cells = (kind.title, kind.layout, kind.direction, kind.axes, kind.intrinsics, kind.units)
        assert row == " | ".join([*cells, "yes" if kind.write else "no"])


def test_it_names_every_path_and_step():
    said = set(re.findall(r"`([a-z_]+)`", PAGE))
    assert set(trajectories.NAMES) <= said
    assert {BACK, *STEPS} <= said
