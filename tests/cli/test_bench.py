"""`mirage bench` on small memories."""

import functools
import json

from mirage_jax.evaluation import efficiency, tile_costs


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
    # Five latents of four reads each, twice as fine as the 4x4 latents.
    assert (found["poses_per_chunk"], found["read_grid"]) == (20, [8, 8])
    assert found["pictures_per_chunk"] == 17 and found["frames_written_per_chunk"] == 4


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
