"""`mirage generate --geometry`: from a geometry.npz and converted weights to a video, by preset."""

import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from helpers import geometry_npz, tiny_world
from helpers.command_line import assert_refused
from helpers.geometry_npz import SIZE
from mirage_jax import memory
from mirage_jax.cli.helpers import rollout_files
from mirage_jax.convert.incoming import import_checkpoint
from mirage_jax.convert.options import ImportOptions
from mirage_jax.convert.wan_dit import to_wan_dit
from mirage_jax.io import text
from mirage_jax.io import video as video_io
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.nn.video_vae import LatentStats, VideoVAE
from mirage_jax.weights import export, module_fields
from mirage_jax.world import Chunk, load_world
from mirage_jax.world.conditioners import make
from mirage_jax.world.latent_encoder import LatentEncoder
from mirage_jax.world.presets import PRESETS

CHANNELS, WIDTH = 6, 8
PROMPT = "a room with a red door"
VAE = {
    "base_width": 4,
    "decoder_width": 4,
    "latent_channels": CHANNELS,
    "width_mults": (1, 1, 1),
    "blocks": 1,
    "attention": False,
    "linear_path": False,
}


def wan(conditioner, **changes):
    """A small diffusion transformer of Wan's kind with a control branch for a conditioner."""
    fields = {
        "width": 24,
        "depth": 1,
        "heads": 1,
        "mlp_width": 16,
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "patch": (1, 2, 2),
        "text_width": WIDTH,
        "freq_width": 8,
        "memory_channels": make(conditioner, token_channels=CHANNELS, stride=8).channels,
        "memory_hint": False,
        "branch_layers": (0,),
    }
    module = Denoiser(**fields | changes)
    latents = jnp.zeros((1, 1, 2, 4, CHANNELS))
    return module, tiny_world.random_params(module, 0, latents, jnp.zeros((1, 1)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A work directory for every preset, a geometry and embedded prompts."""
    root = tmp_path_factory.mktemp("presets")
    vae = VideoVAE(**VAE)
    stats = LatentStats(np.zeros(CHANNELS, np.float32), np.ones(CHANNELS, np.float32))
    params = tiny_world.random_params(vae, 0, jnp.zeros((1, 5, *SIZE, 3)))
    for name, preset in PRESETS.items():
        LatentEncoder(params, stats, vae).save(root / name / "model" / "encoder")
        module, weights = wan(preset.conditioner)
        where = root / name / "model" / "denoiser_latent"
        if name == "released":
            made = to_wan_dit(weights, module_fields(module))
            tensors = {name: np.ascontiguousarray(tensor) for name, tensor in made.items()}
            save_file(tensors, root / "wan.safetensors")
            options = ImportOptions(heads=1, branch_layers=(0,), context="score")
            import_checkpoint([root / "wan.safetensors"], where, options=options)
        else:
            made = {"kind": "denoiser", "denoiser": module_fields(module)}
            export(where, weights, made | {"context": preset.conditioner})
    geometry_npz.save(root / "geometry.npz")
    rng = np.random.default_rng(0)
    tokens = np.zeros((2, 5, WIDTH), np.float32)
    tokens[0], tokens[1, :1] = rng.normal(size=(5, WIDTH)), rng.normal(size=(1, WIDTH))
    prompts = text.TextEmbeddings((PROMPT, ""), tokens, np.array([5, 1], np.int32))
    text.save_embeddings(root / "prompts.safetensors", prompts)
    return root


@pytest.fixture
def generate(call, folder):
    """Runs the command with a preset's weights; returns (exit code, stdout, stderr)."""

    def run(name, *arguments, unnamed=False):
        ways = [f"--geometry={folder / 'geometry.npz'}", "--chunk_frames=5"]
        if not unnamed:
            ways.append(f"--preset={name}")
        return call("generate", f"--workdir={folder / name}", *ways, *arguments)

    return run


@pytest.fixture
def prompted(folder):
    return [f"--prompt={PROMPT}", f"--text={folder / 'prompts.safetensors'}", "--with=steps=1"]


@pytest.mark.parametrize(
    "name",
    # As the paper does it: also in tests/test_paper_end_to_end.py, from recording on.
    [pytest.param(name, marks=pytest.mark.long if name == "paper" else ()) for name in PRESETS],
)
def test_a_video_and_what_was_done(generate, prompted, folder, tmp_path, name):
    out = tmp_path / "new" / "walk.mp4"
    code, said, err = generate(name, *prompted, f"--out={out}", "--frames=9")
    assert code == 0, err
    video, fps = video_io.read_video(out)
    assert len(video) == 9 and fps == 12
    assert {path.name for path in out.parent.iterdir()} == {"walk.mp4", "walk.json", "walk.world"}
    told = json.loads(out.with_suffix(".json").read_text())
    assert (told["preset"], told["height"], told["width"]) == (name, *SIZE)
    assert told["config"]["sampler"]["steps"] == 1
    assert told["config"]["conditioner"] == PRESETS[name].conditioner
    assert told["started_from"] == {"geometry": str(folder / "geometry.npz")}
    assert int(load_world(out.with_suffix(".world")).frames) == 9
    first, second = told["iterations"]
    assert (first["output_start"], first["output_end"], first["model_frames"]) == (0, 5, 5)
    assert (second["output_start"], second["output_end"], second["model_frames"]) == (5, 9, 5)
    assert second["target_pose_indices"] == [4, 8]
    assert first["num_preceding_latents"] == 0 and second["num_preceding_latents"] == 1
    assert second["num_reference_latents"] == len(second["reference_indices"]) > 0
    assert "9 new frames" in said


def test_the_same_seed_gives_the_same_video(generate, prompted, tmp_path):
    def make(seed):
        out = tmp_path / "v.mp4"
        assert generate("paper", *prompted, f"--out={out}", "--frames=5", f"--seed={seed}")[0] == 0
        return video_io.read_video(out)[0]

    first = make(1)
    np.testing.assert_array_equal(first, make(1))
    assert (first != make(2)).any()


@pytest.fixture
def models(monkeypatch):
    """The models that the command would have walked with."""
    found = []

    def walked(model, world, path, key, **options):
        found.append(model)
        frames = np.zeros((len(path), *SIZE, 3), np.uint8)
        yield Chunk(0, frames, world, memory.WriteReport(*[jnp.int32(0)] * 4))

    monkeypatch.setattr(rollout_files, "rollout", walked)
    return found


@pytest.mark.parametrize(
    ("name", "flag", "tile"),
    [
        ("released", [], (30, 52)),
        ("paper", ["--vae_tile=1,2"], (1, 2)),
    ],
)
def test_the_vae_works_in_tiles_where_asked(generate, prompted, models, tmp_path, name, flag, tile):
    out = tmp_path / "v.mp4"
    assert generate(name, *prompted, f"--out={out}", "--frames=5", *flag)[0] == 0
    assert models[0].encoder.tile == tile
    assert json.loads((tmp_path / "v.json").read_text())["config"]["vae_tile"] == list(tile)


def test_guidance_leads_from_the_negative_prompt_to_the_prompt(
    generate, prompted, models, folder, tmp_path
):
    out = tmp_path / "v.mp4"
    assert generate("paper", *prompted, f"--out={out}", "--frames=5", "--cfg_scale=3")[0] == 0
    tokens = text.load_embeddings(folder / "prompts.safetensors").tokens
    np.testing.assert_array_equal(models[0].text, tokens[0])
    np.testing.assert_array_equal(models[0].negative_text, tokens[1])
    assert models[0].sampler.cfg_scale == 3
    assert json.loads((tmp_path / "v.json").read_text())["config"]["sampler"]["cfg_scale"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt="], "give --text=EMBEDDINGS, or --tokenizer"),
        ([], "--prompt: found none"),
        (["--prompt=a dragon", "--text={folder}/prompts.safetensors"], "prompt 'a dragon'"),
        (["{prompt}", "--frames=17"], "--frames: found 17, but .*geometry.npz has 13 poses"),
        (
            ["{prompt}", "--frames=8"],
            r"--frames: found 8 .*geometry.npz .* expected 1 \+ 4 n",
        ),
        (["{prompt}", "--start_frame=13"], "expected one with number 13"),
        (["{prompt}", "--chunk_frames=6"], r"chunk: found 6 poses, expected 1 \+ 4 n"),
        (["{prompt}", "--video_size=16"], "--video_size: found '16', expected HEIGHT,WIDTH"),
        (["{prompt}", "--video_size=16,x"], "--video_size: found"),
        (
            ["{prompt}", "--video_size=16,24"],
            "size: found 16 x 24 pixels, expected multiples of 16",
        ),
        (["{prompt}", "--vae_tile=30"], "--vae_tile: found '30', expected ROWS,COLUMNS"),
        (["{prompt}", "--vae_tile=0,5"], r"--vae_tile: found \(0, 5\), expected ROWS,COLUMNS"),
        (["{prompt}", "--with=steps=0"], "preset: steps: found 0, expected >= 1"),
        (["{prompt}", "--with=stps=1"], "preset: found 'stps=1'"),
        (
            ["{prompt}", "--with=conditioner=score"],
            r"found weights trained with 'visibility' \(7 channels\), expected 'score'",
        ),
        (
            ["{prompt}", "--image=a.png"],
            "give one of --image=PICTURE, --clip=FOLDER, --world=SAVED_WORLD and --geometry=NPZ",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(generate, folder, tmp_path, arguments, message):
    prompt = [f"--prompt={PROMPT}", f"--text={folder / 'prompts.safetensors'}"]
    given = []
    for argument in arguments:
        given += prompt if argument == "{prompt}" else [argument.format(folder=folder)]
    code, _, err = generate("paper", *given, f"--out={tmp_path / 'v.mp4'}")
    assert code == 2 and "Traceback" not in err
    assert err.startswith("mirage: error: ") and err.count("\n") == 1
    assert re.search(message, err), err
    assert not (tmp_path / "v.mp4").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depths": np.array([None, 1.0], dtype=object)}, "depths: .*objects are never unpickled"),
        ({"intrinsics": None}, "intrinsics: found none among"),
        ({"poses_c2w": np.eye(4)[None]}, "poses_c2w: found 1 frames, expected 13 as depths"),
    ],
)
def test_a_geometry_that_does_not_fit_is_one_line(generate, tmp_path, change, message):
    path = geometry_npz.save(tmp_path / "bad.npz", **change)
    code, _, err = generate("paper", f"--geometry={path}", f"--out={tmp_path / 'v.mp4'}")
    assert code == 2 and re.fullmatch(rf"mirage: error: \S*bad\.npz: {message}.*\n", err), err


def test_what_is_not_there_is_one_line(generate, tmp_path):
    code, _, err = generate("paper", f"--geometry={tmp_path / 'none.npz'}")
    assert code == 2 and re.fullmatch(r"mirage: error: \S*none\.npz: no such file; .*\n", err), err
    (tmp_path / "notes.npz").write_text("nothing")
    code, _, err = generate("paper", f"--geometry={tmp_path / 'notes.npz'}")
    assert code == 2 and "notes.npz: not a readable .npz file (no zip archive)" in err
    code, _, err = generate("paper", f"--workdir={tmp_path}")
    assert code == 2 and "found no trained model; expected a work directory" in err
    code, _, err = generate("paper", "--preset=old")
    assert code == 2 and "--preset=old: value should be one of <released|paper|default>" in err


def test_weights_of_another_conditioner_are_refused(generate, prompted, folder, tmp_path):
    args = [*prompted, f"--out={tmp_path / 'v.mp4'}", f"--workdir={folder / 'released'}"]
    message = "found weights trained with 'score' (12 channels), expected 'visibility'"
    assert_refused(generate("paper", *args), "denoiser_latent: conditioner: ", message)


@pytest.mark.parametrize("name", PRESETS)
def test_converted_weights_run_as_the_preset_of_their_conditioner(
    generate, prompted, models, tmp_path, name
):
    given = [*prompted, f"--out={tmp_path / 'v.mp4'}", "--frames=5"]
    for unnamed in (False, True):
        code = generate(name, *given, "--config.memory.capacity=99", unnamed=unnamed)[0]
        assert code == 0
    named, unnamed = models
    for part in ("conditioner", "memory", "context_frames", "sampler"):
        assert getattr(named, part) == getattr(unnamed, part)
    assert named.encoder.tile == unnamed.encoder.tile == PRESETS[name].vae_tile
    assert named.memory.capacity == 99 and named.sampler.steps == 1


def test_a_picture_and_its_world_with_a_preset(generate, prompted, folder, tmp_path):
    """Converted weights without a geometry head have depth for the first picture alone."""
    Image.new("RGB", (40, 30), (90, 60, 30)).save(tmp_path / "photo.png")
    given = ["--geometry=", f"--image={tmp_path / 'photo.png'}", f"--out={tmp_path / 'v.mp4'}"]
    found = generate("paper", *prompted, *given, "--video_size=16,32", "--frames=5")
    assert_refused(found, "depth: found none, expected some as the model has no geometry head")
    assert not (tmp_path / "v.mp4").exists()
