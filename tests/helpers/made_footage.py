"""Footage made for tests: a rendered room, written in the layouts of other projects."""

import dataclasses
import functools
import io
import json
import pickle
import struct
import zipfile
from fractions import Fraction

import av
import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from data_pipelines.sources.procedural import ProceduralSource

FRAMES, SIZE = 12, 48
FPS = 10


@functools.cache
def room(frames=FRAMES, size=SIZE):
    """A clip of a room, with exact depth and poses, in which nothing moves."""
    source = ProceduralSource(size=size, frames=frames, fps=float(FPS), ball=False)
    return next(source.clips("procedural/train-002", 1, seed=3))


def write_video(
    path, frames, *, times=None, codec="libx264", pixels="yuv444p", rotate=None, **opts
):
    """Frames as a video; times are seconds, by default at FPS."""
    times = np.arange(len(frames)) / FPS if times is None else times
    audio = opts.pop("audio", False)
    options = {"qp": "0"} if codec == "libx264" else {}
    with av.open(str(path), "w", options=opts.pop("container", {})) as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.options = pixels, options | opts
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if rotate is not None:
            stream.set_display_rotation(rotate)
        sound = container.add_stream("aac", rate=8000) if audio else None
        for time, picture in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            silence.sample_rate, silence.pts = 8000, 0
            container.mux(sound.encode(silence))
            container.mux(sound.encode(None))
    return path


def write_pictures(folder, frames, name="{:04d}.png"):
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(frames):
        Image.fromarray(picture).save(folder / name.format(number))


def write_depth_png(path, depth, metres):
    steps = np.where(np.isfinite(depth), np.rint(depth / metres), 0)
    Image.fromarray(steps.astype(np.uint16)).save(path)


def w2c(clip):
    return np.linalg.inv(clip.cam2world)


def lines(*rows):
    return "".join(" ".join(f"{v:.15g}" for v in row) + "\n" for row in rows)


def seven_scenes(root, clip):
    folder = root / "office" / "seq-01"
    write_pictures(folder, clip.video, "frame-{:06d}.color.png")
    for number, (depth, pose) in enumerate(zip(clip.depth, clip.cam2world, strict=True)):
        write_depth_png(folder / f"frame-{number:06d}.depth.png", depth, 0.001)
        (folder / f"frame-{number:06d}.pose.txt").write_text(lines(*pose))
    fx, fy, cx, cy = clip.intrinsics[0]
    (folder / "camera-intrinsics.txt").write_text(lines((fx, 0, cx), (0, fy, cy), (0, 0, 1)))


def tum_rgbd(root, clip):
    folder = root / "rgbd_dataset_room"
    write_pictures(folder / "rgb", clip.video)
    (folder / "depth").mkdir()
    times = 1_305_031_102.1 + np.arange(clip.frames) / FPS
    colour, depth, poses = [], [], []
    for number, time in enumerate(times):
        write_depth_png(folder / "depth" / f"{number}.png", clip.depth[number], 1 / 5000)
        colour.append(f"{time:.6f} rgb/{number:04d}.png\n")
        depth.append(f"{time + 0.004:.6f} depth/{number}.png\n")
        pose = clip.cam2world[number]
        poses.append((time, *pose[:3, 3], *Rotation.from_matrix(pose[:3, :3]).as_quat()))
    (folder / "rgb.txt").write_text("# color images\n" + "".join(colour))
    (folder / "depth.txt").write_text("# depth maps\n" + "".join(depth))
    (folder / "groundtruth.txt").write_text(
        "# ground truth\n" + "".join(f"{row[0]:.6f} {lines(row[1:])}" for row in poses)
    )


def re10k_rows(clip, stamps):
    fractions = clip.intrinsics.astype(float) / clip.size[0]
    return [
        (stamp, *k, 0, 0, *pose[:3].ravel())
        for stamp, k, pose in zip(stamps, fractions, w2c(clip), strict=True)
    ]


def re10k(root, clip):
    """A shot with a picture for each line of its camera file."""
    stamps = 89_889_800 + np.arange(clip.frames) * 100_000
    rows = re10k_rows(clip, stamps)
    (root / "train").mkdir()
    text = "https://www.youtube.com/watch?v=a-bc_1\n"
    (root / "train" / "0c11.txt").write_text(text + lines(*rows))
    write_pictures(root / "frames" / "train" / "0c11", clip.video)
    for number, stamp in enumerate(stamps):
        folder = root / "frames" / "train" / "0c11"
        (folder / f"{number:04d}.png").rename(folder / f"{stamp}.png")


def pixelsplat(root, clip):
    folder = root / "train"
    folder.mkdir(parents=True)
    stamps = np.arange(clip.frames, dtype=np.int64) * 100_000
    rows = np.array(re10k_rows(clip, stamps))[:, 1:].astype(np.float32)
    entry = {
        "url": "https://example.org/watch?v=x",
        "timestamps": stamps,
        "cameras": rows,
        "images": [np.frombuffer(png(picture), np.uint8) for picture in clip.video],
        "key": "0c11",
    }
    (folder / "000000.torch").write_bytes(torch_bytes([entry]))
    (folder / "index.json").write_text(json.dumps({"0c11": "000000.torch"}))


def png(picture):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def torch_bytes(content):
    """What torch.save writes of nested lists and dicts of arrays, by the published layout.

    Opcodes of the pickle language are put together by hand, so that torch is not needed and the
    reader's own tables are not used.
    """
    storages = []

    def name(module, attribute):
        return b"c" + f"{module}\n{attribute}\n".encode()

    def value(thing):
        if isinstance(thing, np.ndarray):
            kinds = {
                "<f4": "Float",
                "<f8": "Double",
                "<i8": "Long",
                "|u1": "Byte",
                "<V2": "BFloat16",
            }
            key = str(len(storages))
            storages.append(thing.tobytes())
            storage = b"(" + value("storage")
            storage += name("torch", f"{kinds[thing.dtype.str]}Storage")
            storage += value(key) + value("cpu") + value(thing.size) + b"tQ"
            strides = tuple(np.array(thing.strides) // thing.itemsize)
            arguments = b"(" + storage + value(0) + value(thing.shape)
            arguments += value(tuple(map(int, strides))) + b"\x89"
            arguments += name("collections", "OrderedDict") + b")Rt"
            return name("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"
        if isinstance(thing, list):
            return b"](" + b"".join(map(value, thing)) + b"e"
        if isinstance(thing, tuple):
            return b"(" + b"".join(map(value, thing)) + b"t"
        if isinstance(thing, dict):
            return b"}(" + b"".join(value(k) + value(v) for k, v in thing.items()) + b"u"
        if isinstance(thing, str):
            return b"X" + struct.pack("<I", len(thing.encode())) + thing.encode()
        return b"J" + struct.pack("<i", thing)

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + value(content) + b".")
        archive.writestr("archive/byteorder", b"little")
        for number, data in enumerate(storages):
            archive.writestr(f"archive/data/{number}", data)
    return buffer.getvalue()


def exr(depth, compression="zip16", form="half"):
    """A depth map as EXR of one channel, by FFmpeg's encoder."""
    with av.open(io.BytesIO(), "w", format="image2pipe") as container:
        stream = container.add_stream("exr", rate=1)
        stream.height, stream.width = depth.shape
        stream.pix_fmt = "grayf32le"
        stream.options = {"compression": compression, "format": form}
        frame = av.VideoFrame.from_ndarray(depth.astype(np.float32), format="grayf32le")
        packets = [*stream.encode(frame), *stream.encode(None)]
        return b"".join(map(bytes, packets))


def vipe_assets(clip, pose, intrinsics, depth, mask):
    inds = np.arange(clip.frames)
    order = inds[::-1]
    np.savez(pose, inds=order, data=clip.cam2world[order])
    np.savez(intrinsics, inds=order, data=clip.intrinsics[order])
    with zipfile.ZipFile(depth, "w") as archive:
        for number in inds:
            archive.writestr(f"{number:05d}.exr", exr(clip.depth[number]))
    moving = np.zeros(clip.size, np.uint8)
    moving[:2] = 255
    with zipfile.ZipFile(mask, "w") as archive:
        for number in inds:
            archive.writestr(f"{number:05d}.png", png(moving))


def vipe(root, clip):
    for kind in ("rgb", "pose", "intrinsics", "depth", "mask"):
        (root / kind).mkdir()
    write_video(root / "rgb" / "walk.mp4", clip.video)
    ends = [
        root / k / f"walk.{e}" for k, e in zip(_KINDS, ("npz", "npz", "zip", "zip"), strict=True)
    ]
    vipe_assets(clip, *ends)


_KINDS = ("pose", "intrinsics", "depth", "mask")


def mirage_sample(root, clip):
    folder = root / "00000007"
    folder.mkdir()
    write_video(folder / "clip.mp4", clip.video)
    ends = [folder / f"{k}.{e}" for k, e in zip(_KINDS, ("npz", "npz", "zip", "zip"), strict=True)]
    vipe_assets(clip, *ends)
    masks = np.zeros(clip.video.shape[:3], bool)
    masks[:, :2] = True
    np.save(folder / "dynamic_masks.npy", masks)
    (folder / "clip.txt").write_bytes("\ufeffa room\r\n".encode())


def spatialvid(root, clip):
    """The clip is every second frame of a video at 10 frames per second; depth is 1 / depth."""
    (root / "videos" / "group_0001").mkdir(parents=True)
    folder = root / "annotations" / "group_0001" / "0a00"
    folder.mkdir(parents=True)
    video = np.repeat(clip.video, 2, axis=0)
    write_video(root / "videos" / "group_0001" / "0a00.mp4", video)
    poses = w2c(clip)
    turns = Rotation.from_matrix(poses[:, :3, :3]).as_quat()
    np.save(folder / "poses.npy", np.concatenate([poses[:, :3, 3], turns], 1))
    np.save(folder / "intrinsics.npy", clip.intrinsics / clip.size[0])
    (folder / "caption.json").write_text(json.dumps({"SceneSummary": "a room"}))
    arrays = {"shape": np.array([4, 4])}
    for number in range(clip.frames):  # compressed sparse rows: the upper left corner moves
        arrays |= {
            f"f_{number}_data": np.ones(1, np.uint8),
            f"f_{number}_indices": np.array([0]),
            f"f_{number}_indptr": np.array([0, 1, 1, 1, 1]),
        }
    np.savez(folder / "dyn_masks.npz", **arrays)
    (root / "depths" / "group_0001").mkdir(parents=True)
    with zipfile.ZipFile(root / "depths" / "group_0001" / "0a00.zip", "w") as archive:
        for number, depth in enumerate(clip.depth):
            archive.writestr(f"{number:05d}.exr", exr(1 / depth))


def video(root, clip, path="walk.mp4", sound=True):
    """A video with a trajectory in the TUM format, whose lens must be given, and depth."""
    write_video(root / path, clip.video, audio=sound)
    stem = root / path.removesuffix(".mp4")
    rows = [
        (number / FPS, *pose[:3, 3], *Rotation.from_matrix(pose[:3, :3]).as_quat())
        for number, pose in enumerate(clip.cam2world)
    ]
    stem.with_suffix(".txt").write_text(lines(*rows))
    folder = stem.with_suffix(".depth")
    folder.mkdir()
    for number, depth in enumerate(clip.depth):
        write_depth_png(folder / f"{number:04d}.png", depth, 0.001)


def worldscore(root, clip):
    """Generated frames, OpenGL cameras, the focal length that 512x512 pictures would have."""
    folder = root / "static" / "photorealistic" / "indoor" / "rooms" / "000"
    write_pictures(folder / "frames", clip.video, "{:03d}.png")
    Image.fromarray(clip.video[0]).save(folder / "input_image.png")
    poses = clip.cam2world @ np.diag([1.0, -1.0, -1.0, 1.0])
    content = {"focal_length": float(clip.intrinsics[0, 0]) * 512 / clip.size[1], "scale": 1}
    content |= {"cameras": poses[[0, -1]].tolist(), "cameras_interp": poses.tolist()}
    (folder / "camera_data.json").write_text(json.dumps(content))
    told = {"prompt_list": ["a room", " a room "], "camera_path": ["push_in"]}
    (folder / "image_data.json").write_text(json.dumps(told))


def transforms(root, clip):
    """OpenGL cameras in the reverse order of their pictures, and depth as arrays of metres."""
    write_pictures(root / "room" / "images", clip.video)
    fx, fy, cx, cy = map(float, clip.intrinsics[0])
    flip = np.diag([1.0, -1.0, -1.0, 1.0])
    frames = [
        {"file_path": f"images/{number:04d}.png", "transform_matrix": (pose @ flip).tolist()}
        for number, pose in enumerate(clip.cam2world)
    ]
    content = {"fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, "w": clip.size[1], "h": clip.size[0]}
    content["frames"] = frames[::-1]
    (root / "room" / "transforms.json").write_text(json.dumps(content))
    (root / "room" / "depth").mkdir()
    for number, depth in enumerate(clip.depth):
        np.save(root / "room" / "depth" / f"{number:04d}.npy", depth)


def colmap(root, clip, lens="PINHOLE", extra=(), square=False):
    """A text model whose camera is a `lens`, with one focal length if square, and `extra`."""
    write_pictures(root / "room" / "images", clip.video)
    model = root / "room" / "sparse" / "0"
    model.mkdir(parents=True)
    fx, fy, cx, cy = map(float, clip.intrinsics[0])
    values = (*((fx,) if square else (fx, fy)), cx, cy, *extra)
    height, width = clip.size
    camera = f"1 {lens} {width} {height} {' '.join(map(str, values))}\n"
    (model / "cameras.txt").write_text("# c\n" + camera)
    text = "# images\n"
    for number, row in enumerate(colmap_rows(clip)):
        text += f"{number + 1} {lines(row).strip()} 1 {number:04d}.png\n\n"
    (model / "images.txt").write_text(text)


def colmap_rows(clip):
    """qvec and tvec of each frame."""
    for pose in w2c(clip):
        x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
        yield (w, x, y, z, *pose[:3, 3])


def colmap_binary(root, clip):
    """The same as .bin: counts, then each camera and image, in another order."""
    colmap(root, clip)
    model = root / "room" / "sparse" / "0"
    for name in ("cameras", "images"):
        (model / f"{name}.txt").unlink()
    height, width = clip.size
    camera = struct.pack("<QiiQQ", 1, 1, 1, width, height)  # one camera, number 1, PINHOLE
    (model / "cameras.bin").write_bytes(camera + struct.pack("<4d", *clip.intrinsics[0]))
    data = struct.pack("<Q", clip.frames)
    for number, row in list(enumerate(colmap_rows(clip)))[::-1]:
        data += struct.pack("<i7di", number + 1, *row, 1) + f"{number:04d}.png".encode() + b"\0"
        data += struct.pack("<Qddq", 1, 1.0, 2.0, -1)  # a point that is of no track
    (model / "images.bin").write_bytes(data)
    (model / "points3D.bin").write_bytes(struct.pack("<Q", 0))


class Evil:
    """Pickled, it calls a function when it is read."""

    def __reduce__(self):
        return (print, ("run",))


def evil_torch():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps([Evil()], protocol=2))
    return buffer.getvalue()


def cropped(clip, rows, columns):
    """The part of a clip's pictures in two slices."""
    lens = clip.intrinsics - np.float32([0, 0, columns.start, rows.start])
    video, depth = (array[:, rows, columns] for array in (clip.video, clip.depth))
    return dataclasses.replace(clip, video=video, depth=depth, intrinsics=lens)


def wide_and_tall(root, clip):
    """The same walk twice, as pictures that are wide and as pictures that are tall."""
    whole, middle = slice(0, SIZE), slice(SIZE // 6, SIZE - SIZE // 6)
    transforms(root / "wide", cropped(clip, middle, whole))
    transforms(root / "tall", cropped(clip, whole, middle))
