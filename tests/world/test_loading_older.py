"""What exports of before mean: the conditioner and the options of the model made of them."""

import jax.numpy as jnp
import pytest

import mirage_jax
from helpers import tiny_world
from helpers.tiny_world import CHANNELS, CHUNK, SIZE, STRIDE
from mirage_jax import weights
from mirage_jax.world.conditioners import Folded, Nothing, Rgb, Score, Visibility
from mirage_jax.world.options import ContextFrameOptions, MemoryOptions, SamplerOptions
from mirage_jax.world.presets import PRESETS

SIZES = {"token_channels": CHANNELS, "stride": STRIDE}
OLD = {
    "memory": "latent",
    "readout": {"reads": 2, "fine": 1, "prefer": "best_view", "footprint": 3},
    "clean_frames": {"references": 2, "preceding": 5},
    "size": list(SIZE),
    "chunk_frames": CHUNK,
    "sky_depth": 50.0,
}
"""The architecture of before, beside the denoiser's own fields."""


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder") / "encoder"
    tiny_world.encoder().save(path)
    return path


@pytest.fixture
def load(encoder_folder, tmp_path):
    """Loads the export of a denoiser of so many channels whose architecture is `made`."""

    def run(channels, made, memory="latent", **options):
        if not (tmp_path / "encoder").exists():
            (tmp_path / "encoder").symlink_to(encoder_folder)
        network = tiny_world.denoiser(channels)
        latents = jnp.zeros((1, 1, 2, 2, CHANNELS))
        params = tiny_world.random_params(network, 0, latents, jnp.zeros((1, 1)))
        architecture = {"kind": "denoiser", "denoiser": weights.module_fields(network), **made}
        weights.export(tmp_path / f"denoiser_{memory}", params, architecture)
        return mirage_jax.load(tmp_path, memory=memory, **options)

    return run


def test_a_latent_memory_of_before_is_read_as_it_was(load):
    # Twice, for holes too: tokens, and visibility, confidence, depth and what was filled.
    model = load(2 * (2 * CHANNELS + 4), OLD)
    expected = Folded(**SIZES, reads=2, fine=1, prefer="best_view", footprint=3)
    assert model.conditioner == expected
    assert (model.size, model.chunk_frames) == (SIZE, CHUNK)
    assert model.context_frames == model.trained_beside == ContextFrameOptions(2, 5)
    assert model.memory == MemoryOptions(sky_depth=50.0) and model.sampler == SamplerOptions()


@pytest.mark.parametrize(
    ("memory", "channels", "expected"),
    [("rgb", CHANNELS + 4, Rgb(**SIZES)), ("none", 0, Nothing(**SIZES))],
)
def test_baselines_of_before_are_what_they_were(load, memory, channels, expected):
    none = {"references": 0, "preceding": 0}
    model = load(channels, OLD | {"memory": memory, "clean_frames": none}, memory)
    assert model.conditioner == expected
    assert not model.trained_beside and model.memory.sky_depth == 50.0


def test_squares_were_once_one_number_and_nothing_was_said_of_context_frames(load):
    made = {name: OLD[name] for name in ("memory", "readout", "chunk_frames", "sky_depth")}
    model = load(2 * (2 * CHANNELS + 4), made | {"size": 16})
    assert model.size == (16, 16)
    assert model.trained_beside == ContextFrameOptions()


@pytest.mark.parametrize(
    ("made", "channels", "expected", "preset"),
    [
        ({"context": "score"}, 2 * CHANNELS, Score(**SIZES), "released"),
        ({"context": "visibility"}, CHANNELS + 1, Visibility(**SIZES), "paper"),
        ({}, 2 * CHANNELS, Score(**SIZES), "released"),
        ({}, CHANNELS + 1, Visibility(**SIZES), "paper"),
        ({}, 0, Nothing(**SIZES), "default"),
    ],
)
def test_converted_weights_have_the_context_they_name_or_their_channels_mean(
    load, made, channels, expected, preset
):
    model = load(channels, made, size=(32, 64), chunk_frames=9)
    assert model.conditioner == expected and model.trained_beside is None
    assert (model.size, model.chunk_frames) == ((32, 64), 9)
    assert model.sampler == PRESETS[preset].sampler
    frames = PRESETS[preset].context_frames if channels else ContextFrameOptions()
    assert model.context_frames == frames


FOLDED = 2 * (2 * CHANNELS + 4)


@pytest.mark.parametrize(
    ("channels", "made", "message"),
    [
        (FOLDED, OLD | {"readout": OLD["readout"] | {"zoom": 2}}, r"field readout\.zoom: found 2"),
        (
            FOLDED,
            OLD | {"readout": OLD["readout"] | {"reads": 3}},
            r"field readout\.reads: found 3",
        ),
        (FOLDED, OLD | {"readout": 4}, "field readout: found 4, expected dict"),
        (
            FOLDED,
            OLD | {"memory": "colour"},
            "field memory: found 'colour', expected one of folded",
        ),
        (FOLDED, {k: v for k, v in OLD.items() if k != "memory"}, "field memory: found None"),
        (FOLDED + 1, OLD, f"found a context of {FOLDED + 1} channels, expected {FOLDED} .*folded"),
        (CHANNELS, OLD | {"memory": "rgb"}, f"context of {CHANNELS} channels, expected 8 .*rgb"),
        (
            FOLDED,
            OLD | {"clean_frames": {"preceding": -1}},
            r"field clean_frames\.preceding: found",
        ),
        (FOLDED, OLD | {"size": [16, 24, 3]}, r"field size: found \[16, 24, 3\]"),
        (FOLDED, OLD | {"chunk_frames": "5"}, "field chunk_frames: found '5', expected int"),
        (FOLDED, OLD | {"sky_depth": "far"}, "field sky_depth: found 'far', expected int or float"),
        (2 * CHANNELS, {"context": "colour"}, "field context: found 'colour', expected one of"),
        (2 * CHANNELS, {"context": "visibility"}, "context of 8 channels, expected 5 .*visibility"),
        (7, {}, r"context of 7 channels, expected 112 \(folded\)"),
        (
            5,
            {"conditioner": {"kind": "visibility", "token_channels": 3, "stride": 8}},
            "field conditioner: found 3 channels .* expected 4 and 8 as the encoder has",
        ),
        (5, {"conditioner": {"kind": "colour"}}, "field conditioner: found 'colour', expected one"),
        (5, {"conditioner": "visibility"}, "field conditioner: .* expected a kind and its fields"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(load, channels, made, message):
    with pytest.raises(ValueError, match=f"denoiser_latent.*{message}"):
        load(channels, made)
