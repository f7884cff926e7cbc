"""Footage as a source: what is held out, recording, and refusals that name the file."""

import dataclasses
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines import recording, sources
from data_pipelines.clip_codecs import ENCODINGS
from data_pipelines.clip_format import from_bytes, read_header
from data_pipelines.filters import Filters
from data_pipelines.loading import ClipSource
from data_pipelines.recording import read_records
from data_pipelines.sources.procedural import ProceduralSource
from helpers import made_footage
from helpers.footage_reading import forget
from helpers.footage_sources import LENS, made, refusal
from helpers.made_footage import FPS, FRAMES, SIZE, lines, room, write_video
from helpers.recordings import quiet, records


@pytest.fixture
def walk(tmp_path):
    root = tmp_path / "walk"
    root.mkdir()
    made_footage.video(root, room(), sound=False)
    return root


@pytest.fixture(autouse=True)
def anew():
    forget()


def copies(walk, count):
    for number in range(1, count):
        for path in list(walk.glob("walk.*")):
            copy = shutil.copytree if path.is_dir() else shutil.copy
            copy(path, walk / f"walk{number}{path.suffix}")


def test_it_keeps_the_protocol_and_is_picklable(walk):
    source = made(walk)
    assert isinstance(source, sources.FiniteSource) and isinstance(source, sources.Source)
    assert not isinstance(sources.make("procedural"), sources.FiniteSource)
    assert pickle.loads(pickle.dumps(source)) == source
    clips = list(source.clips("walk.mp4", 2, seed=1))
    again = list(source.clips("walk.mp4", 2, seed=1))
    assert [c.name for c in clips] == [c.name for c in again] and len(
        set(c.name for c in clips)
    ) == 2


def test_workers_need_neither_jax_nor_flax():
    code = (
        "import sys\n"
        "from data_pipelines.sources.footage import source, formats\n"
        "import importlib\n"
        "[importlib.import_module(m) for m in formats.FORMATS.values()]\n"
        "sys.exit(' '.join(n for n in ('jax', 'flax', 'tensorflow') if n in sys.modules) or 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_the_end_of_a_single_scene_is_held_out_without_overlap(walk):
    source = made(walk, hop=1, eval_share=0.2)
    assert source.worlds("train") == ("walk.mp4",) and source.worlds("eval") == ("walk.mp4/end",)
    counts = source.clip_counts("train") | source.clip_counts("eval")
    frames = {
        world: [source.clip(world, i).provenance["frames"] for i in range(count)]
        for world, count in counts.items()
    }
    assert max(last for _, last in frames["walk.mp4"]) < min(
        first for first, _ in frames["walk.mp4/end"]
    )
    assert max(last for _, last in frames["walk.mp4/end"]) == FRAMES - 1
    assert "found 12 frames in the only scene, expected 18 or more" in refusal(
        made(walk, frames=9, hop=1)
    )
    whole = made(walk, eval_share=0.0)
    assert whole.worlds("eval") == () and whole.clip_counts("train") == {"walk.mp4": 4}


def test_whole_scenes_are_held_out_and_stay_so(walk):
    copies(walk, 5)
    train, held_out = (made(walk, eval_share=0.4).worlds(split) for split in ("train", "eval"))
    assert len(held_out) == 2 and not set(train) & set(held_out)
    assert set(train) | set(held_out) == {"walk.mp4", *(f"walk{i}.mp4" for i in range(1, 5))}
    with pytest.raises(ValueError, match="found split 'test', expected train or eval"):
        made(walk).worlds("test")


def test_frames_are_picked_by_their_times(tmp_path):
    """A variable rate: every clip shows its own poses, and its times are those of the file."""
    clip = room()
    times = np.cumsum([0.0, 0.1, 0.05, 0.05, 0.1, 0.1, 0.05, 0.05, 0.1, 0.1, 0.1, 0.1])
    write_video(tmp_path / "a.mkv", clip.video, times=times)
    np.savez(tmp_path / "a.npz", cam2world=clip.cam2world, intrinsics=clip.intrinsics)
    source = made(tmp_path, lens=(), fps=10.0, frames=9, size=SIZE, eval_share=0.0)
    found = source.clip("a.mkv", 0)
    chosen = [0, 1, 3, 4, 5, 7, 8, 9, 10]
    np.testing.assert_allclose(found.times, times[chosen], atol=2e-3)
    np.testing.assert_allclose(found.cam2world, clip.cam2world[chosen])
    assert np.abs(found.video.astype(int) - clip.video[chosen]).max() <= 4
    assert found.fps == 10.0
    assert "found 10 frames per second, expected at least 20" in refusal(
        made(tmp_path, lens=(), fps=20.0)
    )


def test_pictures_are_cut_and_resized_with_their_cameras(walk):
    clip = made(walk, size=12, width=24, eval_share=0.0).clip("walk.mp4", 0)
    assert clip.video.shape == (3, 12, 24, 3)
    fx, fy, cx, cy = LENS
    scale = 24 / SIZE
    expected = [fx * scale, fy * scale, cx * scale, (cy - SIZE / 4) * scale]
    np.testing.assert_allclose(clip.intrinsics[0], expected, rtol=1e-6)


def test_footage_is_recorded_whole_and_resumed(walk, tmp_path):
    copies(walk, 3)
    source = made(walk, eval_share=0.3)
    first = quiet(source, tmp_path / "out", count=None, shard_clips=3)
    assert (first.clips, first.rejected, len(first.shards)) == (8, 0, 3)
    names = {read_header(data)["name"] for shard in first.shards for data in read_records(shard)}
    assert len(names) == 8  # each once
    before = records(tmp_path / "out")
    first.shards[1].unlink()
    again = quiet(source, tmp_path / "out", count=None, shard_clips=3)
    assert again.resumed == 2 and records(tmp_path / "out") == before
    few = quiet(source, tmp_path / "few", count=3)
    assert few.clips == few.requested == 3
    card = json.loads((tmp_path / "out" / "dataset.json").read_text())["splits"]["train"]
    assert card["hours"] == round(8 * 3 / FPS / 3600, 4)
    assert card["picture_sizes"] == {f"{SIZE}x{SIZE}": 8} and card["licences"] == {"not stated": 8}
    for file, entry in card["shards"].items():
        assert entry["sha256"] == recording.shards.checksum(tmp_path / "out" / file)
    stored = from_bytes(next(read_records(first.shards[0])))
    assert stored.depth is not None and stored.mover_ids is None and stored.caption is None


def test_other_processes_record_the_same(walk, tmp_path):
    source = made(walk, eval_share=0.0)
    quiet(source, tmp_path / "here", count=None, shard_clips=2)
    quiet(source, tmp_path / "there", count=None, shard_clips=2, workers=1)
    assert records(tmp_path / "here") == records(tmp_path / "there")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_is_loaded(encoding, walk, tmp_path):
    source = made(walk, eval_share=0.0, size=SIZE)
    quiet(source, tmp_path / "out", count=None, codecs=ENCODINGS[encoding])
    loaded = ClipSource(tmp_path / "out", "train", ("video", "depth"))[1]
    truth = source.clip("walk.mp4", 1)
    difference = np.abs(loaded["video"].astype(int) - truth.video)
    if encoding == "visually_lossless":
        psnr = 10 * np.log10(255**2 / np.mean(difference**2))
        shard = sorted((tmp_path / "out").glob("*.array_record"))[0]
        codec = read_header(list(read_records(shard))[1])["codecs"]["video"]
        assert psnr > 38 and psnr == pytest.approx(codec["psnr"], abs=0.01)
        np.testing.assert_allclose(loaded["depth"], truth.depth, atol=1e-3)
    else:
        assert difference.max() == 0 and (loaded["depth"] == truth.depth).all()


def test_a_scene_that_cannot_be_read_does_not_end_the_recording(walk, tmp_path):
    copies(walk, 4)
    (walk / "walk1.mp4").write_bytes(b"")
    report = quiet(made(walk, eval_share=0.0), tmp_path / "out", count=None)
    assert report.clips == 12 and report.reasons == {"unreadable": 1}
    assert "walk1.mp4: found an empty file" in report.examples[0]


def test_options_out_of_range_are_refused(walk):
    for options in ({"format": "reel"}, {"missing": "perhaps"}, {"lens": (1.0,)}, {"hop": -1}):
        with pytest.raises(ValueError, match=rf"{next(iter(options))}.*expected"):
            made(walk, **options)
    with pytest.raises(ValueError, match="no such file or folder"):
        made(walk / "none").worlds("train")
    (walk.parent / "empty").mkdir()
    with pytest.raises(ValueError, match="found no footage of a known layout, expected one of"):
        made(walk.parent / "empty").worlds("train")


def test_a_single_video_may_be_the_root(walk):
    source = made(walk / "walk.mp4", eval_share=0.0)
    assert source.clip_counts("train") == {"walk.mp4": 4}
    assert source.clip("walk.mp4", 3).provenance["format"] == "video"


def test_what_moves_is_found_by_depth_and_poses_where_no_masks_say_it(walk, tmp_path):
    """A ball that rolls through a room, of which the footage has pictures, poses and depth."""
    source = ProceduralSource(size=SIZE, frames=17, fps=float(FPS))
    clip = next(source.clips("procedural/train-004", 1, seed=3))
    made_footage.transforms(tmp_path / "scan", clip)
    where = {"lens": (), "size": SIZE, "frames": 17, "eval_share": 0.0}
    plain, found = (
        made(tmp_path / "scan", movers=movers, **where).clip("room", 0)
        for movers in ("", "residual")
    )
    assert plain.mover_ids is None and found.provenance["movers"] == "residual"
    moving, truth = found.mover_ids > 0, clip.mover_ids > 0
    assert (moving & truth).sum() > 0.98 * moving.sum() > 0
    assert (moving & truth).sum() > 0.8 * truth.sum()
    # In a room where nothing moves, nothing is found; what masks say stays.
    still = made(walk, movers="residual", size=SIZE, frames=12, eval_share=0.0)
    assert not still.clip("walk.mp4", 0).mover_ids.any()
    (walk / "walk.masks").mkdir()
    made_footage.write_pictures(walk / "walk.masks", np.full((FRAMES, SIZE, SIZE), 255, np.uint8))
    forget()
    masked = still.clip("walk.mp4", 0)
    assert masked.mover_ids.all() and "movers" not in masked.provenance


# -- bad inputs: each is said of its file and, where there is one, its frame ----------------------


def test_a_wrong_number_of_cameras_is_refused(walk):
    (walk / "walk.txt").unlink()
    np.savez(walk / "walk.npz", cam2world=room().cam2world[:-2])
    assert "walk.npz: found 10 cameras, expected 12" in refusal(made(walk, eval_share=0.0))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_pose_that_is_no_number_is_refused(value, walk):
    (walk / "walk.txt").unlink()
    poses = room().cam2world.copy()
    poses[5, 0, 3] = value
    np.savez(walk / "walk.npz", cam2world=poses)
    message = refusal(made(walk, eval_share=0.0))
    assert "walk.npz" in message and "[5]" in message


def test_a_left_handed_pose_is_refused(walk):
    (walk / "walk.txt").unlink()
    poses = room().cam2world.copy()
    poses[4, :3, 0] *= -1
    np.savez(walk / "walk.npz", cam2world=poses)
    message = refusal(made(walk, eval_share=0.0))
    assert "walk.npz" in message and "[4]" in message and "left-handed" in message


def test_a_lens_of_another_resolution_is_refused(walk):
    (walk / "walk.txt").unlink()
    clip, path = room(), walk / "walk.npz"
    where = {"lens": (), "eval_share": 0.0, "size": SIZE}
    np.savez(path, cam2world=clip.cam2world, intrinsics=2 * clip.intrinsics)
    message = refusal(made(walk, **where))
    assert "walk.npz: found cx, cy = 48, 48" in message and "picture of 96 x 96" in message
    assert "those of 48 x 48" in message and "--config.data.lens" in message
    forget()
    np.savez(path, cam2world=clip.cam2world, intrinsics=clip.intrinsics)
    np.testing.assert_allclose(made(walk, **where).clip("walk.mp4", 0).intrinsics[0], LENS)


@pytest.mark.parametrize("cut", [100, 3000])
def test_a_video_cut_short_is_refused(cut, walk):
    data = (walk / "walk.mp4").read_bytes()
    (walk / "walk.mp4").write_bytes(data[:-cut])
    assert "walk.mp4" in refusal(made(walk, eval_share=0.0))


def test_a_folder_of_ten_thousand_files_is_listed_once(walk, monkeypatch):
    """Half of them videos, most without cameras: nothing grows with the square of their number."""
    for number in range(5_000):
        (walk / f"{number}.mp4").touch()
        (walk / f"{number}.srt").touch()
    listed = []
    listing = Path.iterdir

    def iterdir(path):
        listed.append(path)
        return listing(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert made(walk, format="video").worlds("train") == ("walk.mp4",)
    assert listed.count(walk) < 10


def test_cameras_without_a_lens_are_refused(walk):
    message = refusal(made(walk, lens=(), eval_share=0.0))
    assert "walk.txt: found no intrinsics" in message and "data.lens" in message


@pytest.mark.parametrize("value", [np.nan, -1.0, -np.inf])
def test_depth_that_is_none_is_refused(value, tmp_path):
    made_footage.transforms(tmp_path, room())
    path = tmp_path / "room" / "depth" / "0001.npy"
    depth = np.load(path)
    depth[3, 4] = value
    np.save(path, depth)
    message = refusal(made(tmp_path, lens=(), size=SIZE, eval_share=0.0))
    assert "0001.npy (frame 1): found" in message and "in 1 pixels, expected metres >= 0" in message


def test_maps_of_another_number_or_size_are_refused(walk):
    depth = walk / "walk.depth"
    (depth / "0003.png").rename(depth / "0003.gone")
    message = refusal(made(walk, eval_share=0.0))
    assert "walk.depth: found 11 depth maps, expected 12" in message
    assert "none is numbered 3 (frame 3)" in message
    (depth / "0003.gone").rename(depth / "0003.png")
    masks = walk / "walk.masks"
    masks.mkdir()
    for number in range(FRAMES - 1):
        Image.new("L", (SIZE, SIZE)).save(masks / f"{number:04d}.png")
    forget()
    message = refusal(made(walk, eval_share=0.0))
    assert "walk.masks: found 11 masks, expected 12" in message
    assert "none is numbered 11 (frame 11)" in message


def test_a_map_cut_short_is_refused(tmp_path):
    made_footage.vipe(tmp_path, room())
    path = tmp_path / "depth" / "walk.zip"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    message = refusal(made(tmp_path, lens=(), eval_share=0.0))
    assert "walk.zip: found no whole zip file" in message


def test_pictures_that_lack_are_refused_or_left_out_and_counted(tmp_path):
    made_footage.colmap(tmp_path, room())
    for number in (0, 7):
        (tmp_path / "room" / "images" / f"{number:04d}.png").unlink()
    message = refusal(made(tmp_path, lens=(), eval_share=0.0))
    assert "found no picture 0000.png, expected all 12" in message and "missing=skip" in message
    source = made(tmp_path, lens=(), missing="skip", frames=10, eval_share=0.0)
    assert source.left_out() == {"picture missing": 2}
    expected = np.delete(room().cam2world, [0, 7], axis=0)
    np.testing.assert_allclose(source.clip("room", 0).cam2world, expected, atol=1e-6)


def test_what_fails_a_filter_is_left_out_and_the_numbers_of_the_rest_are_kept(walk, tmp_path):
    copies(walk, 2)
    (walk / "walk1.mp4").unlink()
    write_video(walk / "walk1.mp4", np.tile(room().video[:1], (FRAMES, 1, 1, 1)))
    source = made(walk, eval_share=0.0, frames=4, size=SIZE)
    out, where = tmp_path / "out", {"count": None, "filters": Filters()}
    report = quiet(source, out, **where)
    assert report.clips == 3 and report.reasons == {"motion": 3}
    assert "walk1.mp4/000000', motion: found 0 %, expected at least 1 %" in report.examples[0]
    entry = json.loads((out / "dataset.json").read_text())["splits"]["train"]
    found = [read_header(r)["provenance"]["measures"] for rs in records(out).values() for r in rs]
    assert len(found) == 3 and entry["filters"]["motion"] == 1.0
    for name in ("blur", "motion", "warp_gain"):
        values = [measures[name] for measures in found]
        assert entry["measures"][name] == {
            "clips": 3,
            "least": min(values),
            "mean": pytest.approx(np.mean(values), abs=1e-3),
            "most": max(values),
        }
    with pytest.raises(ValueError, match="recorded with filters="):
        quiet(source, out, **where | {"filters": Filters(blur=0.5)})
    card = json.loads((out / "dataset.json").read_text())
    del card["splits"]["train"]["filters"]  # as before there were any
    (out / "dataset.json").write_text(json.dumps(card))
    assert quiet(source, out, **where | {"filters": Filters(blur=0.5)}).clips == 3
    kept = quiet(source, tmp_path / "all", **where | {"filters": Filters(apply=False)})
    assert kept.clips == 6 and kept.reasons == {}


def test_a_chunk_cut_short_is_refused(tmp_path):
    made_footage.pixelsplat(tmp_path, room())
    path = tmp_path / "train" / "000000.torch"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    message = refusal(made(tmp_path, lens=(), eval_share=0.0))
    assert "000000.torch: found no whole torch file" in message


def test_only_pictures_are_opened_in_a_chunk(tmp_path, monkeypatch):
    """Pillow would hand PostScript to an interpreter."""
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    monkeypatch.setattr(made_footage, "png", lambda _: postscript)
    made_footage.pixelsplat(tmp_path, room())
    message = refusal(made(tmp_path, lens=(), eval_share=0.0))
    assert "image 0: not a picture" in message


def test_a_caption_that_is_not_utf8_is_refused(tmp_path):
    made_footage.mirage_sample(tmp_path, room())
    (tmp_path / "00000007" / "clip.txt").write_bytes(b"caf\xe9")
    message = refusal(made(tmp_path, lens=(), eval_share=0.0))
    assert "clip.txt: found byte 0xe9 at 3" in message


def test_samples_that_failed_are_refused(tmp_path):
    made_footage.mirage_sample(tmp_path, room())
    (tmp_path / "00000007" / ".skip").write_text("no pose")
    with pytest.raises(ValueError, match=r"00000007: found \.skip"):
        made(tmp_path, lens=(), eval_share=0.0).clip("00000007", 0)


def test_files_go_by_the_numbers_in_their_names(tmp_path):
    """Frame 2 comes before frame 10 though their names do not say so with zeros."""
    clip = room()
    made_footage.write_pictures(tmp_path / "room" / "images", clip.video, "frame_{}.png")
    np.savez(tmp_path / "room" / "poses.npz", cam2world=clip.cam2world)
    (tmp_path / "room" / "depth").mkdir()
    (tmp_path / "room" / "masks").mkdir()
    for number, depth in enumerate(clip.depth):
        np.save(tmp_path / "room" / "depth" / f"d{number}.npy", depth)
        mask = np.full((SIZE, SIZE), number == 10, np.uint8)
        Image.fromarray(mask).save(tmp_path / "room" / "masks" / f"{number}.png")
    found = made(tmp_path, frames=FRAMES, size=SIZE, eval_share=0.0).clip("room", 0)
    np.testing.assert_array_equal(found.video, clip.video)
    np.testing.assert_array_equal(found.depth, clip.depth)
    assert [frame for frame in range(FRAMES) if found.mover_ids[frame].any()] == [10]


def test_frames_without_tracking_break_a_take(tmp_path):
    made_footage.seven_scenes(tmp_path, room())
    path = tmp_path / "office" / "seq-01" / "frame-000005.pose.txt"
    path.write_text("nan nan nan nan\n" * 3 + "0 0 0 1\n")
    source = made(tmp_path, lens=(), frames=5, hop=1, eval_share=0.0, register=False)
    assert source.left_out() == {"pose not finite": 1}
    frames = [source.clip("office/seq-01", i).provenance["frames"] for i in range(3)]
    assert frames == [[0, 4], [6, 10], [7, 11]]


@pytest.mark.parametrize("whole", [True, False])
def test_a_shot_takes_the_frames_of_its_times_from_a_video(whole, tmp_path):
    """RealEstate10K: the shot begins 0.4 s into the video that its address names."""
    clip = room()
    stamps = 400_000 + np.arange(6) * 100_000
    part = dataclasses.replace(
        clip, **{name: getattr(clip, name)[4:10] for name in ("video", "intrinsics", "cam2world")}
    )
    text = "https://www.youtube.com/watch?v=a-bc_1\n"
    text += lines(*made_footage.re10k_rows(part, stamps))
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "0c11.txt").write_text(text.replace("\n", "\r\n"))
    (tmp_path / "videos").mkdir()
    if whole:
        write_video(tmp_path / "videos" / "a-bc_1.mp4", clip.video)
    else:
        write_video(tmp_path / "train" / "0c11.mp4", part.video)
    source = made(tmp_path, lens=(), frames=6, size=SIZE, eval_share=0.0)
    found = source.clip("train/0c11", 0)
    assert np.abs(found.video.astype(int) - part.video).max() <= 4
    np.testing.assert_allclose(found.cam2world, part.cam2world, atol=1e-6)
    assert found.provenance["scale"] == "arbitrary"


def test_a_dense_trajectory_is_read_between_its_lines(tmp_path):
    """TUM RGB-D: a motion capture of 100 lines a second, on another clock than the camera's."""
    made_footage.tum_rgbd(tmp_path, room())
    folder = tmp_path / "rgbd_dataset_room"
    start = 1_305_031_102.1
    times = start - 0.033 + np.arange(0, 0.75, 0.01)
    angle = 0.3 * (times - start)  # turns and moves evenly
    still = np.zeros_like(times)
    columns = (times, 2 * (times - start), still, still, still, np.sin(angle / 2), still)
    rows = zip(*columns, np.cos(angle / 2), strict=True)
    text = "".join(f"{row[0]:.6f} {lines(row[1:])}" for row in rows)
    (folder / "groundtruth.txt").write_text(text)
    source = made(tmp_path, eval_share=0.0, frames=8)
    assert source.left_out() == {"no pose at its time": 4}  # of 12 frames in 1.1 seconds
    clip = source.clip("rgbd_dataset_room", 0)
    since = np.arange(8) / FPS
    np.testing.assert_allclose(clip.cam2world[:, 0, 3], 2 * since, atol=1e-5)
    np.testing.assert_allclose(clip.cam2world[:, 0, 2], np.sin(0.3 * since), atol=1e-5)


def test_scenes_are_shared_out_by_their_picture_shapes(tmp_path):
    made_footage.wide_and_tall(tmp_path, room())
    shapes = ((16, 16), (16, 24), (24, 16))
    options = {"frames": 3, "lens": (), "shapes": shapes}
    sets = [made(tmp_path, size=size, width=width, **options) for size, width in shapes]
    assert [source.scenes() for source in sets] == [(), ("wide/room",), ("tall/room",)]
    for source, own in zip(sets[1:], shapes[1:], strict=True):
        # Alone in its set: the last of its four clips is held out.
        [(scene, count)] = source.clip_counts("train").items()
        assert count == 3 and source.clip_counts("eval") == {f"{scene}/end": 1}
        for world in (scene, f"{scene}/end"):
            clip = source.clip(world, 0)
            assert clip.size == own
            # Nothing is cut off: half of every side is half of every intrinsic.
            width = clip.video.shape[2] * 2
            whole = made(tmp_path, size=own[0] * 2, width=width, frames=3, lens=())
            np.testing.assert_allclose(
                clip.intrinsics * 2, whole.clip(scene, 0).intrinsics, atol=1e-3
            )
    # What cannot be read is in the first set alone, and says why.
    (tmp_path / "wide" / "room" / "transforms.json").write_text("{")
    forget()
    assert [source.scenes() for source in sets] == [("wide/room",), (), ("tall/room",)]
    with pytest.raises(ValueError, match=r"transforms\.json"):
        sets[0].clip("wide/room", 0)
    with pytest.raises(ValueError, match=r"shapes: found \(\(16, 16\)"):
        made(tmp_path, size=8, **options)


def test_an_item_of_worldscore_is_a_picture_before_it_is_generated(tmp_path):
    made_footage.worldscore(tmp_path, room())
    [item] = tmp_path.rglob("frames")
    shutil.rmtree(item)
    [scene] = made(tmp_path, lens=()).scenes()
    capture = made(tmp_path, lens=()).capture(scene)
    assert len(capture.video) == 1 and capture.caption == "a room"
    np.testing.assert_allclose(capture.cam2world[0], room().cam2world[0], atol=1e-5)
    with pytest.raises(
        ValueError, match=r"camera_data\.json: found 1 frames, expected a piece of 3"
    ):
        made(tmp_path, lens=()).clip(scene, 0)
