"""Every file format that the package reads: a valid sample, how to read it, what may be taken.

One entry of `FORMATS` is all that a new format needs to be damaged ten thousand times (see
`fuzzing`). tests/test_fuzzing.py holds that no public reader of a path is missing here.
"""

from __future__ import annotations

import dataclasses
import json
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from PIL import Image
from safetensors.numpy import load_file, save_file

from data_pipelines import card, clip, clip_format, released_latents
from data_pipelines.loading import ClipSource
from data_pipelines.recording import notes, originals
from data_pipelines.sources import doom_map
from helpers import (
    forged_crc,
    geometry_npz,
    made_clips,
    paths,
    released_samples,
    tiny_world,
    wads,
)
from helpers.camera_formats import CAMERA_FORMATS, POSES
from helpers.footage_formats import FOOTAGE_FORMATS
from helpers.format_entry import Damage, Format, canonical
from helpers.mutations import joined
from helpers.quake_maps import QUAKE_FORMATS
from mirage_jax import trajectories, weights
from mirage_jax.convert import incoming, orbax_folder
from mirage_jax.convert.tensor_files import open_tensors
from mirage_jax.convert.umt5 import from_umt5, umt5_fields
from mirage_jax.geometry import check_cam2world
from mirage_jax.io import depth_maps, picture_files, text, video
from mirage_jax.io.geometry_npz import read_geometry
from mirage_jax.memory import create
from mirage_jax.training import captions, checkpoints, guard, latent_cache, metrics
from mirage_jax.training.state import TrainState
from mirage_jax.world import world_file
from mirage_jax.world.latent_clip import FIELDS
from mirage_jax.world.state import World


def _finite(content: Any) -> None:
    for leaf in jax.tree.leaves(content):
        array = np.asarray(leaf)
        if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
            assert np.isfinite(array.astype(np.float64)).all(), "found values that are not finite"


def _same_form(found: Any, original: Any) -> None:
    """Of the same names, shapes and types."""
    form = lambda tree: jax.tree.map(lambda x: f"{x.dtype} {x.shape}", tree)  # noqa: E731
    assert form(found) == form(original), f"found {form(found)}, expected {form(original)}"


# -- world files -----------------------------------------------------------------------------------


def small_world() -> World:
    rng = np.random.default_rng(0)
    bank = create(6, tiny_world.CHANNELS)
    bank = dataclasses.replace(
        jax.tree.map(np.asarray, bank),
        xyz=rng.normal(size=(6, 3)).astype(np.float32),
        tokens=rng.normal(size=(6, tiny_world.CHANNELS)).astype(np.float32),
        valid=np.arange(6) < 4,
        count=np.int32(4),
    )
    latent = rng.normal(size=(*tiny_world.GRID, tiny_world.CHANNELS)).astype(np.float32)
    return World(bank, latent, np.eye(4, dtype=np.float32), tiny_world.INTRINSICS, np.int32(5))


def _make_world(folder: Path) -> Path:
    path = folder / "a.world"
    cameras = world_file.CameraPath(
        trajectories.make("push_in", 5), np.tile(tiny_world.INTRINSICS, (5, 1)),
        np.arange(5) / 16.0, tiny_world.SIZE,
    )  # fmt: skip
    world = dataclasses.replace(small_world(), origin=world_file.Origin((1.0, 2.0, 3.0), 5.0, 0.1))
    branches = (
        world_file.Branch("door", 2, created_from="a mark"),
        world_file.Branch("other", 3, "door", "an edit", world, cameras),
    )
    file = world_file.WorldFile(
        world, cameras, None, branches, {"place": "x", "seeds": [1, 2.5, None]},
    )  # fmt: skip
    world_file.write_world_file(path, file)
    return path


def _accept_world(found: Any, original: Any) -> None:
    _finite([found.world, [b.world for b in found.branches]])
    buffer = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path("/tmp")
    path = buffer / f"again-{id(found)}.world"
    try:
        world_file.write_world_file(path, found)
        again = world_file.read_world_file(path)
        assert canonical(again.world) == canonical(found.world)
        assert canonical(again.branches) == canonical(found.branches)
    finally:
        path.unlink(missing_ok=True)


def _seal_world(path: Path, damage: Damage) -> None:
    data = damage(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    try:
        table = json.loads(data[8 : 8 + length])
        values, own = data[8 + length :], json.loads(table["__metadata__"]["world"])
        for name, entry in table.items():
            if name in own["checksums"]:
                begin, end = entry["data_offsets"]
                own["checksums"][name] = f"{zlib.crc32(values[begin:end]):08x}"
        table["__metadata__"]["world"] = json.dumps(own)
        start = joined(json.dumps(table), b"")
        place = table["checksum/header"]["data_offsets"][0]
        sum_ = struct.pack("<I", zlib.crc32(start))
        data = start + values[:place] + sum_ + values[place + 4 :]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        pass  # a header that no checksum makes right
    path.write_bytes(data)


# -- exports and text embeddings: one checksum for the file ----------------------------------------

ARCHITECTURE = {"kind": "test", "width": 3, "scale": 0.5, "layers": [0, 2], "nothing": None}


def params(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "dense": {"kernel": rng.normal(size=(5, 3)).astype(np.float32), "bias": np.ones(3, "f2")},
        "out": {"kernel": jax.numpy.asarray(rng.normal(size=(3, 2)), jax.numpy.bfloat16)},
    }


def _make_export(folder: Path) -> Path:
    return weights.export(folder / "export", params(), ARCHITECTURE)


def _accept_export(found: Any, original: Any) -> None:
    tree, architecture = found
    assert isinstance(architecture, dict)
    assert all(isinstance(name, str) and name for name in weights.flatten(tree))


def _seal_file(file: Path, damage: Damage) -> None:
    """The checksum is that of the file with zeros in its place; its name is there once."""
    data = damage(file.read_bytes())
    start = data.find(b"crc32:") + len(b"crc32:")
    if start >= len(b"crc32:"):
        blank = data[:start] + b"00000000" + data[start + 8 :]
        data = data[:start] + b"%08x" % zlib.crc32(blank) + data[start + 8 :]
    file.write_bytes(data)


def _make_embeddings(folder: Path) -> Path:
    path = folder / "prompts.safetensors"
    lengths = np.array([2, 3], np.int32)
    tokens = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    tokens[np.arange(4) >= lengths[:, None]] = 0
    text.save_embeddings(path, text.TextEmbeddings(("a room", "a door"), tokens, lengths))
    return path


def _accept_embeddings(found: Any, original: Any) -> None:
    _finite([found.tokens])
    assert all(isinstance(prompt, str) for prompt in found.prompts)
    assert found.tokens.ndim == 3 and found.tokens.dtype.kind in "fV"
    assert len(found.prompts) == len(found.lengths) == len(found.tokens)


# -- checkpoints -----------------------------------------------------------------------------------


def train_state(seed: int = 0) -> TrainState:
    numbers = jax.tree.map(jax.numpy.asarray, params(seed))
    return TrainState(
        step=jax.numpy.int32(4 + seed),
        params=numbers,
        opt_state=({"count": jax.numpy.int32(4)}, numbers["dense"]["kernel"] ** 2),
        ema=None,
        key=jax.random.key(seed),
        guard=guard.GuardState(norm=jax.numpy.float32(0.5), skipped=jax.numpy.int32(1)),
    )


def abstract(state: TrainState) -> TrainState:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def _make_checkpoint(folder: Path) -> Path:
    with checkpoints.Checkpoints(folder / "run") as store:
        store.save(train_state(), {"batches": 4, "means": {"loss": [0.1, 2]}})
    return folder / "run"


def _read_checkpoint(path: Path) -> Any:
    with checkpoints.Checkpoints(path) as store:
        found = store.restore(abstract(train_state()), lambda line: None)
    if found is None:
        raise ValueError(f"{path}: no checkpoint")
    return found


def _accept_checkpoint(found: Any, original: Any) -> None:
    _same_form(found[0].params, original[0].params)
    assert canonical(found[0].params) == canonical(original[0].params)


def _seal_checkpoint(path: Path, damage: Damage) -> None:
    """Changes the JSON of a checkpoint, and makes it end so that its CRC is the one stored."""
    (file,) = path.glob("checkpoints/*/meta/_strings.json")
    strings = json.loads(file.read_bytes())
    (name,) = strings
    wanted = zlib.crc32(strings[name].encode())
    strings[name] = forged_crc.with_crc(damage(strings[name].encode()), wanted).decode("latin1")
    file.write_text(json.dumps(strings))


def _make_orbax(folder: Path) -> Path:
    flat = {name: np.asarray(leaf) for name, leaf in weights.flatten(params()).items()}
    specs = {name: (leaf.dtype, leaf.shape) for name, leaf in flat.items()}
    orbax_folder.save_orbax(folder / "orbax", specs, lambda name: [flat[name]], ARCHITECTURE)
    return folder / "orbax"


def _read_tensors(opened: Any) -> Any:
    return {name: np.asarray(leaf) for name, leaf in opened.tensors.items()}, opened.metadata


def _read_orbax(path: Path) -> Any:
    orbax_folder._read.cache_clear()  # it keeps what it has read of a file of this name
    return _read_tensors(orbax_folder.open_orbax(path))


# -- ArrayRecord -----------------------------------------------------------------------------------


def _write_records(path: Path, records: list[bytes], options: str = "group_size:1") -> None:
    writer = ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()


def _records(path: Path) -> list[bytes]:
    reader = ArrayRecordReader(str(path))
    try:
        return list(reader.read_all())
    finally:
        reader.close()


def _change_record(path: Path, damage: Damage) -> None:
    records = _records(path)
    records[0] = damage(records[0])
    _write_records(path, records)


def _make_shard(folder: Path) -> Path:
    made = [made_clips.make_full_clip(), made_clips.make_clip(), made_clips.make_clip(seed=3)]
    shard = folder / "train-00000-of-00001.array_record"
    _write_records(shard, [clip_format.to_bytes(c) for c in made], "group_size:1,zstd:3")
    return folder


def _read_shard(folder: Path) -> Any:
    source = ClipSource(folder, "train", ("video", "cam2world", "intrinsics", "fps", "name"))
    elements = [source[index] for index in range(len(source))]
    return elements, [source.clip(index) for index in range(len(source))], source.meta()


def _accept_shard(found: Any, original: Any) -> None:
    for one in found[1]:
        clip.validate(one)
        clip_format.to_bytes(one)
    for element in found[0]:
        assert element["video"].dtype == np.uint8 and isinstance(element["name"], str)
        check_cam2world(element["cam2world"], "cam2world")


def _seal_clip(data: bytes) -> bytes:
    """The CRC-32 of all tensors of a clip put right."""
    length = int.from_bytes(data[:8], "little")
    try:
        table = json.loads(data[8 : 8 + length])
        values, own = data[8 + length :], json.loads(table["__metadata__"]["clip"])
        for name, entry in table.items():
            if name in own["crc32"]:
                begin, end = entry["data_offsets"]
                own["crc32"][name] = zlib.crc32(values[begin:end])
        table["__metadata__"]["clip"] = json.dumps(own)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return data
    return joined(json.dumps(table), values)


def _seal_shard(folder: Path, damage: Damage) -> None:
    _change_record(next(folder.glob("*.array_record")), lambda data: _seal_clip(damage(data)))


CACHE_KEY = {"encoder": "x"}


def _make_cache(folder: Path) -> Path:
    path = folder / "train.array_record"
    latent_cache.write_cache(path, [tiny_world.latent_clips(3, POSES)])
    latent_cache.write_key(path, CACHE_KEY)
    return path


def _read_cache(path: Path) -> Any:
    if reason := latent_cache.stale(path, CACHE_KEY):
        raise ValueError(f"{path}: {reason}")  # made anew by those who ask
    source = latent_cache.LatentSource([path])
    return [source[index] for index in range(len(source))]


def _accept_cache(found: Any, original: Any) -> None:
    for record in found:
        assert list(record) == list(FIELDS)
        _finite(record)
        assert canonical({n: a.shape for n, a in record.items()}) == canonical(
            {n: a.shape for n, a in original[0].items()}
        )


def _seal_cache(path: Path, damage: Damage) -> None:
    _change_record(path, damage)
    latent_cache.write_key(path, CACHE_KEY)


def _make_captions(folder: Path) -> Path:
    def embed(texts: Sequence[str]) -> text.TextEmbeddings:
        lengths = np.array([len(one) for one in texts], np.int32)
        shown = np.arange(8) < lengths[:, None]
        tokens = np.ones((len(texts), 8, 4), np.float32) * shown[..., None]
        return text.TextEmbeddings(tuple(texts), tokens, lengths)

    path = folder / "train-captions.array_record"
    captions.write_captions(path, ["a room", None, "a hall", "a room"], embed)
    return path


def _read_captions(path: Path) -> Any:
    found = captions.Captions(path)
    return [found.of_clip(number) for number in range(len(found))]


def _accept_captions(found: Any, original: Any) -> None:
    shown = [tokens for tokens in found if tokens is not None]
    assert all(tokens.ndim == 2 and np.isfinite(tokens).all() for tokens in shown)


# -- latents of the released code ------------------------------------------------------------------


def _make_sample(folder: Path) -> Path:
    path = folder / "00000007"
    path.write_bytes(released_samples.value(released_samples.files(3, references=2)))
    return path


def _read_sample(path: Path) -> Any:
    return released_latents.read_sample(path.read_bytes(), path)


def _accept_sample(found: Any, original: Any) -> None:
    for name, array in original.items():
        if isinstance(array, np.ndarray) and found[name] is not None:
            _finite(found[name])
            assert (found[name].ndim, found[name].dtype) == (array.ndim, array.dtype)


# -- JSON and text of ours, which people may edit --------------------------------------------------


def _make_card(folder: Path) -> Path:
    split = {"clips": 3, "shards": {"train-00000-of-00001": {"clips": 3, "worlds": {"a": 3}}}}
    card.write_card(folder, {"format": card.FORMAT, "splits": {"train": split}})
    return folder


def _make_note(folder: Path) -> Path:
    shard = folder / "train-00000-of-00001.array_record"
    shard.write_bytes(b"records")
    entry = {"clips": 3, "reasons": {"blur": 2}, "examples": ["clip 'a'"], "sha256": "0" * 64}
    notes.write_note(shard, notes.Note(entry, 1.5, 200), 7)
    return notes.note_path(shard)


def _read_note(path: Path) -> Any:
    return notes.read_note(path.with_suffix(".array_record"))


def _make_footage_note(folder: Path) -> Path:
    files, survey = {"a.mp4": [9, 1]}, {"options": {}, "scenes": ["a"], "worlds": {"a": [2, {}]}}
    noted = {"splits": {"train": files}, "survey": survey, "survey_of": "0" * 64}
    path = folder / originals.FILE
    path.write_text(json.dumps({"format": "mirage-footage-2", **noted}))
    return path


def _accept_footage_note(found: Any, original: Any) -> None:
    for files in found.splits.values():
        assert all(type(n) is int for value in files.values() for n in value)
    assert isinstance(found.survey, dict)


def _accept_note(found: Any, original: Any) -> None:
    assert found is None or type(found.entry["clips"]) is int  # None: of another file


def _accept_card(found: Any, original: Any) -> None:
    assert found["format"] == card.FORMAT and isinstance(found["splits"], dict)
    assert all(isinstance(split, dict) for split in found["splits"].values())


def _make_metrics(folder: Path) -> Path:
    path = folder / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": 1.0 / (step + 1)}) for step in range(12)]
    path.write_text("\n".join(lines) + "\n")
    return path


def _accept_metrics(found: Any, original: Any) -> None:
    assert all(isinstance(record, dict) and type(record["step"]) is int for record in found)


# -- files of others -------------------------------------------------------------------------------


def _path_format(suffix: str) -> Format:
    def make(folder: Path) -> Path:
        trajectories.save(folder / f"path{suffix}", POSES)
        return folder / f"path{suffix}"

    def accept(found: Any, original: Any) -> None:
        assert found.dtype == np.float64 and found.ndim == 3 and len(found)
        check_cam2world(found, "poses")

    readers = ("trajectories.load",)
    return Format(f"camera path {suffix}", make, trajectories.load, accept, readers)


def _accept_geometry(found: Any, original: Any) -> None:
    count, size = len(found.cam2world), found.size
    check_cam2world(found.cam2world, "poses")
    _finite([found.intrinsics, found.fps or 1.0])
    assert found.depths.dtype == np.float32 and found.depths.shape == (count, *size)
    assert not np.isnan(found.depths).any() and (found.depths >= 0).all(), "depths"
    assert found.frames.dtype == np.uint8 and found.frames.shape[1:] == (*size, 3)
    assert found.masks is None or (found.masks.dtype == bool and len(found.masks) == count)


def _picture(mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (12, 18, 3), np.uint8)).convert(mode)


def _picture_format(suffix: str) -> Format:
    def make(folder: Path) -> Path:
        _picture().save(folder / f"a.{suffix}")
        return folder / f"a.{suffix}"

    def read(path: Path) -> Any:
        return picture_files.read_picture(path, (8, 8))

    def accept(found: Any, original: Any) -> None:
        picture, camera = found
        assert picture.dtype == np.uint8 and picture.shape == (8, 8, 3)
        _finite([camera.intrinsics])

    readers = ("picture_files.read_picture", "picture_files.open_picture")
    return Format(f"picture .{suffix}", make, read, accept, readers)


def _depth_format(suffix: str) -> Format:
    def make(folder: Path) -> Path:
        depth, path = np.linspace(0.5, 4, 96).reshape(8, 12), folder / f"depth{suffix}"
        if suffix == ".png":
            Image.fromarray((depth * 1000).astype(np.uint16)).save(path)
        elif suffix == ".npy":
            np.save(path, depth)
        else:
            np.savez(path, depth=depth)
        return path

    def accept(found: Any, original: Any) -> None:
        assert found.dtype == np.float32 and found.ndim == 2 and found.size
        assert (found >= 0).all() and (found > 0).any()

    readers = ("depth_maps.read_depth",)
    return Format(f"depth map {suffix}", make, depth_maps.read_depth, accept, readers)


def _make_depth_pair(folder: Path) -> Path:
    _picture().save(folder / "a.png")
    np.save(folder / "a.npy", np.full((12, 18), 2.0))
    return folder / "a.npy"


def _read_depth_pair(path: Path) -> Any:
    return picture_files.read_picture_depth(path, path.with_suffix(".png"), (8, 8))


def _accept_map(found: Any, original: Any) -> None:
    assert found.shape == (8, 8) and not np.isnan(found).any() and (found >= 0).all()


def _make_video(folder: Path) -> Path:
    frames = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8)
    return video.write_video(folder / "a.mp4", frames, 10, scale=1)


def _accept_video(found: Any, original: Any) -> None:
    frames, fps = found
    assert frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[-1] == 3 and len(frames)
    assert np.isfinite(fps) and fps > 0


def _make_lora(folder: Path, alpha: float = 4.0) -> Path:
    rng, path = np.random.default_rng(0), folder / "lora.safetensors"
    tensors = {}
    for layer in range(2):
        stem = f"pipe.dit.blocks.{layer}.self_attn.q"
        tensors[f"{stem}.lora_A.weight"] = rng.normal(size=(2, 8)).astype(np.float32)
        tensors[f"{stem}.lora_B.weight"] = rng.normal(size=(8, 2)).astype(np.float32)
    save_file(tensors, path, metadata={"alpha": str(alpha), "rank": "2"})
    return path


def _imported(*sources: Path, **options: Any) -> Any:
    found = []

    def collect(_: Path, specs: Any, pieces: Any, architecture: Any) -> None:
        values = {}
        for name, (dtype, shape) in specs.items():
            parts = [np.asarray(part, dtype).reshape(-1) for part in pieces(name)]
            values[name] = np.concatenate(parts).reshape(shape)
        found.append((values, architecture))

    incoming.import_checkpoint(sources, "", options=incoming.ImportOptions(**options), save=collect)
    return found[0]


def _accept_imported(found: Any, original: Any) -> None:
    values, architecture = found
    _finite(values)
    assert architecture["kind"] == original[1]["kind"]
    json.dumps(architecture, allow_nan=False)


def _make_released(folder: Path) -> Path:
    """The golden denoiser of diffusers, in two shards with their index, and its config.json."""
    source = paths.GOLDEN / "diffusers_wan_ti2v"
    tensors = load_file(source / "weights.safetensors")
    shards = {f"m-0000{number}-of-00002.safetensors": {} for number in (1, 2)}
    for number, (name, tensor) in enumerate(tensors.items()):
        list(shards.values())[number % 2][name] = tensor
    target = folder / "transformer"
    target.mkdir()
    for name, part in shards.items():
        save_file(part, target / name)
    where = {name: shard for shard, part in shards.items() for name in part}
    (target / "m.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (target / "config.json").write_bytes((source / "config.json").read_bytes())
    return target


def _make_config(folder: Path) -> Path:
    target = folder / "vae"
    target.mkdir()
    save_file(
        load_file(paths.GOLDEN / "official_vae22" / "weights.safetensors"),
        target / "a.safetensors",
    )
    stats = {"latents_mean": [0.0, 0.5] * 24, "latents_std": [1.0, 2.0] * 24, "_class_name": "X"}
    (target / "config.json").write_text(json.dumps(stats))
    return target


def _make_umt5(folder: Path) -> Path:
    path = folder / "umt5.safetensors"
    path.write_bytes((paths.GOLDEN / "official_umt5" / "weights.safetensors").read_bytes())
    return path


def _read_umt5(path: Path) -> Any:
    tensors = open_tensors(path).tensors
    try:
        return umt5_fields(tensors), from_umt5(tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error  # as `cli.helpers.prompts` does


def _accept_umt5(found: Any, original: Any) -> None:
    assert found[0].keys() == original[0].keys()
    _finite(found[1])


def _make_wad(folder: Path) -> Path:
    (folder / "a.wad").write_bytes(wads.pack_wad(wads.row_of_rooms()))
    return folder / "a.wad"


def _read_wad(path: Path) -> Any:
    doom_map.map_names(path)
    return doom_map.read_map(path, "MAP01")


def _accept_wad(found: Any, original: Any) -> None:
    _finite([v for v in vars(found).values() if isinstance(v, np.ndarray)])


_OURS: dict[str, Any] = {"ours": True}
FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        Format("world file", _make_world, world_file.read_world_file, _accept_world,
               ("world_file.read_world_file", "world_file.load_world"),
               sealed=_seal_world, **_OURS),
        Format("export", _make_export, weights.load_export, _accept_export,
               ("weights.load_export", "weights.load_module", "exports.stored_architecture"),
               sealed=lambda path, damage: _seal_file(path / "model.safetensors", damage), **_OURS),
        Format("text embeddings", _make_embeddings, text.load_embeddings, _accept_embeddings,
               ("text.load_embeddings",), sealed=_seal_file, **_OURS),
        Format("checkpoint", _make_checkpoint, _read_checkpoint, _accept_checkpoint,
               ("checkpoints.read_meta", "checkpoints.load_items", "checkpoints.load_params"),
               sealed=_seal_checkpoint, **_OURS),
        Format("Orbax export", _make_orbax, _read_orbax, _accept_imported,
               ("orbax_folder.open_orbax",), **_OURS),
        Format("clip shard", _make_shard, _read_shard, _accept_shard,
               ("shards.read_records", "clip_format.read_header"), sealed=_seal_shard, **_OURS),
        Format("latent cache", _make_cache, _read_cache, _accept_cache,
               ("latent_encoding.load_clips",), sealed=_seal_cache, **_OURS),
        Format("embedded captions", _make_captions, _read_captions, _accept_captions,
               ("captions.Captions",), sealed=_change_record, **_OURS),
        Format("sample of released latents", _make_sample, _read_sample, _accept_sample,
               ("released_latents.read_sample",)),
        Format("note of a shard", _make_note, _read_note, _accept_note, ("notes.read_note",)),
        Format("files of footage", _make_footage_note, originals._read, _accept_footage_note, ()),
        Format("dataset card", _make_card, card.read_card, _accept_card, ("card.read_card",)),
        Format("metrics", _make_metrics, metrics.read_metrics, _accept_metrics,
               ("metrics.read_metrics",)),
        *(_path_format(suffix) for suffix in (".npz", ".npy", ".json", ".txt")),
        *CAMERA_FORMATS,
        *FOOTAGE_FORMATS,
        *QUAKE_FORMATS,
        Format("geometry.npz", lambda folder: geometry_npz.save(folder / "geometry.npz"),
               read_geometry, _accept_geometry, ("geometry_npz.read_geometry",)),
        *(_picture_format(suffix) for suffix in ("png", "jpg", "webp")),
        *(_depth_format(suffix) for suffix in (".png", ".npy", ".npz")),
        Format("picture's depth", _make_depth_pair,
               _read_depth_pair,
               _accept_map, ("picture_files.read_picture_depth",)),
        Format("video", _make_video, video.read_video, _accept_video, ("video.read_video",)),
        Format("LoRA", _make_lora, _imported, _accept_imported, ("tensor_files.read_header",)),
        Format("released checkpoint", _make_released, _imported, _accept_imported,
               ("tensor_files.open_tensors", "released.read_released")),
        Format("UMT5", _make_umt5, _read_umt5, _accept_umt5, ("prompts.embed_prompts",)),
        Format("config.json", _make_config, _imported, _accept_imported, ()),
        Format("WAD", _make_wad, _read_wad, _accept_wad, ("doom_map.read_map",)),
    )
}  # fmt: skip
