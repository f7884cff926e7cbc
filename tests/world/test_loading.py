"""Models from folders: run as they were trained, or by a preset that asks for no more."""

import dataclasses
import shutil
import types

import pytest

from helpers import tiny_world
from mirage_jax.io.workdir import Workdir
from mirage_jax.memory.fusion import FusionOptions
from mirage_jax.memory.movers import MoverOptions
from mirage_jax.weights import export, load_export, module_fields
from mirage_jax.world import WorldModel
from mirage_jax.world.conditioners import Surfels
from mirage_jax.world.loading import denoiser_architecture, load
from mirage_jax.world.options import ContextFrameOptions, MemoryOptions, SamplerOptions
from mirage_jax.world.presets import PRESETS, with_fields

FRAMES = {"references": 2, "preceding": 5}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Work directories of one model: as exported now, and as older versions exported it."""
    model = tiny_world.world_model()
    told = {name: getattr(tiny_world.READOUT, name) for name in ("reads", "fine", "prefer")}
    older = {
        "kind": "denoiser",
        "memory": "latent",
        "denoiser": module_fields(model.denoiser),
        "readout": {**told, "footprint": 1},
        "size": list(tiny_world.SIZE),
        "chunk_frames": 9,
        "sky_depth": 120.0,
    }
    now = denoiser_architecture(
        model.denoiser,
        model.conditioner,
        size=tiny_world.SIZE,
        chunk_frames=9,
        sampler=SamplerOptions(steps=7),
        memory=MemoryOptions(sky_depth=120.0),
        context_frames=ContextFrameOptions(**FRAMES),
    )
    folders = {}
    architectures = {"now": now, "shown": older | {"clean_frames": FRAMES}, "older": older}
    for name, architecture in architectures.items():
        workdir = folders[name] = Workdir(tmp_path_factory.mktemp(name))
        model.encoder.save(workdir.model("encoder"))
        made = {"kind": "geometry_head", "head": module_fields(model.head)}
        export(workdir.model("geometry"), model.head_params, made)
        export(workdir.model("denoiser_latent"), model.denoiser_params, architecture)
    return folders


@pytest.mark.parametrize(
    ("name", "frames"), [("now", (2, 5)), ("shown", (2, 5)), ("older", (0, 0))]
)
def test_a_model_has_the_context_frames_of_its_training(trained, name, frames):
    for path in (trained[name].root, trained[name].root / "model"):
        model = load(path)
        assert (model.context_frames.references, model.context_frames.preceding) == frames
        assert bool(model.context_frames) == (frames != (0, 0))
        assert model.context_frames == model.trained_beside
        assert model.conditioner == tiny_world.READOUT
        assert (model.size, model.chunk_frames) == (tiny_world.SIZE, 9)
        assert model.memory.sky_depth == 120
    assert load(trained["now"].root).sampler.steps == 7


def test_a_model_keeps_bodies_as_it_was_trained_to(trained, tmp_path):
    told = dataclasses.replace(tiny_world.READOUT, movers=True)
    model, kept = tiny_world.world_model(told=told), MoverOptions(slots=3, fps=24.0)
    made = denoiser_architecture(
        model.denoiser,
        told,
        size=tiny_world.SIZE,
        chunk_frames=9,
        sampler=SamplerOptions(),
        memory=MemoryOptions(fuse_histories=True),
        context_frames=ContextFrameOptions(),
        movers=kept,
    )
    workdir = Workdir(tmp_path)
    model.encoder.save(workdir.model("encoder"))
    export(workdir.model("denoiser_latent"), model.denoiser_params, made)
    found = load(tmp_path)
    assert found.movers == kept and found.conditioner == told
    assert found.memory.history_fusion(found.context_frames) == FusionOptions()
    before = load(trained["now"].root)
    assert before.movers is None
    assert before.memory.history_fusion(before.context_frames) is None


def test_weights_trained_without_bodies_keep_them_where_they_say_so(tmp_path):
    told = Surfels(tiny_world.CHANNELS, tiny_world.STRIDE)
    model, workdir = tiny_world.world_model(told=told), Workdir(tmp_path)
    made = denoiser_architecture(
        model.denoiser,
        told,
        size=tiny_world.SIZE,
        chunk_frames=9,
        sampler=SamplerOptions(),
        memory=MemoryOptions(),
        context_frames=ContextFrameOptions(),
        bodies=MoverOptions(),
    )
    model.encoder.save(workdir.model("encoder"))
    head = {"kind": "geometry_head", "head": module_fields(model.head)}
    export(workdir.model("geometry"), model.head_params, head)
    export(workdir.model("denoiser_latent"), model.denoiser_params, made)
    assert load(tmp_path).movers == MoverOptions() and load(tmp_path).conditioner.movers
    bare = load(tmp_path, bodies=False)
    assert bare.movers is None and bare.conditioner == told
    few = MoverOptions(slots=3)
    assert load(tmp_path, bodies=few).movers == few
    export(workdir.model("denoiser_latent"), model.denoiser_params, made | {"bodies": {"slots": 3}})
    assert load(tmp_path).movers == few and load(tmp_path, bodies=True).movers == few
    trained = {**made, "movers": dataclasses.asdict(MoverOptions()), "bodies": False}
    trained["conditioner"] = {**made["conditioner"], "movers": True}
    export(workdir.model("denoiser_latent"), model.denoiser_params, trained)
    assert load(tmp_path).movers == MoverOptions() and load(tmp_path, bodies=False).movers is None
    export(workdir.model("denoiser_latent"), model.denoiser_params, made)
    shutil.rmtree(workdir.model("geometry"))  # depth may come from elsewhere, what moves may not
    assert load(tmp_path).head is None and load(tmp_path).movers is None
    with pytest.raises(ValueError, match="bodies: found no geometry head"):
        load(tmp_path, bodies=True)
    odd = made | {"bodies": "yes"}
    export(workdir.model("denoiser_latent"), model.denoiser_params, odd)
    with pytest.raises(ValueError, match="field bodies: found 'yes', expected true, false or"):
        load(tmp_path)


def test_a_preset_asks_for_no_more_than_training_had(trained):
    def loaded(name, *fields):
        preset = with_fields(PRESETS["default"], fields)
        return load(trained[name].root, preset=preset, size=(64, 64), chunk_frames=33)

    model = loaded("shown", "references=2", "preceding=5")
    assert (model.context_frames.references, model.context_frames.preceding) == (2, 5)
    assert (model.size, model.chunk_frames) == (tiny_world.SIZE, 9)
    assert (model.sampler.steps, model.memory.reencode) == (20, True)
    assert model.memory.sky_depth == 120  # of training, whatever the preset
    assert loaded("shown", "references=0", "preceding=1").context_frames.preceding == 1
    message = r"denoiser_latent: references: found weights trained with 2, expected .* more, not 4"
    with pytest.raises(ValueError, match=message):
        loaded("shown", "preceding=5")
    message = r"denoiser_latent: preceding: found weights trained with 0, expected .* more, not 9"
    with pytest.raises(ValueError, match=message):
        loaded("older", "references=0")


@pytest.mark.parametrize(("preset", "kind"), [("released", "score"), ("paper", "visibility")])
def test_weights_of_another_conditioner_are_refused(trained, preset, kind):
    message = rf"denoiser_latent: conditioner: found weights trained with 'folded' .* '{kind}'"
    with pytest.raises(ValueError, match=message):
        load(trained["now"].root, preset=preset)


def test_an_unknown_preset_is_told_the_known_ones(trained):
    message = "preset: found 'papers', expected one of released, paper, default"
    with pytest.raises(ValueError, match=message):
        load(trained["now"].root, preset="papers")


@pytest.mark.parametrize("field", ["size", "chunk_frames"])
def test_weights_that_were_trained_here_must_say_for_what(trained, field, tmp_path):
    """They are not taken for converted ones, which run at any size."""
    workdir = Workdir(tmp_path)
    for part in ("encoder", "denoiser_latent"):
        params, made = load_export(trained["now"].model(part))
        made = {name: value for name, value in made.items() if name != field}
        export(workdir.model(part), params, made)
    with pytest.raises(ValueError, match=rf"denoiser_latent: field {field}: found None, expected"):
        load(tmp_path)


@pytest.mark.parametrize("memory", ["rgb", "none"])
def test_weights_in_the_folder_of_another_memory_are_refused(trained, memory, tmp_path):
    workdir = Workdir(tmp_path)
    for part, name in (("encoder", "encoder"), ("denoiser_latent", f"denoiser_{memory}")):
        export(workdir.model(name), *load_export(trained["now"].model(part)))
    message = rf"denoiser_{memory}: field conditioner: found 'folded', expected '{memory}'"
    with pytest.raises(ValueError, match=message):
        load(tmp_path, memory=memory)


def test_fields_that_no_preset_decides_cannot_be_named():
    paper = PRESETS["paper"]
    changed = with_fields(paper, ["steps=4", "reencode=false", "references=1", "cells=corner"])
    assert dataclasses.replace(changed.sampler, steps=40) == paper.sampler
    assert (changed.sampler.steps, changed.memory.reencode) == (4, False)
    assert (changed.context_frames.references, changed.cells) == (1, "corner")
    for name in ("capacity", "sky_depth", "cfg_scale"):
        with pytest.raises(ValueError, match=f"preset: found '{name}=9', expected NAME=VALUE of"):
            with_fields(paper, [f"{name}=9"])


def test_the_denoisers_that_are_there_are_told(tmp_path):
    for name in ("encoder", "denoiser_latent", "denoiser_rgb"):
        (tmp_path / "model" / name).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"denoiser_foo: no .* there: latent, rgb\)"):
        load(tmp_path, memory="foo")


@pytest.mark.parametrize("field", ["sampler", "memory", "context_frames"])
def test_options_are_no_dicts(field):
    # Of a model itself: what checks types in these tests would come first.
    given = {"sampler": SamplerOptions(), "memory": MemoryOptions()}
    holder = types.SimpleNamespace(**given, context_frames=ContextFrameOptions())
    WorldModel.__post_init__(holder)
    setattr(holder, field, {"steps": 3})
    with pytest.raises(ValueError, match=rf"^{field}: found \{{'steps': 3\}}, expected \w+Options"):
        WorldModel.__post_init__(holder)
