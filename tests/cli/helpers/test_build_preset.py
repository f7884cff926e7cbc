"""Weights trained here, run as they were trained or by a preset that asks for no more."""

import pytest
from ml_collections import ConfigDict

from helpers import tiny_world
from mirage_jax.cli.helpers import build, build_preset
from mirage_jax.io.workdir import Workdir
from mirage_jax.weights import export, module_fields
from mirage_jax.world.presets import PRESETS, with_fields

SHOWN = {"references": 2, "preceding": 5}
SAMPLING = ConfigDict({"steps": 2, "shift": 1.0, "method": "euler", "reencode": True})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two work directories: of a denoiser that was shown earlier frames, and of an older export."""
    model = tiny_world.world_model()
    folders = {}
    for name, shown in (("shown", {"clean_frames": SHOWN}), ("older", {})):
        workdir = folders[name] = Workdir(tmp_path_factory.mktemp(name))
        model.encoder.save(workdir.model("encoder"))
        made = {"kind": "geometry_head", "head": module_fields(model.head)}
        export(workdir.model("geometry"), model.head_params, made)
        made = {
            "kind": "denoiser",
            "memory": "latent",
            "denoiser": module_fields(model.denoiser),
            "readout": {**tiny_world.READOUT, "footprint": 1},
            "size": list(tiny_world.SIZE),
            "chunk_frames": 9,
            "sky_depth": 200.0,
            **shown,
        }
        export(workdir.model("denoiser_latent"), model.denoiser_params, made)
    return folders


def test_a_model_is_shown_what_it_was_shown_in_training(trained):
    model = build.world_model(trained["shown"], "latent", SAMPLING)
    assert (model.references, model.preceding) == (2, 5) and model.keeps_frames
    model = build.world_model(trained["older"], "latent", SAMPLING)
    assert not model.keeps_frames


def test_a_preset_shows_no_more_than_in_training(trained):
    def load(name, *fields):
        preset = with_fields(PRESETS["default"], fields)
        options = {"size": tiny_world.SIZE, "chunk_frames": 33, "sky_depth": 50.0}
        return build_preset.preset_model(trained[name], preset, **options)

    model = load("shown", "references=2", "preceding=5")
    assert (model.references, model.preceding, model.chunk_frames) == (2, 5, 9)
    assert load("shown", "references=0", "preceding=1").preceding == 1
    with pytest.raises(ValueError, match=r"trained with references=2, expected .* no more, not 4"):
        load("shown", "preceding=5")
    with pytest.raises(ValueError, match=r"trained with preceding=0, expected .* no more, not 9"):
        load("older", "references=0")
