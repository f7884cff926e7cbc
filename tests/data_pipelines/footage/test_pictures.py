"""Folders of pictures: when each was taken, what belongs to it, and which way up it is."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from data_pipelines.sources.footage.picture_names import named_files
from helpers import made_footage
from helpers.footage_reading import first_clip, made, refusal
from helpers.made_footage import FRAMES, SIZE, lines, room, write_depth_png, write_pictures

WHERE = {"size": SIZE, "picture_fps": 10.0}


def part(clip, chosen):
    fields = ("video", "depth", "intrinsics", "cam2world")
    return dataclasses.replace(clip, **{name: getattr(clip, name)[chosen] for name in fields})


def unregistered(root, lost):
    """COLMAP has placed all pictures but some, as it does."""
    made_footage.colmap(root, room())
    path = root / "room" / "sparse" / "0" / "images.txt"
    entries = path.read_text().split("\n", 1)[1].split("\n\n")[:-1]
    path.write_text("".join(f"{one}\n\n" for i, one in enumerate(entries) if i not in lost))


# -- (a) times ------------------------------------------------------------------------------------


def test_a_picture_without_a_camera_leaves_its_time_free(tmp_path):
    unregistered(tmp_path, {4, 5})
    clip = first_clip(tmp_path, frames=FRAMES - 2, **WHERE)
    kept = np.delete(np.arange(FRAMES), [4, 5])
    np.testing.assert_allclose(clip.times, kept / 10)
    np.testing.assert_array_equal(clip.video, room().video[kept])
    assert made(tmp_path, frames=3, **WHERE).left_out()["picture without a camera"] == 2


def test_no_clip_goes_past_more_pictures_without_a_camera(tmp_path):
    unregistered(tmp_path, {4, 5, 6})
    source = made(tmp_path, frames=3, hop=1, **WHERE)
    clips = [source.clip("room", i) for i in range(source.clip_counts("train")["room"])]
    numbers = [np.rint(clip.times * 10).astype(int).tolist() for clip in clips]
    assert numbers == [[0, 1, 2], [1, 2, 3], [7, 8, 9], [8, 9, 10], [9, 10, 11]]
    for clip, frames in zip(clips, numbers, strict=True):
        np.testing.assert_allclose(clip.cam2world, room().cam2world[frames], atol=1e-6)


def test_a_missing_picture_leaves_its_time_free(tmp_path):
    made_footage.transforms(tmp_path, room())
    for number in (3, 7, 8, 9):
        (tmp_path / "room" / "images" / f"{number:04d}.png").unlink()
    source = made(tmp_path, missing="skip", frames=6, hop=1, **WHERE)
    assert source.clip_counts("train") == {"room": 1}  # it would not go past 7 to 9
    clip = source.clip("room", 0)
    np.testing.assert_allclose(clip.times, np.array([0, 1, 2, 4, 5, 6]) / 10)
    # Depth is that of the pictures, though their maps are all there.
    np.testing.assert_array_equal(clip.depth, room().depth[[0, 1, 2, 4, 5, 6]])


# -- (b) maps by name -----------------------------------------------------------------------------


def poses_by_number(root, name="frame_{}.png", **folders):
    """Pictures and poses, and other folders of arrays by the name of each file."""
    folder = root / "room"
    write_pictures(folder / "images", room().video, name)
    np.savez(folder / "poses.npz", cam2world=room().cam2world, intrinsics=room().intrinsics)
    for kind, files in folders.items():
        (folder / kind).mkdir()
        for file, array in files.items():
            if file.endswith(".npy"):
                np.save(folder / kind / file, array)
            else:
                Image.fromarray(array).save(folder / kind / file)
    return folder


def mask(value):
    return np.full((SIZE, SIZE), value, np.uint8)


def test_maps_go_with_the_picture_of_their_name_whatever_else_is_there(tmp_path):
    """More maps than cameras, as the pictures that COLMAP could not place have theirs."""
    unregistered(tmp_path, {0, 1})
    folder = tmp_path / "room"
    for kind in ("depth", "masks"):
        (folder / kind).mkdir()
    for i, depth in enumerate(room().depth):
        write_depth_png(folder / "depth" / f"{i:04d}.png", depth, 0.001)
        # As COLMAP calls them; only picture 2 shows something that moves.
        Image.fromarray(mask(i == 2)).save(folder / "masks" / f"{i:04d}.png.png")
    clip = first_clip(tmp_path, frames=FRAMES - 2, **WHERE)
    np.testing.assert_allclose(clip.depth, room().depth[2:], atol=1e-3)
    assert [i for i in range(FRAMES - 2) if clip.mover_ids[i].any()] == [0]


def test_a_map_that_lacks_is_refused_by_its_frame(tmp_path):
    maps = {f"frame_{i}.png": mask(0) for i in range(FRAMES) if i != 5}
    folder = poses_by_number(tmp_path, masks=maps)
    message = refusal(tmp_path, frames=3, **WHERE)
    assert "masks: found none for frame 5, frame_5.png, expected one of the masks" in message
    # Another file in its place is no help: it is the name that counts.
    Image.fromarray(mask(0)).save(folder / "masks" / "frame_12.png")
    assert "for frame 5, frame_5.png" in refusal(tmp_path, frames=3, **WHERE)


def test_numbers_that_do_not_go_together_are_refused(tmp_path):
    """Depth counted from 0, pictures from 1: in order and count they would seem to fit."""
    maps = {f"d{i}.npy": depth for i, depth in enumerate(room().depth)}
    folder = poses_by_number(tmp_path, depth=maps)
    assert first_clip(tmp_path, frames=FRAMES, **WHERE).depth is not None
    for number in reversed(range(FRAMES)):
        file = folder / "images" / f"frame_{number}.png"
        file.rename(folder / "images" / f"frame_{number + 1}.png")
    message = refusal(tmp_path, frames=3, **WHERE)
    assert "depth: found none for frame 11, frame_12.png" in message


def test_names_without_anything_in_common_are_refused(tmp_path):
    maps = {f"{chr(97 + i)}.png": mask(0) for i in range(FRAMES)}
    poses_by_number(tmp_path, masks=maps)
    message = refusal(tmp_path, frames=3, **WHERE)
    assert "masks: found 12 masks, none of them of the name or number of frame 0" in message


@pytest.mark.parametrize(
    ("kind", "what", "small"),
    [("depth", "depth", np.ones((SIZE, 20), np.uint16)), ("masks", "mask", mask(0)[:, :20])],
)
def test_a_map_of_another_size_is_refused_by_its_frame(kind, what, small, tmp_path):
    maps = {f"frame_{i}.png": np.ones_like(small, shape=(SIZE, SIZE)) for i in range(FRAMES)}
    poses_by_number(tmp_path, **{kind: maps | {"frame_2.png": small}})
    message = refusal(tmp_path, frames=3, **WHERE)
    assert f"poses.npz: {what} of frame 2: found 48 x 20 pixels, expected 48 x 48" in message


def test_two_maps_of_one_picture_are_refused(tmp_path):
    maps = {f"frame_{i}.npy": depth for i, depth in enumerate(room().depth)}
    folder = poses_by_number(tmp_path, depth=maps)
    write_depth_png(folder / "depth" / "frame_3.png", room().depth[3], 0.001)
    message = refusal(tmp_path, frames=3, **WHERE)
    assert "depth: found frame_3.npy, frame_3.png for frame 3, frame_3.png" in message


def test_whole_numbers_of_depth_are_steps_and_not_metres(tmp_path):
    steps = np.rint(room().depth * 1000).astype(np.uint16)
    poses_by_number(tmp_path, depth={f"frame_{i}.npy": s for i, s in enumerate(steps)})
    clip = first_clip(tmp_path, frames=FRAMES, **WHERE)
    np.testing.assert_allclose(clip.depth, room().depth, atol=1e-3)


# -- (c) folders of pictures ----------------------------------------------------------------------


def two_cameras(root):
    """Names as COLMAP and transforms.json give them; both cameras have pictures of one name."""
    made_footage.transforms(root, room())
    folder = root / "room"
    (folder / "depth").rename(folder / "maps")
    content = json.loads((folder / "transforms.json").read_text())
    for camera in ("cam1", "cam2"):
        (folder / "images" / camera).mkdir()
        (folder / "depth" / camera).mkdir(parents=True)
    for frame in content["frames"]:
        number = int(frame["file_path"][-8:-4])
        place = f"cam{1 + number // 6}/{number % 6:04d}"
        (folder / f"images/{number:04d}.png").rename(folder / f"images/{place}.png")
        (folder / f"maps/{number:04d}.npy").rename(folder / f"depth/{place}.npy")
        frame["file_path"] = f"images/{place}.png"
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def test_pictures_may_lie_in_folders_each_a_take_of_its_own(tmp_path):
    two_cameras(tmp_path)
    source = made(tmp_path, frames=6, hop=1, **WHERE)
    assert source.clip_counts("train") == {"room": 2}  # and none across
    for index, frames in enumerate((range(6), range(6, 12))):
        clip = source.clip("room", index)
        np.testing.assert_array_equal(clip.video, room().video[list(frames)])
        np.testing.assert_array_equal(clip.depth, room().depth[list(frames)])
        np.testing.assert_allclose(clip.cam2world, room().cam2world[list(frames)], atol=1e-6)


@pytest.mark.parametrize("clock", ["one", "each"])
def test_no_clip_leaves_a_take_where_the_cameras_have_times(tmp_path, clock):
    folder = two_cameras(tmp_path)
    content = json.loads((folder / "transforms.json").read_text())
    for number, frame in enumerate(sorted(content["frames"], key=lambda one: one["file_path"])):
        frame["time"] = 0.25 * (number % 6 if clock == "each" else number)
    (folder / "transforms.json").write_text(json.dumps(content))
    source = made(tmp_path, frames=6, hop=1, **WHERE)
    assert source.clip_counts("train") == {"room": 2}
    for index, frames in enumerate((range(6), range(6, 12))):
        clip = source.clip("room", index)
        np.testing.assert_array_equal(clip.video, room().video[list(frames)])
        np.testing.assert_allclose(clip.times - clip.times[0], 0.25 * np.arange(6))
    assert "found 12 frames, at most 6 of them" in refusal(tmp_path, frames=7, **WHERE)


def test_no_clip_goes_from_one_short_take_to_the_next(tmp_path):
    """With one picture a folder, all steps are from take to take."""
    folder = two_cameras(tmp_path)
    content = json.loads((folder / "transforms.json").read_text())
    for number, frame in enumerate(content["frames"]):
        place = f"images/take{number:02d}/0000.png"
        (folder / place).parent.mkdir()
        (folder / frame["file_path"]).rename(folder / place)
        frame["file_path"] = place
    (folder / "transforms.json").write_text(json.dumps(content))
    shutil.rmtree(folder / "depth")
    assert made(tmp_path, frames=1, **WHERE).clip_counts("train") == {"room": 12}
    assert "at most 1 of them in a piece" in refusal(tmp_path, frames=2, **WHERE)


def test_a_picture_of_another_folder_is_never_taken(tmp_path):
    folder = two_cameras(tmp_path)
    (folder / "images" / "cam2" / "0003.png").unlink()
    message = refusal(tmp_path, frames=3, **WHERE)
    assert "found no picture images/cam2/0003.png" in message
    base = folder / "images"
    there = sorted(base.rglob("*.png"))
    for name, place in {
        "cam2/0001.png": "cam2/0001.png",
        "C:\\scan\\images\\cam2\\0001.jpg": "cam2/0001.png",
        "/home/me/scan/images/cam1/0002": "cam1/0002.png",
        "images/cam3/0001.png": None,  # no such folder
        "0001.png": None,  # two have this name
        "0003.png": "cam1/0003.png",  # one has
    }.items():
        [found] = named_files([name], folder, base, there)
        assert found == (None if place is None else base / place), name


def test_two_cameras_of_one_picture_are_refused(tmp_path):
    made_footage.transforms(tmp_path, room())
    path = tmp_path / "room" / "transforms.json"
    content = json.loads(path.read_text())
    content["frames"][0]["file_path"] = content["frames"][1]["file_path"]
    path.write_text(json.dumps(content))
    message = refusal(tmp_path, frames=3, **WHERE)
    assert "transforms.json: found picture 0010.png twice" in message


# -- (d) orientation ------------------------------------------------------------------------------


def tall(root, exif, size):
    """Wide pictures as stored, which EXIF turns by a quarter, with cameras of pictures of `size`"""
    wide = room().video[:, 12:36]  # 24 x 48
    folder = root / "room"
    (folder / "images").mkdir(parents=True)
    for number, picture in enumerate(wide):
        image = Image.fromarray(picture)
        tags = image.getexif()
        tags[0x0112] = exif
        image.save(folder / "images" / f"{number:04d}.png", exif=tags)
    fx = float(room().intrinsics[0, 0])
    content = {"fl_x": fx, "fl_y": fx, "cx": size[1] / 2, "cy": size[0] / 2}
    content |= {"w": size[1], "h": size[0]}
    content["frames"] = [
        {"file_path": f"images/{i:04d}.png", "transform_matrix": pose.tolist()}
        for i, pose in enumerate(room().cam2world)
    ]
    (folder / "transforms.json").write_text(json.dumps(content))
    return wide


def test_pictures_are_turned_unless_the_cameras_are_of_those_stored(tmp_path):
    turned, stored = tmp_path / "turned", tmp_path / "stored"
    upright = {"size": 48, "width": 24, "frames": FRAMES}
    wide = tall(turned, 6, (48, 24))
    clip = first_clip(turned, **upright)
    np.testing.assert_array_equal(clip.video, np.rot90(wide, -1, (1, 2)))
    assert "orientation" not in clip.provenance
    tall(stored, 6, (24, 48))
    clip = first_clip(stored, size=24, width=48, frames=FRAMES)
    np.testing.assert_array_equal(clip.video, wide)
    assert clip.provenance["orientation"] == "as stored, EXIF not applied"
    message = refusal(stored, orientation="exif", **upright)
    assert "found cameras of 48x24 pictures, expected" in message
    message = refusal(turned, orientation="stored", **upright)
    assert "found cameras of 24x48 pictures, expected" in message


def test_half_a_turn_is_as_told(tmp_path):
    """No size tells whether the cameras are of pictures that were turned by half."""
    wide = tall(tmp_path, 3, (24, 48))
    where = {"size": 24, "width": 48, "frames": FRAMES}
    for how, expected in (("auto", wide[:, ::-1, ::-1]), ("exif", wide[:, ::-1, ::-1])):
        np.testing.assert_array_equal(
            first_clip(tmp_path, orientation=how, **where).video, expected
        )
    np.testing.assert_array_equal(first_clip(tmp_path, orientation="stored", **where).video, wide)
    with pytest.raises(ValueError, match="orientation: found 'up', expected one of auto, exif"):
        made(tmp_path, orientation="up")


def test_one_picture_that_is_turned_otherwise_is_said(tmp_path):
    tall(tmp_path, 1, (24, 48))
    path = tmp_path / "room" / "images" / "0002.png"
    with Image.open(path) as image:
        tags = image.getexif()
        tags[0x0112] = 8
        image.save(path, exif=tags)
    message = refusal(tmp_path, size=24, width=48, frames=3)
    assert "0002.png: frame 2: found 48 x 24 pixels, expected 24 x 48" in message
    assert "--config.data.orientation=stored makes it so" in message
    first_clip(tmp_path, size=24, width=48, frames=3, orientation="stored")


# -- (e) what transforms.json names ---------------------------------------------------------------


def listed(root):
    """Depth and masks under names that say nothing of the picture, by transforms.json alone."""
    made_footage.transforms(root, room())
    folder = root / "room"
    (folder / "depth").rename(folder / "d")
    (folder / "m").mkdir()
    content = json.loads((folder / "transforms.json").read_text())
    for place, frame in enumerate(content["frames"]):
        number = int(frame["file_path"][-8:-4])
        (folder / "d" / f"{number:04d}.npy").rename(folder / "d" / f"{chr(97 + place)}.npy")
        # White is used, black is not: in nerfstudio's masks the upper row is left out.
        used = np.full((SIZE, SIZE), 255, np.uint8)
        used[0] = 0
        Image.fromarray(used).save(folder / "m" / f"{chr(97 + place)}.png")
        frame["depth_file_path"] = f"d/{chr(97 + place)}.npy"
        frame["mask_path"] = f"./m/{chr(97 + place)}.png"
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder, content


def test_depth_and_masks_that_transforms_json_names_are_used(tmp_path):
    folder, _ = listed(tmp_path)
    (folder / "depth").mkdir()  # which it comes before
    np.save(folder / "depth" / "0000.npy", np.ones((SIZE, SIZE), np.float32))
    clip = first_clip(tmp_path, frames=FRAMES, **WHERE)
    np.testing.assert_array_equal(clip.depth, room().depth)
    assert (clip.mover_ids[:, 0] == 1).all() and not clip.mover_ids[:, 1:].any()


def test_depth_that_transforms_json_names_and_that_lacks_is_refused(tmp_path):
    folder, content = listed(tmp_path)
    (folder / "d" / "c.npy").unlink()  # of the last frame but two
    message = refusal(tmp_path, frames=3, **WHERE)
    assert "transforms.json: frame 9, 0009.png: found no" in message and "d/c.npy" in message
    del content["frames"][2]["depth_file_path"]
    (folder / "transforms.json").write_text(json.dumps(content))
    message = refusal(tmp_path, frames=3, **WHERE)
    assert "frame 9, 0009.png: found no depth_file_path, expected one for each" in message
    content["frames"][2]["depth_file_path"] = 7
    (folder / "transforms.json").write_text(json.dumps(content))
    message = refusal(tmp_path, frames=3, **WHERE)
    assert "frames[2]: depth_file_path: found 7, expected a file" in message


def test_poses_in_the_order_of_names_take_pictures_in_that_order(tmp_path):
    """Without names there is nothing but the order, and the number must be right."""
    folder = poses_by_number(tmp_path)
    clip = first_clip(tmp_path, frames=FRAMES, **WHERE)
    np.testing.assert_array_equal(clip.video, room().video)
    np.testing.assert_allclose(clip.times, np.arange(FRAMES) / 10)
    (folder / "images" / "frame_4.png").unlink()
    assert "found 12 cameras, expected 11" in refusal(tmp_path, frames=3, **WHERE)
    (folder / "poses.npz").unlink()
    (folder / "poses.txt").write_text(lines(*room().cam2world[:11, :3].reshape(11, 12)))
    assert "found no intrinsics" in refusal(tmp_path, direction="c2w", frames=3, **WHERE)
