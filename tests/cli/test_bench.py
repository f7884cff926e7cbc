"""`mirage bench` on small memories."""

import functools
import json

from mirage_jax.evaluation import efficiency


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


def test_a_walk_needs_trained_parts(call):
    code, _, err = call("bench", "--config.tiny=true", "--walk=2")
    said = " ".join(err.split())
    assert code == 2 and "encoder: not trained yet" in said and "mirage train" in said
