"""Clips encoded before the step are those of the cache, and train alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines import loading
from data_pipelines.recording import record
from data_pipelines.sources.procedural import ProceduralSource
from helpers import tiny_world
from helpers.made_clips import bare
from helpers.tiny_world import CHANNELS, READOUT, MeanColours
from mirage_jax import parallel
from mirage_jax.nn.video_vae import LatentStats
from mirage_jax.training.branch_task import ADDED, freeze_backbone
from mirage_jax.training.clip_encoding import (
    OPTIONAL_FIELDS,
    REQUIRED_FIELDS,
    ClipEncoder,
    EncodedClips,
    EncoderInputs,
    EncodingSettings,
)
from mirage_jax.training.denoiser_task import DenoiserTask
from mirage_jax.training.latent_cache import LatentSource
from mirage_jax.training.latent_encoding import encode_clips
from mirage_jax.training.sources import WithText
from mirage_jax.world.latent_clip import FIELDS
from mirage_jax.world.latent_encoder import LatentEncoder

COUNT, FRAMES, SIZE, GRID = 6, 17, (16, 16), (2, 2)
SETTINGS = EncodingSettings(chunk_frames=9, sky_depth=200.0, preceding=5)
HALF_STEP = 2.0**-11
"""Half a step of float16, relative."""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Clips, and their cache."""
    folder = tmp_path_factory.mktemp("clips")
    source = ProceduralSource(size=SIZE[0], frames=FRAMES, train_worlds=2)
    record(source, folder, "train", COUNT, workers=0, progress=False)
    clips = loading.ClipSource(folder, "train", REQUIRED_FIELDS, optional=OPTIONAL_FIELDS)
    path = folder / "latents.array_record"
    encode_clips(ENCODER, folder, "train", path, settings=SETTINGS)
    return clips, LatentSource([path])


ENCODER = tiny_world.encoder()
INPUTS = EncoderInputs(SETTINGS.sky_depth)


@pytest.fixture(scope="module")
def both(recorded):
    """The same batch, from the cache and straight from the video."""
    clips, cached = recorded
    with loading.batches(cached, batch_size=4, seed=3) as stream:
        expected = next(stream)
    text = np.full((2, 3), 0.5, np.float32)
    source = WithText(clips, text)
    with loading.batches(source, INPUTS, batch_size=4, seed=3) as stream:
        drawn = next(stream)
    assert drawn["video"].dtype == np.uint8
    found = ClipEncoder(ENCODER, SETTINGS)(drawn)
    np.testing.assert_array_equal(found.pop("text"), np.tile(text, (4, 1, 1)))
    return expected, found


def test_latents_are_those_of_the_cache_but_for_its_rounding(both):
    expected, found = both
    assert list(found) == list(FIELDS)
    for name in FIELDS:
        assert found[name].shape == expected[name].shape
        true = np.asarray(found[name], np.float64)
        error = np.abs(expected[name] - true)
        # Beside float16 in the cache, float32 of other batches.
        assert (error <= HALF_STEP * np.abs(true) + 1e-5).all(), name
    rounded = np.asarray(found["tokens"]) != expected["tokens"]
    assert rounded.mean() > 0.5  # it is not the cache that was compared with itself


def test_losses_are_those_of_the_cache(both):
    expected, found = both
    network = tiny_world.denoiser(READOUT.channels, depth=1)
    task = DenoiserTask(
        denoiser=network,
        conditioner=READOUT,
        size=SIZE,
        chunks=2,
        chunk_latents=3,
    )
    latents = jnp.zeros((1, 3, *GRID, CHANNELS))
    params = tiny_world.random_params(network, 0, latents, jnp.zeros((1, 3)))
    # Its loss is that of the whole denoiser, of parts that are kept apart.
    branch = freeze_backbone(task, params)
    added = {name: params[name] for name in ADDED}
    frozen = parallel.unboxed(branch.frozen)

    @jax.jit
    def loss(batch):
        return branch.loss(added, batch, jax.random.key(0), train=True, frozen=frozen)[0]

    assert float(loss(found)) == pytest.approx(float(loss(expected)), rel=1e-3)
    other = {**found, "chunks": 1.1 * found["chunks"]}
    assert float(loss(other)) != pytest.approx(float(loss(expected)), rel=1e-3)


def test_clips_by_index_are_those_of_the_cache(recorded, tmp_path):
    clips, _ = recorded
    colours = LatentEncoder(None, LatentStats(jnp.zeros(3), jnp.ones(3)), MeanColours())
    path = tmp_path / "latents.array_record"
    folder = clips.paths[0].parent
    encode_clips(colours, folder, "train", path, settings=SETTINGS)
    cached = LatentSource([path])
    encoded = EncodedClips(clips, INPUTS, ClipEncoder(colours, SETTINGS))
    assert len(encoded) == COUNT
    for name, value in encoded[4].items():
        np.testing.assert_allclose(value, cached[4][name], rtol=2 * HALF_STEP, atol=1e-5)
    # Kept as long as there is room, and the same then.
    size = sum(value.nbytes for value in encoded[0].values())
    asked = []

    class Counted(ClipEncoder):
        def __call__(self, batch):
            asked.append(batch)
            return super().__call__(batch)

    kept = EncodedClips(clips, INPUTS, Counted(colours, SETTINGS), keep_bytes=2 * size)
    for index in (4, 0, 2, 0, 4, 2):
        for name, value in kept[index].items():
            np.testing.assert_array_equal(value, encoded[index][name])
    assert len(asked) == 4  # the third has no room
    # The same over the devices of a mesh.
    elements = [INPUTS(clips[index], np.random.default_rng(0)) for index in range(4)]
    batch = {name: np.stack([e[name] for e in elements]) for name in elements[0]}
    mesh = parallel.make_mesh()
    spread = ClipEncoder(colours, SETTINGS, mesh=mesh)(batch)
    assert spread["chunks"].sharding.is_equivalent_to(parallel.batch_sharding(mesh), 6)
    for name in FIELDS:
        stacked = np.stack([encoded[index][name] for index in range(4)])
        np.testing.assert_allclose(spread[name], stacked, rtol=1e-5, atol=1e-6)


def test_depth_that_a_clip_lacks_is_estimated_beside_clips_that_have_it(recorded):
    clips, cached = recorded
    whole = clips[0]
    lacking = {**whole, "depth": None, "mover_ids": None}
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=f"clip {whole['name']!r} has no depth; expected foot"):
        INPUTS(lacking, rng)
    inputs = EncoderInputs(200.0, estimates=True)
    elements = [inputs(element, rng) for element in (whole, lacking, whole, lacking)]
    batch = {name: np.stack([e[name] for e in elements]) for name in elements[0]}
    seen = []

    def depth_of(picture):
        seen.append(picture)
        return np.full(picture.shape[:2], 2.5, np.float32)

    made = ClipEncoder(ENCODER, SETTINGS, depth_of=depth_of)(batch)
    np.testing.assert_array_equal(seen, np.tile(whole["video"][::4], (2, 1, 1, 1)))
    np.testing.assert_allclose(made["depth"][0], cached[0]["depth"], rtol=1e-5)
    np.testing.assert_array_equal(made["depth"][1], 2.5)
    np.testing.assert_array_equal(made["static"][1], 1.0)


@pytest.mark.parametrize("unit", [1.0, 0.2])
def test_estimated_depth_is_in_the_unit_of_the_poses(unit):
    source = ProceduralSource(size=128, frames=17)
    turning, walking = source.clips("procedural/train-005", 2, seed=5)
    assert np.ptp(turning.cam2world[:, :3, 3], axis=0).max() == 0
    inputs, elements = EncoderInputs(200.0, estimates=True), []
    for clip in (turning, walking):
        fields = (*REQUIRED_FIELDS, *OPTIONAL_FIELDS)
        element = {name: getattr(clip, name) for name in fields} | {"depth": None}
        element["cam2world"] = clip.cam2world.copy()
        element["cam2world"][:, :3, 3] *= unit
        elements.append(inputs(element, np.random.default_rng(0)))
    batch = {name: np.stack([e[name] for e in elements]) for name in elements[0]}
    metres = {
        p.tobytes(): d for c in (turning, walking) for p, d in zip(c.video, c.depth, strict=True)
    }
    said = []
    encode = ClipEncoder(ENCODER, SETTINGS, depth_of=lambda p: metres[p.tobytes()], say=said.append)
    filled = encode._filled(batch)
    np.testing.assert_array_equal(filled[0], turning.depth[::4])  # left in metres, and said
    ratio = filled[1] / walking.depth[::4]
    np.testing.assert_allclose(ratio, unit, rtol=0.05)
    assert said == [
        "depth of 1 clips was estimated; 1 of them have it in metres, as the unit of their poses "
        "is not told: 1 show too few points from two places, 0 show points that do not agree on it"
    ]
    assert (encode.estimated, encode.unscaled.total()) == (2, 1)
    # Of a network that errs by more than the points can bear the reason is another.
    rng = np.random.default_rng(0)
    spoilt = {key: depth * np.exp(rng.normal(0, 2)) for key, depth in metres.items()}
    encode = ClipEncoder(ENCODER, SETTINGS, depth_of=lambda p: spoilt[p.tobytes()])
    encode._filled(batch)
    assert encode.scale_report() == (
        "depth of 2 clips was estimated; 2 of them have it in metres, as the unit of their poses "
        "is not told: 1 show too few points from two places, 1 show points that do not agree on it"
    )


def test_bare_footage_is_read(tmp_path):
    class WithoutMaps(ProceduralSource):
        def clips(self, world, count, seed):
            return (bare(clip) for clip in super().clips(world, count, seed))

    record(WithoutMaps(size=8, frames=13), tmp_path, "train", 1, workers=0, progress=False)
    clips = loading.ClipSource(tmp_path, "train", REQUIRED_FIELDS, optional=OPTIONAL_FIELDS)
    inputs = EncoderInputs(200.0, estimates=True)
    with loading.batches(clips, inputs, batch_size=1, seed=0) as stream:
        batch = next(stream)
    assert not batch["known"].any() and not batch["depth"].any() and not batch["moving"].any()
