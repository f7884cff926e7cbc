import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax import geometry
from mirage_jax.evaluation import efficiency
from mirage_jax.world.conditioners import Folded


@pytest.fixture(scope="module")
def timed():
    """The result, and the calls that were timed to get it."""
    calls = []

    def median_times(timed, repeats):
        calls.extend(timed)
        return times(timed, repeats)

    times = efficiency.median_times
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficiency, "median_times", median_times)
        found = efficiency.measure(
            size=(16, 16),
            conditioner=Folded(3, 4, reads=2, fine=2),
            chunk_frames=9,
            chunks=(1, 2),
            encode=lambda video: jnp.mean(video, axis=(1, 2)),
            repeats=1,
            read_benchmark={"elements": 700, "channels": 2, "grid": (6, 8), "repeats": 1},
        )
    return found, calls


@pytest.fixture
def result(timed):
    return timed[0]


def test_what_is_timed_is_what_a_chunk_needs(timed):
    """The read gives the denoiser's context; the cloud is drawn and encoded at all frames."""
    found, calls = timed
    write, read, write_rgb, draw, encode = calls[:5]
    context = read()
    assert context.shape == (3, 4, 4, 2 * 2 * 2 * 6)
    # Tokens of three channels and three extras from every cell of every pose.
    assert context.size == found["poses_per_chunk"] * np.prod(found["read_grid"]) * 6
    assert (found["poses_per_chunk"], found["read_grid"]) == (6, [8, 8])
    assert draw().tokens.shape == (9, 16, 16, 3) and encode().shape == (9, 3)
    assert found["pictures_per_chunk"] == 9 and found["frames_written_per_chunk"] == 2
    assert int(write()[1].written) == 2 * 4 * 4 and int(write_rgb()[1].written) == 2 * 16 * 16


def test_a_longer_chunk_writes_more_keyframes():
    small = {"elements": 700, "channels": 2, "grid": (6, 8), "repeats": 1}
    options = {"size": (8, 8), "conditioner": Folded(1, 8), "chunks": (1,), "repeats": 1}
    found = efficiency.measure(chunk_frames=33, read_benchmark=small, **options)
    assert found["after_chunks"]["1"]["latent"]["elements"] == 8
    assert found["after_chunks"]["1"]["rgb"]["elements"] == 8 * 64
    assert found["poses_per_chunk"] == 36 and found["read_grid"] == [2, 2]


def test_both_sides_of_the_race_give_the_same_tokens(result):
    races = result["read_against_sort"]
    for race in races.values():
        assert race["identical"] is True
        assert race["elements"] == 700
        assert race["ratio"] == race["sort_scatter_ms"] / race["read_ms"]
    assert races["all_in_view"]["in_view"] == 1 and races["room"]["in_view"] < 0.5


def test_elements_and_bytes_follow_from_the_sizes(result):
    for chunks in (1, 2):
        kinds = result["after_chunks"][str(chunks)]
        cells, pixels = chunks * 2 * 16, chunks * 2 * 256
        bookkeeping = 12 + 12 + 1 + 4 + 4 + 4  # xyz, origin, valid, confidence, frame, time
        assert kinds["latent"]["elements"] == cells and kinds["rgb"]["elements"] == pixels
        assert kinds["latent"]["bytes"] == cells * (bookkeeping + 3 * 4)
        assert kinds["rgb"]["bytes"] == pixels * (12 + 3)  # position and colour only
        rgb = kinds["rgb"]
        assert rgb["read_ms"] == rgb["raster_ms"] + rgb["encode_ms"]


def test_the_room_has_its_walls_where_they_are():
    camera, depth = efficiency.room(5, (8, 12), (8, 12))
    points = np.abs(np.asarray(geometry.lift(depth, camera)))
    half = np.array([3.0, 1.5, 4.0])
    assert (points <= half + 1e-4).all()
    np.testing.assert_allclose((points / half).max(-1), 1.0, rtol=1e-5)
