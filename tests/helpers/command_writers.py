"""What commands write beside weights, worlds and clips, most of it in several files.

Of files that are read together each is the old or the new one, whole; the new ones are there when
all of them are.
"""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from rich.console import Console

from data_pipelines.sources.procedural import ProceduralSource
from helpers import formats, read_models
from helpers.writer_entry import Writer, which
from mirage_jax import trajectories
from mirage_jax.cli.helpers import camera_plot, encoding, rollout_files, sheets
from mirage_jax.evaluation.permanence import videos
from mirage_jax.io import camera_files, point_files, scene_files
from mirage_jax.io.strict_json import read_object
from mirage_jax.io.text import TextEmbeddings, load_embeddings
from mirage_jax.io.video import read_video
from mirage_jax.memory.tiles import TiledMemory
from mirage_jax.training import provenance
from mirage_jax.training.captions import Captions, write_captions
from mirage_jax.training.metrics import MetricsWriter, read_metrics
from mirage_jax.world.world_file import WorldFile, load_world


def _all_new(*numbers: int) -> int:
    return min(numbers)


def _cameras(number: int) -> camera_files.CameraRecord:
    poses = trajectories.make("push_in", 5) if number else trajectories.make("orbit_left", 9)
    lens = np.tile([20.0, 20.0 + number, 12.0, 8.0], (len(poses), 1))
    return scene_files.cameras(poses, lens, (16, 24))


def _points(number: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(number)
    count = 5 + number
    return rng.normal(size=(count, 3)), rng.integers(0, 256, (count, 3), np.uint8)


# -- prompts, clips that are given, sheets ---------------------------------------------------------


def _embedded(number: int) -> TextEmbeddings:
    tokens = np.full((1, 2, 3), 1.0 + number, np.float32)
    return TextEmbeddings((f"room {number}",), tokens, np.array([2], np.int32))


def _write_prompts(folder: Path, number: int) -> None:
    source = folder.with_name(f"{folder.name}-umt5")
    source.mkdir(exist_ok=True)
    for name in ("tokenizer.json", "weights.safetensors"):
        if not (source / name).exists():
            (source / name).write_bytes(b"x" * 10)
    config = ConfigDict({"worlds": ("a",), "text": {"prompts": {"a": f"room {number}"}}})
    files = encoding.PromptFiles(
        folder / "text.safetensors", source / "tokenizer.json", source / "weights.safetensors"
    )
    made = mock.patch.object(encoding.prompts, "embed_prompts", lambda *_: _embedded(number))
    with made:
        files.encode(config, Console(quiet=True))


def _read_prompts(folder: Path) -> int:
    number = which(load_embeddings(folder / "text.safetensors"), _embedded)
    note = folder / "text.json"
    assert not note.exists() or read_object(note).keys() == {"text_encoder", "tokenizer"}
    return number


def _write_captions(folder: Path, number: int) -> None:
    texts = [f"room {number}", None]
    embed = lambda asked: TextEmbeddings(  # noqa: E731
        tuple(asked),
        np.full((len(asked), 2, 3), 1.0 + number, np.float32),
        np.array([2] * len(asked), np.int32),
    )
    write_captions(folder / "captions.array_record", texts, embed)


def _read_captions(folder: Path) -> int:
    found = Captions(folder / "captions.array_record")
    assert len(found) == 2 and found.of_clip(1) is None
    return which(found.of_clip(0), lambda number: np.full((2, 3), 1.0 + number, np.float32))


def _clip(number: int) -> Any:
    source = ProceduralSource(size=8, frames=10, train_worlds=2, eval_worlds=2, ball=False)
    clip = next(iter(source.clips(source.worlds("train")[0], 1, seed=0)))
    video = np.full_like(clip.video, 60 + 100 * number)
    return dataclasses.replace(clip, video=video, fps=10.0 + number)


def _read_case(folder: Path) -> int:
    (case,) = folder.glob("[!.]*/")
    told = read_object(case / "clip.json")
    frames = [np.asarray(Image.open(case / f"frame_{n:03d}.png")) for n in range(told["given"])]
    shown = {int(frame.flat[0]) for frame in frames}
    assert shown <= {60, 160} and len(told["cam2world"]) == 10
    return _all_new(round(told["fps"]) - 10, int(shown == {160}))


def _sheet(number: int) -> np.ndarray:
    return np.full((8, 8, 3), 60 + 100 * number, np.uint8)


def _read_sheet(folder: Path) -> int:
    assert sheets.SHEET.is_ours(folder / "sheet.png")
    return which(np.asarray(Image.open(folder / "sheet.png")), _sheet)


# -- files of other tools --------------------------------------------------------------------------


def _read_ply(folder: Path, name: str = "a.ply") -> int:
    return len(read_models.ply(folder / name)["x"]) - 5


def _write_glb(folder: Path, number: int) -> None:
    poses = _cameras(number).cam2world
    point_files.write_glb(folder / "a.glb", *_points(number), poses, 1.0, 1.5)


def _read_glb(folder: Path) -> int:
    scene, values = read_models.glb(folder / "a.glb")
    return len(values(scene["meshes"][0]["primitives"][0]["attributes"]["POSITION"])) - 5


def _write_scene(folder: Path, number: int) -> None:
    point_files.write_ply(folder / "a.ply", *_points(number))
    scene_files.write_transforms(folder / "a.json", _cameras(number), "a.ply")


def _read_scene(folder: Path) -> int:
    frames = len(read_object(folder / "a.json")["frames"])
    return _all_new({9: 0, 5: 1}[frames], _read_ply(folder))


def _write_colmap(folder: Path, number: int) -> None:
    scene_files.write_colmap(folder / "model", _cameras(number), *_points(number))


def _read_colmap(folder: Path) -> int:
    """The cameras are those of the views, whichever they are."""
    model = folder / "model"
    points = (model / "points3D.txt").read_text().splitlines()[2:]
    lens = float((model / "cameras.txt").read_text().splitlines()[2].split()[5])
    views = [line for line in (model / "images.txt").read_text().splitlines()[2:] if line]
    return _all_new(len(points) - 5, int(lens - 20), {9: 0, 5: 1}[len(views)])


def _of_format(name: str, poses: str, lens: str, read: Callable[[Path], Any]) -> Writer:
    """Poses and intrinsics in files of their own; those of two writes are refused if they differ
    in length, so that each is read by itself."""

    def both(folder: Path) -> int:
        focal = float(np.reshape(read(folder / lens), (-1, 4))[0, 1])
        frames = {9: 0, 5: 1}[len(read(folder / poses))]
        return _all_new(frames, round(focal * (1 if focal > 2 else 16)) - 20)

    return Writer(
        f"cameras: {name}",
        lambda folder, n: camera_files.write(folder / poses, _cameras(n), name),
        both,
    )


def _lines(path: Path) -> list[Any]:
    lines = path.read_text().splitlines()
    return [[float(n) for n in re.findall(r"[-+.\de]+", line)] for line in lines]


def _write_plot(folder: Path, number: int) -> None:
    record = _cameras(number)
    camera_plot.draw_png(folder / "path.png", record, f"path {number}")
    camera_plot.write_page(folder / "path.html", record, f"path {number}")


def _read_plot(folder: Path) -> int:
    page = (folder / "path.html").read_text()
    np.asarray(Image.open(folder / "path.png"))
    assert page.rstrip().endswith("</html>")
    return int("path 1" in page)


# -- runs, walks and memories ----------------------------------------------------------------------


def _write_description(folder: Path, number: int) -> None:
    provenance.write_description(folder, {f"table {number}": ["a row"]}, {"seed": number})


def _read_description(folder: Path) -> int:
    table = (folder / "parameters.txt").read_text()
    assert table in ("table 0\na row\n", "table 1\na row\n")
    return _all_new(int("1" in table), read_object(folder / "config.json")["seed"])


def _write_metrics(folder: Path, number: int) -> None:
    """Content 1 goes on from step 2, and does steps 3 and 4 again."""
    writer = MetricsWriter(folder / "run", start_step=2 * number)
    for step in range(2 * number + 1, 5):
        writer.scalars(step, {"loss": float(number)})
    writer.close()


def _read_metrics(folder: Path) -> int:
    found = [(line["step"], line["loss"]) for line in read_metrics(folder / "run/metrics.jsonl")]
    before = [(1, 0.0), (2, 0.0)]
    assert found[:2] == before[: len(found)]
    assert found[2:] in ([], [(3, 0.0)], [(3, 0.0), (4, 0.0)], [(3, 1.0)], [(3, 1.0), (4, 1.0)])
    return int(found[2:] == [(3, 1.0), (4, 1.0)])


def _write_rollout(folder: Path, number: int) -> None:
    frames = np.full((4, 16, 16, 3), 60 + 100 * number, np.uint8)
    world = formats.small_world()
    world = world.replace(frames=np.int32(5 + number))  # type: ignore[attr-defined]
    chunk = types.SimpleNamespace(video=frames, world=world)
    walk = types.SimpleNamespace(
        path=np.zeros((5, 4, 4)), world=world, file=None, intrinsics=None, depth_estimator=None,
        short_last=False,
    )  # fmt: skip
    replaced: dict[str, Callable[..., Any]] = {
        "rollout": lambda *_, **__: [chunk, chunk],
        "chunk_bounds": lambda *_: [(0, 4), (4, 8)],
        "_chunk_record": lambda *_: {"iteration": number},
        "_model_record": lambda _: {},
        "_world_file": lambda _, world, *__: WorldFile(world),
        "_memory_line": lambda *_: "",
    }
    with mock.patch.multiple(rollout_files, **replaced):
        rollout_files.write_rollout(
            types.SimpleNamespace(chunk_frames=5, size=(16, 16)),  # type: ignore[arg-type]
            walk,  # type: ignore[arg-type]
            rollout_files.OutputFiles(folder / "a.mp4"),
            fps=10.0, seed=0, start_frame=0, record={}, console=Console(quiet=True),
        )  # fmt: skip


def _read_rollout(folder: Path) -> int:
    video = read_video(folder / "a.mp4")[0]
    assert len(video) == 8
    record = read_object(folder / "a.json")["iterations"]
    world = load_world(folder / "a.world")
    return _all_new(int(video.mean() > 110), record[1]["iteration"], int(world.frames) - 5)


def _write_tiles(folder: Path, number: int) -> None:
    """Content 1 has four elements more than content 0."""
    mem = formats.small_world().bank
    tiled = TiledMemory(mem.tokens.shape[1], folder=folder / "memory")
    while tiled.count < 4 * (1 + number):
        tiled.append(mem)
    tiled.save()


def _read_tiles(folder: Path) -> int:
    mem = formats.small_world().bank
    tiled = TiledMemory(mem.tokens.shape[1], folder=folder / "memory")
    assert tiled.count in (4, 8), tiled.count
    xyz = np.asarray(tiled._rows.get("xyz", 0, tiled.count))
    assert np.array_equal(xyz, np.tile(mem.xyz[:4], (tiled.count // 4, 1)))
    return tiled.count // 4 - 1


WRITERS: tuple[Writer, ...] = (
    Writer("embedded prompts", _write_prompts, _read_prompts, alone=True),
    Writer("embedded captions", _write_captions, _read_captions, alone=True),
    Writer("case of a clip", lambda folder, n: videos.write_case(folder, _clip(n)), _read_case),
    Writer("contact sheet",
           lambda folder, n: sheets.write_sheet(folder / "sheet.png", _sheet(n)), _read_sheet),
    Writer("points .ply",
           lambda folder, n: point_files.write_ply(folder / "a.ply", *_points(n)), _read_ply),
    Writer("points .glb", _write_glb, _read_glb),
    Writer("transforms and points", _write_scene, _read_scene),
    Writer("COLMAP model", _write_colmap, _read_colmap),
    _of_format("spatia", "w2c.txt", "intrinsics.txt", _lines),
    _of_format("vipe", "pose.npz", "intrinsics.npz", lambda path: np.load(path)["data"]),
    _of_format("spatialvid", "poses.npy", "intrinsics.npy", np.load),
    _of_format("lingbot", "poses.npy", "intrinsics.npy", np.load),
    Writer("plot of a path", _write_plot, _read_plot),
    Writer("description of a run", _write_description, _read_description, alone=True),
    Writer("metrics of a run", _write_metrics, _read_metrics, alone=True),
    Writer("rollout", _write_rollout, _read_rollout),
    Writer("memory in files", _write_tiles, _read_tiles, alone=True),
)  # fmt: skip
