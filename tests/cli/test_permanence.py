"""`mirage evaluate --protocol=permanence` on a few small rooms, without weights."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from data_pipelines.due_again import history_frames
from data_pipelines.loading import ClipSource
from data_pipelines.recording import record
from data_pipelines.sources.procedural import ProceduralSource
from helpers import paths
from helpers.command_line import assert_refused
from mirage_jax.cli.helpers import permanence
from mirage_jax.evaluation.permanence import videos
from mirage_jax.io.pictures import enlarge
from mirage_jax.io.video import write_video

OPTIONS = ["--protocol=permanence", "--config.worlds=('procedural_bodies',)", "--least_pixels=20"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    path = tmp_path_factory.mktemp("living")
    source = ProceduralSource(size=32, frames=17, bodies=1, skip=6, eval_worlds=2)
    record(source, path, "eval", 2, workers=0, progress=False, seed=5)
    return path


@pytest.fixture
def worlds(recorded, tmp_path):
    """The work directory of `call`, with the clips."""
    path = tmp_path / "run" / "worlds" / "procedural_bodies"
    shutil.copytree(recorded, path)
    return path


def test_baselines_and_folders_are_scored(call, worlds, tmp_path):
    folder = tmp_path / "peer"
    folder.mkdir()
    source = ClipSource(worlds, "eval")
    for clip in map(source.clip, range(len(source))):
        video = enlarge(clip.video[history_frames(clip) :], 2)
        write_video(folder / f"{videos.file_name(clip)}.mp4", video, 8, scale=1, crf=0)
    code, out, err = call("evaluate", *OPTIONS, f"--videos=peer={folder}")
    assert code == 0, err
    assert "no trained weights, baselines and videos alone are scored" in " ".join(out.split())
    found = json.loads((tmp_path / "run" / "permanence.json").read_text())
    assert found["views"] >= 1 and found["pixels"] == 20 and found["clips"] == 2
    for method in ("peer", "oracle_state"):
        assert found["methods"][method]["present"]["value"] == 1.0
        assert found["methods"][method]["state_error"]["value"] in (0.0, None)
    assert found["methods"]["nothing_remembered"]["present"]["value"] == 0.0
    assert "nothing" in out and "remembered" in out and "peer" in out
    if (tmp_path / "run" / "permanence.png").exists():
        assert np.asarray(Image.open(tmp_path / "run" / "permanence.png")).shape[2] == 3


def test_cases_are_written_and_nothing_is_scored(call, worlds, tmp_path):
    code, _, err = call("evaluate", *OPTIONS, f"--cases={tmp_path / 'cases'}")
    assert code == 0, err
    assert len(list((tmp_path / "cases").glob("*/clip.json"))) == 2
    assert not (tmp_path / "run" / "permanence.json").exists()


def test_what_cannot_be_scored_is_refused(call, worlds, tmp_path):
    assert_refused(call("evaluate", *OPTIONS, "--videos=peer"), "--videos: found 'peer'")
    for name in ("oracle_state", "memory"):
        taken = call("evaluate", *OPTIONS, f"--videos={name}={tmp_path}")
        assert_refused(taken, f"--videos: found {name!r}, expected a name of its own")
    both = (f"--videos=peer={tmp_path}", "--pairs")
    assert_refused(call("evaluate", *OPTIONS, *both), "--pairs: found --videos too")
    assert_refused(call("evaluate", "--pairs"), "--pairs", "expected --protocol=permanence")
    assert_refused(call("evaluate", *OPTIONS, f"--videos=peer={tmp_path}"), "found no file")
    shutil.rmtree(worlds)
    record(ProceduralSource(size=8, frames=10), worlds, "eval", 1, workers=0, progress=False)
    assert_refused(call("evaluate", *OPTIONS), "found no bodies, expected their states")
    places = call("evaluate", "--protocol=permanence", "--config.worlds=('procedural',)")
    assert_refused(places, "expected one in which bodies walk, such as labmaze_bodies")


def test_what_cannot_be_written_or_read_is_found_first(call, worlds, tmp_path, monkeypatch):
    monkeypatch.setattr(permanence, "_model", pytest.fail)
    monkeypatch.setattr(videos, "write_case", pytest.fail)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "peer").mkdir()
    missing = call("evaluate", *OPTIONS, "--videos=peer=~/peer")
    assert_refused(missing, str(tmp_path / "peer"), "found no file, expected the video of clip")
    sheet = tmp_path / "run" / "permanence.png"
    Image.new("RGB", (4, 4)).save(sheet)
    theirs = sheet.read_bytes()
    assert_refused(call("evaluate", *OPTIONS), f"{sheet} is there already and is no contact sheet")
    assert sheet.read_bytes() == theirs
    assert_refused(call("evaluate", *OPTIONS, f"--cases={sheet}"), "--cases", "is no folder")


def test_the_python_of_the_page_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names, printed = {}, []
    names["print"] = lambda *words: printed.append(words)
    page = (paths.ROOT / "docs" / "permanence.md").read_text()
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "docs/permanence.md", "exec"), names)
    np.testing.assert_array_equal(names["recorded"].picture, names["clip"].video[20])
    assert names["track"].shape == (120, 3) and printed[0][1] == "judged views"
