"""`mirage bench` on small memories."""

import functools
import json
import sys

import pytest
from absl.testing import flagsaver

from data_pipelines import recording
from data_pipelines.sources.procedural import ProceduralSource
from mirage_jax.cli import bench
from mirage_jax.cli.helpers import bench_explore, bench_loader, bench_movers, common
from mirage_jax.evaluation import efficiency, hidden_movers, tile_costs
from mirage_jax.io.strict_json import read_object


def test_bench_prints_and_writes_its_numbers(call, monkeypatch, tmp_path):
    small = functools.partial(
        efficiency.measure,
        chunks=(1,),
        repeats=1,
        read_benchmark={"elements": 700, "channels": 2, "grid": (6, 8), "repeats": 1},
    )
    monkeypatch.setattr(efficiency, "measure", small)
    code, out, _ = call("bench", "--config.tiny=true")
    assert code == 0
    found = json.loads((tmp_path / "run" / "bench_memory.json").read_text())
    for race in found["read_against_sort"].values():
        assert f"{race['ratio']:.1f}x" in out and f"{race['read_ms']:.2f}" in out
    assert (
        "no trained encoder" in out and f"{found['after_chunks']['1']['rgb']['elements']:,}" in out
    )
    # Every frame, twice as fine as the 4x4 latents.
    assert (found["poses_per_chunk"], found["read_grid"]) == (17, [8, 8])
    assert found["pictures_per_chunk"] == 17 and found["frames_written_per_chunk"] == 4


def test_bench_loader_times_every_way_of_storing(monkeypatch, capsys, tmp_path):
    small = ["--room_pixels=16", "--room_width=24", "--recorded_rooms=2", "--window_frames=12"]
    small += ["--batch_windows=2", "--timed_batches=2", "--step_seconds=0.01"]
    here = functools.partial(recording.record, workers=0)
    monkeypatch.setattr(recording, "record", here)
    monkeypatch.setattr(sys, "argv", ["mirage bench", *small])
    where = ["--loader_workers=0", f"--json={tmp_path / 'times.json'}"]
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as leave:
        argv = ["mirage bench", *small, *where]
        common.run(bench_loader.main, bench_loader.__name__, argv, config=False)
    assert not leave.value.code
    found = json.loads((tmp_path / "times.json").read_text())["loader"]
    assert [row["encoding"] for row in found] == ["raw", "lossless", "visually_lossless"]
    out = capsys.readouterr().out
    for row in found:
        assert row["windows_per_s"] > 0 and f"{row['windows_per_s']:,.1f}" in out
        assert row["frames_per_s"] == pytest.approx(row["windows_per_s"] * 12)
        # A window of 12 frames of 16 x 24 with its cameras and times, depth and masks of three
        # keyframes, one lens, whether depth is known, and room for landmarks.
        frames, keyframes = 12 * (16 * 24 * 3 + 16 * 4 + 4), 3 * 16 * 24 * (4 + 4)
        size = frames + keyframes + 4 * 4 + 1 + 256 * 4 * 4
        assert row["mb_per_s"] == pytest.approx(row["windows_per_s"] * size / 1e6)
        assert f"{row['core_s']:.3f}" in out and f"{row['waiting']:.1%}" in out
        # What is not waited for is the steps, of which every batch of two windows has one.
        steps = 0.01 * row["windows_per_s"] / 2
        assert 0 <= row["waiting"] <= 1 - steps + 1e-6


@pytest.mark.parametrize("subject", ["loader", "movers"])
def test_numbers_are_written_into_a_folder_that_is_not_there_yet(
    subject, monkeypatch, capsys, tmp_path
):
    module = {"loader": bench_loader, "movers": bench_movers}[subject]
    row = {"windows_per_s": 1.0, "frames_per_s": 12.0, "mb_per_s": float("nan"), "clip_mb": 1.0}
    row |= {"core_s": None, "waiting": None}
    monkeypatch.setattr(bench_loader, "measure", lambda *_: {"workers": 0, **row})
    monkeypatch.setattr(bench_loader, "_recordings", lambda *_: [("raw", tmp_path, "train")])
    measured = {"errors": {}, "hidden": [4], "scenes": 1, "bounced": {}}
    monkeypatch.setattr(hidden_movers, "measure", lambda **_: measured)
    path = tmp_path / "not" / "there" / "times.json"
    argv = ["mirage bench", f"--json={path}"]
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as leave:
        common.run(module.main, module.__name__, argv, config=False)
    assert not leave.value.code, capsys.readouterr().err
    found = read_object(path)
    assert found == measured if subject == "movers" else found["loader"][0]["mb_per_s"] is None


def test_windows_longer_than_clips_are_refused_by_name(monkeypatch, capsys, tmp_path):
    recording.record(
        ProceduralSource(size=8, frames=10), tmp_path, "train", 1, workers=0, progress=False
    )
    argv = ["mirage bench", f"--recording={tmp_path}", "--window_frames=11", "--loader_workers=0"]
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as leave:
        argv.append(f"--json={tmp_path / 'times.json'}")
        common.run(bench_loader.main, bench_loader.__name__, argv, config=False)
    assert leave.value.code == 2
    said = capsys.readouterr().err
    assert f"{tmp_path}: --window_frames=11: clip 'procedural" in said
    assert "found a clip of 10 frames, expected at least 11" in said


def test_networks_without_a_size_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mirage bench", "denoiser", "--sizes="])
    with flagsaver.flagsaver(), pytest.raises(SystemExit):
        bench.cli()
    assert "--sizes: found none" in capsys.readouterr().err


def test_memories_in_tiles_are_timed_where_they_lie(call, monkeypatch, tmp_path):
    small = functools.partial(tile_costs.measure, channels=2, grid=(6, 8), poses=3, repeats=1)
    monkeypatch.setattr(tile_costs, "measure", small)
    code, out, _ = call("bench", "--config.tiny=true", "--tiles=3000")
    assert code == 0
    found = json.loads((tmp_path / "run" / "bench_tiles.json").read_text())["tiles"]
    assert [(row["elements"], row["place"]) for row in found] == [
        (3000, "host"),
        (3000, "device"),
    ]
    for row in found:
        assert row["view"]["identical"] and row["chunk"]["identical"]
        assert 0 < row["view"]["in_view"] <= row["chunk"]["in_view"] <= row["gathered"]
        assert f"{row['view']['ratio']:.2f}" in out
    # There are two rooms, of which a view along z shows one alone.
    assert found[0]["gathered"] <= 30 * 6 * 8
    code, _, err = call("bench", "--config.tiny=true", "--tiles=many")
    assert code == 2 and "--tiles: found 'many', expected a whole number" in err


def test_a_walk_needs_trained_parts(call):
    code, _, err = call("bench", "--config.tiny=true", "--walk=2")
    said = " ".join(err.split())
    assert code == 2 and "encoder: not trained yet" in said and "mirage train" in said


def test_a_walker_needs_trained_parts(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(common, "prepare_jax", lambda *_, **__: None)
    argv = ["mirage bench", f"--workdir={tmp_path}", "--config.tiny=true"]
    monkeypatch.setattr(sys, "argv", argv)
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as stopped:
        common.run(bench_explore.main, bench_explore.__name__, argv)
    assert stopped.value.code == 2 and str(tmp_path) in capsys.readouterr().err
