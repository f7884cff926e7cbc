"""`mirage evaluate`: which models are scored."""

import shutil

import jax
import numpy as np
import pytest
from absl import flags
from rich.console import Console

from helpers import tiny_world
from mirage_jax.cli import evaluate
from mirage_jax.cli.helpers import build, model_flags, other_weights
from mirage_jax.io.workdir import Workdir
from mirage_jax.training import clip_encoding, latent_cache, latent_encoding
from mirage_jax.weights import fingerprint
from mirage_jax.world.options import MemoryOptions


@pytest.fixture(autouse=True)
def no_flags():
    flags.FLAGS.mark_as_parsed()


def test_clips_cached_by_another_encoder_are_not_scored(tiny_config, trained, monkeypatch):
    loaded = tiny_world.world_model(memory=MemoryOptions(sky_depth=200.0)).replace(chunk_frames=17)
    monkeypatch.setattr(build, "world_model", lambda workdir, kind, sampling: loaded)
    trained.model("denoiser_rgb").mkdir()

    def cached(*, rgb, encoder=None):
        path = trained.latents("procedural", "eval", rgb=rgb)
        latent_cache.write_cache(path, [])
        own = fingerprint(trained.model("encoder"))
        made = clip_encoding.EncodingSettings(chunk_frames=17, sky_depth=200.0, rgb=rgb)
        clips = trained.worlds("procedural")
        key = latent_encoding.cache_key(encoder or own, clips, "eval", made, path)
        latent_cache.write_key(path, key)

    def models():
        found, missing = evaluate._models(tiny_config, trained, ("procedural",), loaded)
        return set(found), {entry["control"]: entry["reason"] for entry in missing}

    with pytest.raises(ValueError, match="there is none yet; run `mirage train --stage=cache`"):
        models()
    cached(rgb=False)
    cached(rgb=True, encoder="another")
    found, missing = models()
    assert found == {"latent", "none"} and set(missing) == {"rgb_memory"}
    assert "made with another encoder: run `make compare`" in missing["rgb_memory"]
    cached(rgb=True)
    assert models() == ({"latent", "none", "rgb"}, {})
    cached(rgb=False, encoder="another")
    shutil.rmtree(trained.model("denoiser_rgb"))
    with pytest.raises(ValueError, match="made with another encoder; run `mirage train"):
        models()


def test_other_weights_are_scored_on_the_clips_of_a_work_directory(
    tiny_config, trained, tmp_path, monkeypatch
):
    encoded = []
    monkeypatch.setattr(
        other_weights,
        "encode_recordings",
        lambda config, workdir, console, memory, splits: encoded.append((config, workdir, splits)),
    )
    clips = Workdir(tmp_path / "clips")
    tiny_config.worlds = ("procedural", "procedural_bodies")
    tiny_config.geometry.movers_up = 7
    scored = other_weights.prepare(clips, str(trained.root), tiny_config, Console(quiet=True))
    head = build.world_model(trained, "latent", tiny_config).head
    [(config, *to)] = encoded
    assert to == [scored, ("eval",)]
    assert config.worlds == ("procedural",) and tiny_config.geometry.movers_up == 7
    assert config.geometry.movers_up == head.movers_up  # clips tell what moves as the head does
    assert scored.worlds("maze") == clips.worlds("maze")
    results = (scored.results, scored.report, scored.latents("maze", "eval"))
    assert all(path.is_relative_to(clips.root / "weights") for path in results)
    monkeypatch.setattr(model_flags, "named_fields", dict)  # there is no command line
    model = model_flags.world_model(scored, "latent", tiny_config)
    own = model_flags.world_model(trained, "latent", tiny_config)
    for one, other in zip(jax.tree.leaves(model), jax.tree.leaves(own), strict=True):
        np.testing.assert_array_equal(one, other)
