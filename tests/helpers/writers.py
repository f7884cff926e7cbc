"""Everything that the package writes: how, and which of two contents is there afterwards.

Nothing here may start JAX when it is imported: `faults` forks the process.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from data_pipelines import card
from data_pipelines.recording import read_records, record
from data_pipelines.sources.procedural import ProceduralSource
from helpers import formats, tiny_world
from helpers.command_writers import WRITERS as OF_COMMANDS
from helpers.format_entry import canonical
from helpers.writer_entry import Writer, which
from mirage_jax import trajectories, weights
from mirage_jax.convert import incoming, orbax_folder, outgoing
from mirage_jax.convert.tensor_files import open_tensors
from mirage_jax.evaluation import report, results
from mirage_jax.io import text, video
from mirage_jax.io.strict_json import read_object
from mirage_jax.training import checkpoints, latent_cache
from mirage_jax.training.latent_encoding import load_clips
from mirage_jax.training.metrics import MetricsWriter
from mirage_jax.world import world_file

# -- one file --------------------------------------------------------------------------------------


def _world(number: int) -> Any:
    world = formats.small_world()
    return dataclasses.replace(world, frames=np.int32(5 + number))


def _read_world(folder: Path) -> int:
    world = world_file.load_world(folder / "a.world")
    return which(jax.tree.map(np.asarray, world), lambda n: jax.tree.map(np.asarray, _world(n)))


def _flat(params: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf) for name, leaf in weights.flatten(params).items()}


def _plain(number: int) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    return {"dense": {"kernel": rng.normal(size=(40, 30)).astype(np.float32)}}


def _architecture(number: int) -> dict[str, Any]:
    return {"kind": "test", "width": 30 + number}


def _read_export(folder: Path) -> int:
    params, architecture = weights.load_export(folder / "export")
    return which((_flat(params), architecture), lambda n: (_flat(_plain(n)), _architecture(n)))


def _save(folder: Path, number: int, name: str, save: Any) -> None:
    flat = _flat(_plain(number))
    specs = {path: (leaf.dtype, leaf.shape) for path, leaf in flat.items()}
    save(folder / name, specs, lambda path: [flat[path]], _architecture(number))


def _read_orbax(folder: Path) -> int:
    if not (folder / "orbax").exists():
        return 0
    orbax_folder._read.cache_clear()
    opened = orbax_folder.open_orbax(folder / "orbax")
    found = {name: np.asarray(leaf) for name, leaf in opened.tensors.items()}
    which(found, lambda number: _flat(_plain(number)))
    return 1


def _released_source(folder: Path, number: int) -> Path:
    """An export of a low-rank adapter, beside the folder that faults happen in."""
    source = folder.with_name(f"{folder.name}-source-{number}")
    if not source.exists():
        made = _new(folder.with_name(f"{folder.name}-lora-{number}"))
        incoming.import_checkpoint([formats._make_lora(made, 4.0 + number)], source)
    return source


def _new(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def _write_released(folder: Path, number: int) -> None:
    outgoing.export_checkpoint(_released_source(folder, number), folder / "a.safetensors")


def _read_released(folder: Path) -> int:
    opened = open_tensors(folder / "a.safetensors")
    assert all(np.isfinite(np.asarray(tensor)).all() for tensor in opened.tensors.values())
    return int(float(opened.metadata["alpha"]) - 4.0)


def _write_shards(folder: Path, number: int) -> None:
    out, source = folder / "release", _released_source(folder, number)
    outgoing.export_checkpoint(source, out, shard_bytes=300)


def _read_shards(folder: Path) -> int:
    if not (folder / "release").exists():
        return 0
    opened = open_tensors(folder / "release")
    assert len(opened.tensors) == 4
    return int(all(np.isfinite(np.asarray(tensor)).all() for tensor in opened.tensors.values()))


def _embeddings(number: int) -> text.TextEmbeddings:
    tokens = np.random.default_rng(number).normal(size=(1, 2, 3)).astype(np.float32)
    return text.TextEmbeddings(("a room",), tokens, np.array([2], np.int32))


def _path(number: int) -> np.ndarray:
    return trajectories.make("orbit_left", 9, angle=30 + number)


def _camera_path(suffix: str) -> Writer:
    def read(folder: Path) -> int:
        found = trajectories.load(folder / f"path{suffix}")
        return next(n for n in (0, 1) if np.allclose(found, _path(n), rtol=0, atol=1e-12))

    return Writer(
        f"camera path {suffix}",
        lambda folder, number: trajectories.save(folder / f"path{suffix}", _path(number)),
        read,
    )


def _frames(number: int) -> np.ndarray:
    return np.full((4 + number, 16, 16, 3), 60 + 100 * number, np.uint8)


def _results(number: int) -> dict[str, Any]:
    return {"world": "a", "seed": number, "psnr": [1.5] * 500}


def _read_report(folder: Path) -> int:
    page = (folder / "report.html").read_text()
    assert page.startswith("<!doctype html>") and page.endswith("</html>\n")
    return int("the-new-config" in page)


def _write_report(folder: Path, number: int) -> None:
    config = "the-new-config" if number else "the-old-config"
    report.write_report(folder / "report.html", _results(number), [], {}, config)


def _write_sample(folder: Path, number: int) -> None:
    with contextlib.closing(MetricsWriter(folder / "run")) as writer:
        writer.picture(1, np.full((8, 8, 3), 100 + number, np.uint8))


def _read_sample(folder: Path) -> int:
    (path,) = (folder / "run" / "samples").glob("[!.]*.png")
    return int(np.asarray(Image.open(path))[0, 0, 0]) - 100


# -- folders ---------------------------------------------------------------------------------------


def _clips(number: int) -> Any:
    return tiny_world.latent_clips(2, formats.POSES, seed=number)


def _write_cache(folder: Path, number: int) -> None:
    path, key = folder / "train.array_record", {"encoder": f"content {number}"}
    if latent_cache.stale(path, key):
        latent_cache.write_cache(path, [_clips(number)])
        latent_cache.write_key(path, key)


def _read_cache(folder: Path) -> int:
    path = folder / "train.array_record"
    number = which(load_clips(path).depth, lambda n: _clips(n).depth)
    # The key may be missing, but vouches for nothing else.
    assert latent_cache.stale(path, {"encoder": f"content {1 - number}"})
    return number


_FILES = 2


def _parts_key(number: int) -> dict[str, Any]:
    return {"encoder": "one", "content": number}


def _write_parts(folder: Path, number: int) -> None:
    """A cache of one clip a file; of its encoder is the old one too."""

    def make(file: Path, chosen: range) -> dict[int, str]:
        latent_cache.write_cache(file, [_one_clip(number, chosen[0])])
        return {}

    latent_cache.make_stale_files(
        folder / "train.array_record", _parts_key(number), _FILES, make,
        file_clips=1, share=(0, 1), purpose="a test", say=lambda _: None,
    )  # fmt: skip


def _one_clip(number: int, index: int) -> Any:
    return tiny_world.latent_clips(1, formats.POSES, seed=10 * number + index)


def _read_parts(folder: Path) -> int:
    """What is neither the old cache nor the new one is refused, and so as good as the old one."""
    path = folder / "train.array_record"
    for number in (0, 1):
        if not latent_cache.stale_files(path, _parts_key(number)):
            source = latent_cache.LatentSource([path])
            found = [source[index]["depth"] for index in range(len(source))]
            clips = [_one_clip(number, index) for index in range(_FILES)]
            assert canonical(found) == canonical([clip.depth[0] for clip in clips])
            return number
    try:
        latent_cache.LatentSource([path])
    except ValueError:
        return 0
    raise AssertionError("took files of two caches for one")


def _write_checkpoint(folder: Path, number: int) -> None:
    """The newest replaces the one before; what was being removed goes with the next save."""
    with checkpoints.Checkpoints(folder / "run", keep=1) as store:
        step = max(store.steps(), default=3) + 1
        store.save(
            formats.train_state(number).replace(step=jax.numpy.int32(step)), {"batches": number}
        )


def _read_checkpoint(folder: Path) -> int:
    said: list[str] = []
    with checkpoints.Checkpoints(folder / "run") as store:
        found = store.restore(formats.abstract(formats.train_state()), said.append)
    assert found is not None and not said, said
    number = found[1]["batches"]
    assert canonical(found[0].params) == canonical(formats.train_state(number).params)
    return number


def _write_recording(folder: Path, number: int) -> None:
    source = ProceduralSource(size=8, frames=10, train_worlds=2, eval_worlds=2, ball=False)
    options: dict[str, Any] = {"shard_clips": 1, "workers": 0, "progress": False}
    record(source, folder / "recorded", "train", 2, **options)


def _read_recording(folder: Path) -> int:
    """1 where all is there; 0 where some is not yet, and what there is is whole."""
    shards = sorted((folder / "recorded").glob("[!.]*.array_record"))
    assert all(len(list(read_records(shard))) == 1 for shard in shards)
    entries = card.read_card(folder / "recorded")["splits"]
    done = len(shards) == 2 and entries["train"].get("clips") == 2
    if done and (sheet := folder / "recorded" / "train.png").exists():
        np.asarray(Image.open(sheet))
        return 1
    return 0


WRITERS: dict[str, Writer] = {
    writer.name: writer
    for writer in (
        Writer("world file",
               lambda folder, n: world_file.save_world(folder / "a.world", _world(n)), _read_world),
        Writer("export",
               lambda folder, n: weights.export(folder / "export", _plain(n), _architecture(n)),
               _read_export),
        Writer("imported export",
               lambda folder, n: _save(folder, n, "export", incoming.save_export), _read_export),
        Writer("Orbax export",
               lambda folder, n: _save(folder, n, "orbax", orbax_folder.save_orbax), _read_orbax,
               fresh=True),
        Writer("released file", _write_released, _read_released),
        Writer("released folder", _write_shards, _read_shards, fresh=True),
        Writer("text embeddings",
               lambda folder, n: text.save_embeddings(folder / "a.safetensors", _embeddings(n)),
               lambda folder: which(text.load_embeddings(folder / "a.safetensors"), _embeddings)),
        *(_camera_path(suffix) for suffix in (".npz", ".npy", ".json", ".txt")),
        Writer("video", lambda folder, n: video.write_video(folder / "a.mp4", _frames(n), 10),
               lambda folder: len(video.read_video(folder / "a.mp4")[0]) - 4),
        Writer("picture of a run", _write_sample, _read_sample, alone=True),
        Writer("results", lambda folder, n: results.save(folder / "results.json", _results(n)),
               lambda folder: which(read_object(folder / "results.json"), _results)),
        Writer("report", _write_report, _read_report),
        Writer("dataset card",
               lambda folder, n: card.write_card(
                   folder, {"format": card.FORMAT, "splits": {"train": {"clips": n}}}),
               lambda folder: card.read_card(folder)["splits"]["train"]["clips"]),
        Writer("latent cache", _write_cache, _read_cache, alone=True),
        Writer("latent cache of several files", _write_parts, _read_parts, alone=True),
        Writer("checkpoint", _write_checkpoint, _read_checkpoint, alone=True),
        Writer("recording", _write_recording, _read_recording, fresh=True, alone=True),
        *OF_COMMANDS,
    )
}  # fmt: skip

CONTROL = Writer(
    "control",
    lambda folder, n: (folder / "a.txt").write_bytes(b"%d" % n * 100),
    lambda folder: [b"0" * 100, b"1" * 100].index((folder / "a.txt").read_bytes()),
)
"""Writes over the old file, as nothing here does."""
