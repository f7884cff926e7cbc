"""The results schema: statistics against their formulas, targets, and what lands in the file."""

import json

import numpy as np
import pytest

from mirage_jax.evaluation import results


def _scores():
    rng = np.random.default_rng(0)
    psnr = {"vae_reconstruction": rng.normal(26, 1, (6, 4)), "memory": rng.normal(23, 1, (6, 4))}
    psnr["memory_zeroed"] = psnr["memory"] - np.array([5, 4, 6, -1, 5, 5.0])[:, None]
    ssim = {method: values / 40 for method, values in psnr.items()}
    return psnr, ssim, np.array([True, False, True, False, False, False])


def test_lpips_is_summarised_where_it_was_measured():
    rng = np.random.default_rng(3)
    methods = ("memory", "memory_zeroed")
    psnr, ssim, lpips = ({m: rng.random((6, 4)) for m in methods} for _ in range(3))
    parallax = np.arange(6) < 2
    revisit = results.summarise(psnr, ssim, parallax, lpips=lpips)["revisit"]
    assert revisit["memory"]["lpips"]["mean"] == pytest.approx(lpips["memory"].mean())
    easy = lpips["memory_zeroed"][2:].mean()
    assert revisit["memory_zeroed"]["easy"]["lpips"]["mean"] == pytest.approx(easy)
    assert "lpips" not in results.summarise(psnr, ssim, parallax)["revisit"]["memory"]
    with pytest.raises(ValueError, match=r"psnr has methods .*, lpips has \['memory'\]"):
        results.summarise(psnr, ssim, parallax, lpips={"memory": lpips["memory"]})


def test_summary_of_a_hand_made_case():
    psnr, ssim, parallax = _scores()
    summary = results.summarise(psnr, ssim, parallax)
    assert list(summary["revisit"]) == ["memory", "memory_zeroed", "vae_reconstruction"]
    assert (summary["clips"], summary["parallax_clips"]) == (6, 2)
    per_clip = psnr["memory"].mean(1)
    entry = summary["revisit"]["memory"]
    assert entry["psnr"]["mean"] == pytest.approx(per_clip.mean())
    assert entry["psnr"]["stderr"] == pytest.approx(per_clip.std(ddof=1) / np.sqrt(6))
    assert entry["easy"]["clips"] == 4
    assert entry["parallax"]["ssim"]["mean"] == pytest.approx(per_clip[[0, 2]].mean() / 40)
    gain = summary["gains"]["over_memory_zeroed"]
    assert gain["mean"] == pytest.approx(4)
    assert gain["stderr"] == pytest.approx(np.std([5, 4, 6, -1, 5, 5], ddof=1) / np.sqrt(6))
    assert gain["share_positive"] == pytest.approx(5 / 6)
    assert gain["parallax"]["mean"] == pytest.approx(5.5)
    assert gain["per_clip"] == pytest.approx([5, 4, 6, -1, 5, 5], abs=1e-3)


def test_a_part_without_clips_is_null():
    psnr, ssim, _ = _scores()
    summary = results.summarise(psnr, ssim, np.zeros(6, bool))
    assert summary["revisit"]["memory"]["parallax"]["psnr"] == {"mean": None, "stderr": None}
    assert summary["gains"]["over_memory_zeroed"]["parallax"]["share_positive"] is None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p, s: p.update(memory=p["memory"][:5]), r"psnr\[memory\]: found 5 clips"),
        (lambda p, s: s["memory"].__setitem__((0, 0), np.nan), r"ssim\[memory\].*finite"),
        (lambda p, s: s.pop("memory"), "psnr has methods"),
    ],
)
def test_scores_that_do_not_fit_are_named(spoil, message):
    psnr, ssim, parallax = _scores()
    spoil(psnr, ssim)
    with pytest.raises(ValueError, match=message):
        results.summarise(psnr, ssim, parallax)


def test_nmr_is_relative_to_the_encoder_over_common_trajectories():
    nan = np.nan
    summary = results.nmr_summary(
        {
            "memory": np.array([0.6, 0.8, nan, 5.0]),
            "vae_reconstruction": np.array([1.0, 1.4, 1.2, nan]),
        }
    )
    assert summary["memory"]["mean"] == pytest.approx(6.4 / 3)
    assert summary["memory"]["trajectories"] == 3
    assert summary["memory"]["relative"] == pytest.approx(0.7 / 1.2)
    assert summary["vae_reconstruction"]["relative"] == pytest.approx(1)
    undefined = results.nmr_summary({"memory": np.array([nan])})["memory"]
    assert undefined == {"mean": None, "stderr": None, "trajectories": 0, "relative": None}


def _world(memory, gain, rgb):
    return {
        "revisit": {"memory": {"psnr": {"mean": memory}}},
        "gains": {
            "over_memory_zeroed": {"mean": gain, "share_positive": 1.0},
            "over_rgb_memory": {"mean": rgb},
        },
    }


def test_targets_hold_fail_or_wait():
    rows = results.check_targets(
        {"freedoom": _world(22.1, 4.1, -1.5), "labmaze": _world(18.4, 7.5, 0.5), "toy": {}}
    )
    table = {(row["what"], row["world"]): row for row in rows}
    assert {world for _, world in table} == {"freedoom", "labmaze"}

    def verdicts(what):
        return [
            (table[what, w]["passed"], table[what, w]["aim_met"]) for w in ("freedoom", "labmaze")
        ]

    assert verdicts("Revisit PSNR with memory") == [(True, False), (False, False)]
    assert verdicts("Paired gain over the same weights with memory emptied") == [
        (False, False),
        (True, True),
    ]
    behind = "Behind RGB memory at equal training"
    assert table[behind, "freedoom"]["value"] == 1.5
    assert verdicts(behind) == [(True, False), (True, True)]
    assert verdicts("Paired gain over a model trained without memory") == [(None, None)] * 2


def test_the_file_holds_the_default_world_at_the_top(tmp_path):
    psnr, ssim, parallax = _scores()
    world = results.summarise(psnr, ssim, parallax) | {
        "nmr": {"psnr": results.nmr_summary({"memory": np.array([0.5, 0.7])})},
        "geometry": {"abs_rel": np.float32(0.2), "worst": float("nan")},
    }
    built = results.build(
        world="freedoom",
        worlds={"freedoom": world},
        seconds={"record": 3},
        efficiency={"read_ms": np.float64(1.5)},
        sampling_steps=4,
        seed=0,
        missing=[{"control": "no_memory", "world": "freedoom", "reason": "not trained yet"}],
        device="cpu",
    )
    path = results.save(tmp_path / "results.json", built)
    loaded = json.loads(path.read_text())
    assert loaded == built
    for key in ("revisit", "gains", "nmr", "geometry"):
        assert loaded[key] == loaded["worlds"]["freedoom"][key]
    assert loaded["geometry"]["worst"] is None
    assert loaded["device"] == "cpu"
    assert {row["world"] for row in loaded["must"]} == {"freedoom"}
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_an_absent_world_and_a_control_without_reason_are_refused():
    common = {"seconds": {}, "efficiency": {}, "sampling_steps": 4, "seed": 0}
    with pytest.raises(ValueError, match="found 'doom', expected one of labmaze"):
        results.build(world="doom", worlds={"labmaze": {}}, **common)
    with pytest.raises(ValueError, match="expected a control and its reason"):
        results.build(
            world="labmaze", worlds={"labmaze": {}}, missing=[{"control": "rgb_memory"}], **common
        )
