"""`mirage evaluate --protocol=tracks`: what it prints and writes, and which worlds it takes."""

import json
import types

import pytest
from rich.console import Console

from data_pipelines.loading import ClipSource
from data_pipelines.recording import record
from data_pipelines.sources.procedural import ProceduralSource
from helpers.command_line import assert_refused
from mirage_jax.cli.helpers import model_flags, permanence, tracks, world_names
from mirage_jax.cli.helpers.common import UserError
from mirage_jax.evaluation.permanence import tracks as scoring
from mirage_jax.io.workdir import Workdir


def test_what_was_found_is_printed_and_written(call, tmp_path, monkeypatch):
    asked = []

    def score(clips, keep):
        clips = list(clips)
        told = keep(clips[0])
        asked.append((clips, told))
        views = [scoring.View(w, 16, 2.0, 1.5, None if told else 0.5) for w in ("a", "b", "c")]
        return scoring.Scores(views, [("a", 1.0), ("b", 2.0)], [("a", 0.0)], [("a", 1.0)])

    clip = types.SimpleNamespace(clip=lambda: "clip")
    found = {"procedural_bodies": [clip], "freedoom_bodies": [clip, clip]}
    monkeypatch.setattr(model_flags, "world_model", lambda *_: None)
    monkeypatch.setattr(permanence, "recorded_by_world", lambda *_: found)
    monkeypatch.setattr(scoring, "score_clips", score)
    monkeypatch.setattr(scoring, "kept_by", lambda model, clip, *, told: told)
    (tmp_path / "run").mkdir(exist_ok=True)
    code, _, err = call("evaluate", "--protocol=tracks")
    assert code == 0, err
    assert [told for _, told in asked] == [False, True] * 2
    assert [len(clips) for clips, _ in asked] == [1, 1, 2, 2]
    written = json.loads((tmp_path / "run" / "tracks.json").read_text())
    head, true = (written["worlds"]["freedoom_bodies"][maps] for maps in ("head", "true"))
    assert head["tracked"]["value"] == 1.0 and true["tracked"]["value"] == 0.0
    assert head["state_error"]["value"] == 0.25 and head["hallucinated"]["value"] == 1.5
    console = Console(width=80, record=True)
    for table in tracks.tables(written):
        console.print(table)
    text = " ".join(console.export_text().split())
    assert "in the table % │ 100 (3) │ 0 (3)" in text
    assert "state error, 16 frames hidden │ 0.25 (3) │ -" in text
    assert "freedoom_bodies, 2 clips" in text and "…" not in text


def test_pictures_are_judged_where_they_can_be_rendered_again(tmp_path):
    workdir, worlds = Workdir(tmp_path), ("procedural", "freedoom_bodies", "procedural_bodies")
    source = ProceduralSource(size=16, frames=17, bodies=1, eval_worlds=1)
    for name in worlds[1:]:
        record(source, workdir.worlds(name), "eval", 1, workers=0, progress=False)
    assert list(permanence.recorded_by_world(worlds, workdir)) == list(worlds[1:])
    assert [one.folder for one in permanence.recorded(worlds, workdir)] == [
        workdir.worlds("procedural_bodies")
    ]
    assert isinstance(permanence.recorded(worlds, workdir)[0].source, ClipSource)
    with pytest.raises(UserError, match="found freedoom_bodies, expected one in which bodies walk "
                       "and which can be rendered again"):  # fmt: skip
        permanence.recorded(worlds[1:2], workdir)
    assert world_names.can_be_staged("labmaze_bodies")
    assert not world_names.can_be_staged("freedoom_bodies")


def test_what_cannot_be_scored_is_refused(call):
    refused = call("evaluate", "--protocol=tracks", "--pairs")
    assert_refused(refused, "--pairs: found --protocol=tracks, expected --protocol=permanence")
    assert_refused(call("evaluate", "--protocol=tracks"), "encoder")
