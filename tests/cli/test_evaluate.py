"""`mirage evaluate`: which models are scored."""

import shutil
import types

import pytest

from mirage_jax.cli import evaluate
from mirage_jax.cli.helpers import build
from mirage_jax.training import latent_cache, stages
from mirage_jax.weights import fingerprint


def test_clips_cached_by_another_encoder_are_not_scored(tiny_config, trained, monkeypatch):
    loaded = types.SimpleNamespace(chunk_frames=17, sky_depth=200, preceding=0)
    monkeypatch.setattr(build, "world_model", lambda workdir, kind, sampling: loaded)
    trained.model("denoiser_rgb").mkdir()

    def cached(*, rgb, encoder=None):
        path = trained.latents("procedural", "eval", rgb=rgb)
        path.parent.mkdir(exist_ok=True)
        path.touch()
        own = fingerprint(trained.model("encoder"))
        making = {"chunk_frames": 17, "sky_depth": 200.0, "rgb": rgb, "preceding": 0}
        clips = trained.worlds("procedural")
        latent_cache.write_key(path, stages.cache_key(encoder or own, clips, "eval", **making))

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
