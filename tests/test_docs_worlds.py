"""docs/worlds.md: its Python runs as it stands, and its commands on the world that it makes."""

import re
import shlex
import shutil
import sys

import numpy as np
import pytest
from absl.testing import flagsaver

from helpers import paths
from mirage_jax import trajectories
from mirage_jax.cli import world as command

PAGE = (paths.ROOT / "docs" / "worlds.md").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the page's Python has run, one block after the other, with what it printed."""
    folder = tmp_path_factory.mktemp("worlds")
    names, printed = {}, []
    names["print"] = lambda *words: printed.append(" ".join(map(str, words)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            exec(compile(block, "docs/worlds.md", "exec"), names)
    return folder, printed


def test_the_python_of_the_page_prints_what_it_is_about(folder):
    _, printed = folder
    assert printed[0] == "48 elements deleted; behind them: 4.0 m"
    assert printed[1] == "48 copies, 0 did not fit"
    assert printed[2] == "{'added': 48, 'removed': 0, 'changed': 0}"
    assert printed[3] == "336 elements in the first slots"
    assert "last_frame_cells=48, last_frame_mended=48" in printed[4]
    assert printed[5] == "72 elements deleted, those at the edges of the pillar too"
    assert printed[6].startswith("Timeline(") and printed[6].endswith("bytes")
    assert printed[7] == "{'added': 0, 'removed': 48, 'changed': 0}"
    assert printed[8] == "{'with the pillar': 5}"


COMMANDS = [
    shlex.split(line)
    for line in re.findall(r"^    (mirage world .*)", PAGE.replace("\\\n", ""), re.MULTILINE)
]


def test_commands_of_the_page_run_in_their_order(folder, monkeypatch, capsys):
    where, _ = folder
    monkeypatch.chdir(where)
    for name in ("monday", "tuesday"):
        shutil.copy("walk.world", f"{name}.world")
    trajectories.save("pose.npy", np.eye(4)[None])
    assert len(COMMANDS) >= 12
    for words in COMMANDS:
        if any(word.startswith("--weights") for word in words):
            continue
        if words[2] == "merge" and not any(word.startswith("--pose") for word in words):
            continue  # of two made walls, which tell no pose
        monkeypatch.setattr(sys, "argv", ["mirage world", *words[2:], *size(words)])
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as leave:
            command.cli()
        assert not leave.value.code, (words, capsys.readouterr().err)
    for name in ("walk.html", "fewer.world", "back.world", "both.world", "walk.ply", "walk.glb"):
        assert (where / name).stat().st_size > 1000, name


def size(words):
    """The page's world was made without a camera path."""
    return ["--picture_size=96,128"] if words[2] in ("edit", "export") else []
