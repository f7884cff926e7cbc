import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax import geometry
from mirage_jax.evaluation import efficiency
from mirage_jax.evaluation.stopwatch import Times
from mirage_jax.memory import rgb_cloud
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
            kinds=tuple(efficiency.KINDS),
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
    write, read, fused, _, write_rgb, draw, encode = calls[:7]
    context = read()
    assert context.shape == (3, 4, 4, 2 * 2 * 2 * 6)
    # Tokens of three channels and three extras from every cell of every pose.
    assert context.size == found["poses_per_chunk"] * np.prod(found["read_grid"]) * 6
    assert (found["poses_per_chunk"], found["read_grid"]) == (6, [8, 8])
    assert draw().tokens.shape == (9, 16, 16, 3) and encode().shape == (9, 3)
    assert found["pictures_per_chunk"] == 9 and found["frames_written_per_chunk"] == 2
    assert int(write()[1].written) == 2 * 4 * 4 and int(write_rgb()[1].written) == 2 * 16 * 16
    report = fused()[1]
    assert int(report.written) + int(report.fused) == 2 * 4 * 4


def test_a_longer_chunk_writes_more_keyframes():
    small = {"elements": 700, "channels": 2, "grid": (6, 8), "repeats": 1}
    options = {"size": (8, 8), "conditioner": Folded(1, 8), "chunks": (1,), "repeats": 1}
    found = efficiency.measure(chunk_frames=33, read_benchmark=small, **options)
    assert found["after_chunks"]["1"]["latent"]["elements"] == 8
    assert found["after_chunks"]["1"]["rgb"]["elements"] == 8 * 64
    assert found["poses_per_chunk"] == 36 and found["read_grid"] == [2, 2]


def test_sort_and_scatter_gives_the_tokens_of_the_read(result):
    for scene in ("all_in_view", "room"):
        assert result["read_against_sort"][scene]["identical"] is True
        assert result["read_against_sort"][scene]["elements"] == 700


def test_one_scene_is_all_in_view_and_the_other_mostly_not(result):
    share = {scene: found["in_view"] for scene, found in result["read_against_sort"].items()}
    assert share["all_in_view"] == 1
    # 700 cells of 15 pictures of 6 x 8 cells, projected by hand into the picture in the middle.
    camera, depth = efficiency.room(15, (96, 128), (6, 8))
    points = np.asarray(geometry.lift(depth, camera)).reshape(-1, 3)[:700]
    pose = camera.cam2world[7]
    x, y, z = ((points - pose[:3, 3]) @ pose[:3, :3]).T
    inside = (z > 0) & (0.6 * 128 * abs(x) < 64 * z) & (0.6 * 128 * abs(y) < 48 * z)
    assert share["room"] == np.float32(inside.mean())


def test_the_ratio_says_how_many_times_faster_the_read_is(monkeypatch):
    def median_times(calls, repeats):
        read, sort = (np.asarray(getattr(out, "tokens", out)) for out in (call() for call in calls))
        np.testing.assert_array_equal(read, sort)
        return [Times(2.0, 0.0), Times(12.0, 0.0)]

    monkeypatch.setattr(efficiency, "median_times", median_times)
    found = efficiency.read_against_sort(elements=60, channels=2, grid=(4, 5))
    assert (found["read_ms"], found["sort_scatter_ms"], found["ratio"]) == (2.0, 12.0, 6.0)


def test_a_read_of_other_tokens_is_reported(monkeypatch):
    whole = efficiency.sort_and_scatter
    monkeypatch.setattr(efficiency, "sort_and_scatter", lambda *a, **k: whole(*a, **k).at[0].add(1))
    small = {"elements": 60, "channels": 2, "grid": (4, 5), "repeats": 1}
    assert efficiency.read_against_sort(**small)["identical"] is False


def test_elements_and_bytes_follow_from_the_sizes(result):
    for chunks in (1, 2):
        kinds = result["after_chunks"][str(chunks)]
        cells, pixels = chunks * 2 * 16, chunks * 2 * 256
        bookkeeping = 4 * 12 + 6 * 4 + 2  # four vectors, six numbers, valid and pinned
        assert kinds["latent"]["elements"] == cells and kinds["rgb"]["elements"] == pixels
        assert kinds["latent"]["bytes"] == cells * (bookkeeping + 3 * 4)
        assert kinds["rgb"]["bytes"] == pixels * (12 + 3)  # position and colour only


def test_the_room_has_its_walls_where_they_are():
    camera, depth = efficiency.room(5, (8, 12), (8, 12))
    points = np.abs(np.asarray(geometry.lift(depth, camera)))
    half = np.array([3.0, 1.5, 4.0])
    assert (points <= half + 1e-4).all()
    np.testing.assert_allclose((points / half).max(-1), 1.0, rtol=1e-5)


def test_fused_and_merged_memories_hold_no_more(result):
    for kinds in result["after_chunks"].values():
        assert 0 < kinds["latent_fused"]["elements"] <= kinds["latent"]["elements"]
        assert 0 < kinds["rgb_merged"]["elements"] < kinds["rgb"]["elements"]
        assert kinds["rgb_merged"]["bytes"] == 15 * kinds["rgb_merged"]["elements"]
        for entry in kinds.values():
            for low, high in entry["spread_ms"].values():
                assert 0 < low <= high


SMALL_CLOUDS = {
    "size": (8, 8),
    "conditioner": Folded(1, 8),
    "chunks": (1,),
    "kinds": ("rgb", "rgb_merged"),
    "chunk_frames": 5,
    "repeats": 1,
    "read_benchmark": {"elements": 700, "channels": 2, "grid": (6, 8), "repeats": 1},
}
"""64 points, drawn in five pictures: 320."""


def test_a_cloud_that_is_too_large_is_counted_alone():
    found = efficiency.measure(most_drawn=63, **SMALL_CLOUDS)
    cloud, merged = found["after_chunks"]["1"].values()
    assert cloud["elements"] == 64 and cloud["bytes"] == 64 * 15
    assert cloud["write_ms"] is None and cloud["raster_ms"] is None
    assert merged["elements"] is None and merged["read_ms"] is None


@pytest.mark.parametrize("most", [319, 320])
def test_pictures_of_a_large_cloud_are_the_same_drawn_one_by_one(most):
    drawn = []
    keep = lambda pictures: drawn.append(np.asarray(pictures))  # noqa: E731
    found = efficiency.measure(most_drawn=most, encode=keep, **SMALL_CLOUDS)
    assert all(entry["raster_ms"] > 0 for entry in found["after_chunks"]["1"].values())
    camera, depth = efficiency.room(1, (8, 8), (8, 8))
    colours = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8)
    cloud, _ = rgb_cloud.write(rgb_cloud.create(64), colours, depth, camera)
    pictures = rgb_cloud.read(cloud, camera[np.zeros(5, int)], (8, 8)).tokens
    assert np.ptp(drawn[0]) > 0
    np.testing.assert_allclose(drawn[0], pictures, atol=1e-6)
