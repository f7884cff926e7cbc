"""Every layout of footage gives back the room that was written in it, and its geometry holds."""

import numpy as np
import pytest

from data_pipelines.clip import validate
from data_pipelines.sources.footage.formats import FORMATS
from data_pipelines.sources.footage.source import FootageSource
from helpers import made_footage
from helpers.made_footage import FRAMES, SIZE, room
from helpers.warps import psnrs

LENS = tuple(map(float, room().intrinsics[0]))
# Layout -> its format, options, the world, and what it has beside pictures and poses.
LAYOUTS = {
    "seven_scenes": ("seven_scenes", {"register": False}, "office/seq-01", {"depth", "licence"}),
    "tum_rgbd": ("tum_rgbd", {"lens": LENS}, "rgbd_dataset_room", {"depth", "licence"}),
    "re10k": ("re10k", {}, "train/0c11", set()),
    "pixelsplat": ("pixelsplat", {}, "train/0c11", set()),
    "spatialvid": ("spatialvid", {}, "group_0001/0a00", {"movers", "caption", "licence"}),
    "vipe": ("vipe", {}, "rgb/walk.mp4", {"depth", "movers"}),
    "mirage_sample": ("vipe", {}, "00000007", {"depth", "movers", "caption"}),
    "worldscore": ("worldscore", {}, "static/photorealistic/indoor/rooms/000", {"caption"}),
    "video": ("video", {"lens": LENS}, "walk.mp4", {"depth"}),
    "hm_world": ("video", {"lens": LENS}, "scene_1/clip.mp4", set()),
    "transforms": ("pictures", {}, "room", {"depth"}),
    "colmap": ("pictures", {}, "room", set()),
}


def test_every_format_has_a_layout_here():
    assert {name for name, *_ in LAYOUTS.values()} == set(FORMATS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_gives_back_what_was_written(layout, tmp_path):
    name, options, world, parts = LAYOUTS[layout]
    truth = room()
    getattr(made_footage, layout)(tmp_path, truth)
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
