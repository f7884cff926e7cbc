"""`mirage evaluate`: which models are scored."""

import shutil

import pytest

from helpers import tiny_world
from mirage_jax.cli import evaluate
from mirage_jax.cli.helpers import build
from mirage_jax.training import clip_encoding, latent_cache, latent_encoding
from mirage_jax.weights import fingerprint
from mirage_jax.world.options import MemoryOptions


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
        key = latent_encoding.cache_key(encoder or own, clips, "eval", made)
        latent_cache.write_key(path, key)

    def models():
        found, missing = evaluate._models(tiny_config, trained, ("procedural",))
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
