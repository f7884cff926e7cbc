"""`mirage quickstart`: the order of its stages and what they took."""

import json

import pytest

from mirage_jax.cli import evaluate, record, train
from mirage_jax.io.workdir import Workdir


@pytest.mark.parametrize("compare", [False, True])
def test_quickstart_runs_every_stage_in_order_and_adds_up_the_time(
    compare, call, monkeypatch, tmp_path
):
    ran, workdir = [], Workdir(tmp_path / "run")

    def trains(config, workdir, console, stage, *, memory="latent"):
        ran.append((stage, memory))
        folder = train.outputs(workdir, stage, memory)[0]
        folder.mkdir(parents=True, exist_ok=True)
        # Everything but the geometry head was finished by an earlier call.
        if (stage, memory) == ("geometry", "latent"):
            (folder / "checkpoint").write_text("new")

    monkeypatch.setattr(record, "run", lambda *_: ran.append("record"))
    monkeypatch.setattr(train, "run", trains)
    monkeypatch.setattr(evaluate, "run", lambda *_: ran.append("evaluate"))
    workdir.root.mkdir()
    workdir.seconds.write_text(json.dumps({"geometry": 100.0, "encoder": 7.0}))
    code, _, _ = call("quickstart", *(["--compare"] if compare else []))
    stages = [("encoder", "latent"), ("cache", "latent"), ("geometry", "latent")]
    others = [("denoiser", "none"), ("cache", "rgb"), ("denoiser", "rgb")]
    expected = ["record", *stages, ("denoiser", "latent"), *(others if compare else []), "evaluate"]
    assert code == 0 and ran == expected
    took = json.loads(workdir.seconds.read_text())
    assert set(took) == {"geometry", "encoder"}
    assert 100 <= took["geometry"] < 110 and took["encoder"] == 7
