"""Every layout of footage gives back the room that was written in it, and its geometry holds."""

import numpy as np
import pytest

from data_pipelines import matches
from data_pipelines.clip import validate
from data_pipelines.filters import Filters
from data_pipelines.sources.footage.formats import FORMATS
from data_pipelines.sources.footage.source import FootageSource
from helpers import made_footage
from helpers.footage_reading import forget
from helpers.made_footage import FRAMES, SIZE, room
from helpers.made_hm_world import hm_world, unreal_video
from helpers.warps import psnrs

LENS = tuple(map(float, room().intrinsics[0]))
# Layout -> its format, options, the world, and what it has beside pictures and poses.
LAYOUTS = {
    "seven_scenes": ("seven_scenes", {"register": False}, "office/seq-01", {"depth", "licence"}),
    "tum_rgbd": ("tum_rgbd", {"lens": LENS}, "rgbd_dataset_room", {"depth"}),
    "re10k": ("re10k", {}, "train/0c11", set()),
    "pixelsplat": ("pixelsplat", {}, "train/0c11", set()),
    "spatialvid": ("spatialvid", {}, "group_0001/0a00", {"depth", "movers", "caption", "licence"}),
    "vipe": ("vipe", {}, "rgb/walk.mp4", {"depth", "movers"}),
    "mirage_sample": ("vipe", {}, "00000007", {"depth", "movers", "caption"}),
    "worldscore": ("worldscore", {}, "static/photorealistic/indoor/rooms/000", {"caption"}),
    "video": ("video", {"lens": LENS}, "walk.mp4", {"depth"}),
    "unreal_video": ("video", {"lens": LENS}, "scene_1/clip.mp4", set()),
    "hm_world": ("hm_world", {"lens": LENS}, "HM-World/sample1", {"movers", "caption", "licence"}),
    "transforms": ("pictures", {}, "room", {"depth"}),
    "colmap": ("pictures", {}, "room", set()),
    "colmap_binary": ("pictures", {}, "room", set()),
}
WRITERS = {
    **vars(made_footage),
    "hm_world": hm_world,
    "unreal_video": unreal_video,
}
PICTURES_ALONE = ("re10k", "pixelsplat", "worldscore", "hm_world", "colmap", "colmap_binary")


def test_every_format_has_a_layout_here():
    assert {name for name, *_ in LAYOUTS.values()} == set(FORMATS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_gives_back_what_was_written(layout, tmp_path):
    name, options, world, parts = LAYOUTS[layout]
    truth = room()
    WRITERS[layout](tmp_path, truth)
    source = FootageSource(root=str(tmp_path), size=SIZE, frames=FRAMES, eval_share=0.0, **options)
    assert source.clip_counts("train") == {world: 1}
    clip = validate(source.clip(world, 0))
    assert clip.provenance["format"] == name  # recognised
    np.testing.assert_allclose(clip.cam2world, truth.cam2world, atol=1e-5)
    np.testing.assert_allclose(clip.intrinsics, truth.intrinsics, atol=1e-3)
    encoded = any(tmp_path.rglob("*.mp4"))
    assert np.abs(clip.video.astype(int) - truth.video).max() <= (4 if encoded else 0)
    known = {"depth": clip.depth, "movers": clip.mover_ids}
    known |= {"caption": clip.caption, "licence": clip.licence}
    assert {part for part, value in known.items() if value is not None} == parts
    if clip.depth is not None:
        np.testing.assert_allclose(clip.depth, truth.depth, rtol=2e-3, atol=1e-3)
        warped, unwarped = psnrs([clip], [(0, 4), (6, 2), (8, 11)])
        assert warped > unwarped + 6
    if clip.mover_ids is not None:
        assert (clip.mover_ids[:, 0, 0] == 1).all() and (clip.mover_ids[:, -1, -1] == 0).all()
    if clip.caption is not None:
        assert clip.caption == "a room"


@pytest.mark.parametrize("layout", (*PICTURES_ALONE, "spatialvid", "unreal_video"))
def test_points_that_frames_share_lie_where_the_cameras_allow(layout, tmp_path):
    """The measure and the bound of the filter: no depth is looked at."""
    truth = room(FRAMES, 2 * SIZE)
    WRITERS[layout](tmp_path, truth)
    _, options, world, _ = LAYOUTS[layout]
    lens = {"lens": tuple(map(float, truth.intrinsics[0]))} if "lens" in options else {}
    where = {"size": 2 * SIZE, "frames": FRAMES, "eval_share": 0.0}
    clip = FootageSource(root=str(tmp_path), **where, **lens).clip(world, 0)
    pairs = [(frame, frame + 1) for frame in range(FRAMES - 1)]
    points = [matches.match(clip.video[a], clip.video[b]) for a, b in pairs]
    assert sum(len(first) for first, _ in points) > 100

    def distance(cam2world):
        found = [
            matches.epipolar_distance(shared, clip.intrinsics[[a, b]], cam2world[[a, b]])
            for (a, b), shared in zip(pairs, points, strict=True)
        ]
        return 100 * np.median(np.concatenate(found)) / (2 * SIZE)

    bound = Filters().epipolar
    assert distance(clip.cam2world) < bound / 2
    assert distance(clip.cam2world @ np.diag([1.0, -1.0, -1.0, 1.0])) > 2 * bound  # OpenGL's axes
    assert distance(np.linalg.inv(clip.cam2world)) > 2 * bound  # the other direction


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_a_file_says_the_licence_whatever_the_layout(layout, tmp_path):
    """Its first line looks like that of RealEstate10K's camera files."""
    WRITERS[layout](tmp_path, room())
    (tmp_path / "licence.txt").write_text("mine, https://example.org/licence\n")
    name, options, world, _ = LAYOUTS[layout]
    source = FootageSource(root=str(tmp_path), frames=2, eval_share=0.0, **options)
    clip = source.clip(world, 0)
    assert clip.licence == "mine, https://example.org/licence"
    assert clip.provenance["format"] == name


def test_only_published_sequences_have_the_licence_of_their_data_set(tmp_path):
    made_footage.tum_rgbd(tmp_path / "tum", room())
    made_footage.seven_scenes(tmp_path / "seven", room())
    own, set_s = (tmp_path / "tum" / name for name in ("rgbd_dataset_room", "freiburg1_room"))
    take = tmp_path / "seven" / "office" / "seq-01"

    def licence(root):
        source = FootageSource(root=str(root), lens=LENS)
        return source.open(source.scenes()[0]).licence

    assert licence(own) is None
    own.rename(set_s)
    assert licence(set_s) == "CC-BY-4.0"
    assert licence(take) == licence(take.parent) == "Microsoft 7-Scenes: non-commercial research"
    take.rename(take.with_name("kitchen"))
    assert licence(take.with_name("kitchen")) is None


def test_depth_of_another_sensor_is_not_registered_by_the_constants_of_the_usual_one(tmp_path):
    """Which are the right ones where the file has the intrinsics of the published scenes."""
    made_footage.seven_scenes(tmp_path, room())
    path = tmp_path / "office" / "camera-intrinsics.txt"
    (tmp_path / "office" / "seq-01" / "camera-intrinsics.txt").rename(path)

    def opened():
        forget()
        return FootageSource(root=str(tmp_path), size=SIZE, frames=2, eval_share=0.0)

    clip = opened().clip("office/seq-01", 0)
    np.testing.assert_allclose(clip.depth, room().depth[:2], atol=1e-3)
    np.testing.assert_allclose(clip.intrinsics, room().intrinsics[:2], atol=1e-3)
    assert clip.provenance["depth_registered"] is False
    path.write_text("585 0 320\n0 585 240\n0 0 1\n")
    assert opened().open("office/seq-01").provenance["depth_registered"] is True
    path.unlink()
    assert opened().open("office/seq-01").provenance["depth_registered"] is True
