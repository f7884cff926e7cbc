"""`mirage evaluate --protocol=interventions`: what it prints and writes, and what it refuses."""

import json
import types

from rich.console import Console

from helpers.command_line import assert_refused
from mirage_jax.cli.helpers import interventions, model_flags, permanence
from mirage_jax.evaluation.permanence import interventions as scoring
from mirage_jax.evaluation.permanence.summary import Place


def test_what_was_found_is_printed_and_written(call, tmp_path, monkeypatch):
    found = scoring.Found(untracked=4, clips=2)
    places = [Place("maze", True), Place("maze", False), Place("room", True), Place("hall", True)]
    rests = (0.2, 0.4, None, None)
    outcomes = [scoring.Outcome(place, rest) for place, rest in zip(places, rests, strict=True)]
    found.outcomes = {"drawn": {"deleted": outcomes, "moved": []}}
    found.not_shown = {"drawn": {"deleted": 3, "moved": 5}}
    clip = types.SimpleNamespace(source="labmaze", world="maze")
    asked = []

    def score(clips, begin, options):
        asked.append((list(clips), options.pixels))
        return found

    monkeypatch.setattr(model_flags, "world_model", lambda *_: None)
    monkeypatch.setattr(permanence, "recorded_clips", lambda *_: iter([clip]))
    monkeypatch.setattr(scoring, "score_clips", score)
    (tmp_path / "run").mkdir(exist_ok=True)
    code, _, err = call("evaluate", "--protocol=interventions", "--least_pixels=30")
    assert code == 0, err
    assert asked == [([clip], 30)]
    written = json.loads((tmp_path / "run" / "interventions.json").read_text())
    entry = written["methods"]["drawn"]["deleted"]
    assert entry["obeyed"]["value"] == 0.75 and entry["obeyed"]["views"] == 4
    assert entry["not_shown"] == 3 and abs(entry["rest"] - 0.3) < 1e-9
    assert written["methods"]["drawn"]["moved"]["obeyed"]["value"] is None
    assert written["pixels"] == 30 and written["untracked"] == 4
    console = Console(width=120, record=True)
    console.print(interventions.table(written))
    text = " ".join(console.export_text().split())
    assert "75 [" in text and "(4) │ 3 │ +0.30" in text and "- (0) │ 5 │ -" in text


def test_what_cannot_be_scored_is_refused(call):
    assert_refused(call("evaluate", "--protocol=memory", "--bodies"), "found --protocol=memory")
    assert_refused(
        call("evaluate", "--least_pixels=30"), "expected --protocol=permanence or interventions"
    )
    assert_refused(call("evaluate", "--protocol=interventions"), "encoder")
