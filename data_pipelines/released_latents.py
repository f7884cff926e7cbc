"""Latents that the released Mirage code trains on: its LMDB shards, without torch.

A shard is a folder `shard_NNN.lmdb`, whose keys are samples and whose values are pickles of the
bytes of files by name: tensors of torch.save, texts, JSON and a PNG. Of the pickles only dicts,
texts and bytes are obeyed. Latents are normalised as those of Wan's encoders are.
"""

from __future__ import annotations

import functools
import importlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from mirage_jax.io import torch_files
from mirage_jax.io.plain_pickle import unpickle
from mirage_jax.io.strict_json import parse_object

_LATENTS = {
    "target": "train_target_rgb.pt",
    "projected_target": "train_target_scene_proj_rgb.pt",
    "preceding": "train_preceding_rgb.pt",
    "projected_preceding": "train_preceding_scene_proj_rgb.pt",
}
_REFERENCES = "train_reference_rgb.pt"
_CAPTION, _SAMPLE, _PICTURE = (
    "train_target_rgb.txt",
    "train_sample.json",
    "train_target_rgb_frame0.png",
)


class ReleasedLatents:
    """Random access to the samples of a folder of shards; picklable.

    An element is a dict of float32 latents [T, h, w, C]: `target`, `projected_target` (what the
    memory shows of it, zeros in holes), `preceding`, `projected_preceding`, `references` (None
    where there are none); and `caption`, `sample` (the content of train_sample.json), `picture`
    (uint8 [H, W, 3], the first frame of the target) and `name`.

    Args:
      root: the folder of the shards, or one of them.

    Raises:
      ModuleNotFoundError: if the optional package `lmdb` is not installed.
      ValueError: naming the folder, if it has no shard, or one that is damaged or empty. So does
        reading a sample.
    """

    def __init__(self, root: str | Path):
        root = Path(root).absolute()
        self.shards = [root] if (root / "data.mdb").is_file() else sorted(root.glob("*.lmdb"))
        if not self.shards:
            raise ValueError(f"{root}: found no shard, expected shard_000.lmdb and so on")
        self._places = [
            (number, key) for number in range(len(self.shards)) for key in self._keys(number)
        ]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, key = self._places[index]
        path = Path(self.title(index))
        return {**read_sample(self._value(number, key), path), "name": key.decode(errors="replace")}

    def title(self, index: int) -> str:
        """Names a sample by its shard and key."""
        number, key = self._places[index]
        return f"{self.shards[number]}/{key.decode(errors='replace')}"

    def __repr__(self) -> str:
        return f"ReleasedLatents({self.shards[0].parent}, {len(self)} samples)"

    def _keys(self, number: int) -> list[bytes]:
        with _opened(self.shards[number]).begin() as transaction:
            keys = list(transaction.cursor().iternext(keys=True, values=False))
        if not keys:
            raise ValueError(f"{self.shards[number]}: found no sample, expected some")
        return keys

    def _value(self, number: int, key: bytes) -> bytes:
        with _opened(self.shards[number]).begin() as transaction:
            return bytes(transaction.get(key))


@functools.cache
def _opened(shard: Path) -> Any:
    """A shard's environment, of which LMDB allows one in a process."""
    try:
        lmdb = importlib.import_module("lmdb")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the optional package lmdb is not installed: pip install 'mirage_jax[lmdb]'"
        ) from error
    try:
        opened = lmdb.open(str(shard), readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise ValueError(f"{shard}: found no whole LMDB shard ({error})") from error
    # It is mapped into memory: a page beyond the end of the file would end the process.
    pages = (opened.info()["last_pgno"] + 1) * opened.stat()["psize"]
    size = (shard / "data.mdb").stat().st_size
    if size < pages:
        opened.close()
        raise ValueError(f"{shard}/data.mdb: found {size:,} bytes, expected {pages:,}")
    return opened


def read_sample(value: bytes, path: Path) -> dict[str, Any]:
    """A sample of its pickled value: an element of `ReleasedLatents` without its name.

    Raises:
      ValueError: naming `path`, which is for messages, and the file in it that is missing, damaged
        or of another size than the others.
    """
    files = _files(value, path)
    found: dict[str, Any] = {name: _latent(files, file, path) for name, file in _LATENTS.items()}
    found["references"] = None
    if _REFERENCES in files:
        found["references"] = _latent(files, _REFERENCES, path, channels_first=True)
    grid = found["target"].shape[1:]
    for name, latents in found.items():
        if latents is not None and latents.shape[1:] != grid:
            raise ValueError(f"{path}: {name}: found {latents.shape}, expected cells as {grid}")
    return {
        **found,
        "caption": _text(files, _CAPTION, path).strip(),
        "sample": _sample(files, path),
        "picture": _picture(files, path),
    }


def _files(value: bytes, path: Path) -> Mapping[str, bytes]:
    try:
        found = unpickle(value, path, {}, "texts and bytes")
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: damaged ({error})") from error
    known = isinstance(found, dict) and all(
        isinstance(name, str) and isinstance(content, bytes) for name, content in found.items()
    )
    if not known:
        raise ValueError(f"{path}: found {type(found).__name__}, expected a dict of files' bytes")
    for name in (*_LATENTS.values(), _CAPTION, _SAMPLE, _PICTURE):
        if name not in found:
            raise ValueError(f"{path}: found no {name}, expected one")
    return found


def _latent(
    files: Mapping[str, bytes], name: str, path: Path, *, channels_first: bool = False
) -> Float[np.ndarray, "t h w c"]:
    """The tensor "latent" of a file [T, C, h, w], or [C, T, h, w], channels last."""
    content = torch_files.load(path / name, files[name])
    tensor = content.get("latent") if isinstance(content, dict) else None
    if not isinstance(tensor, torch_files.Tensor) or len(tensor.shape) != 4:
        raise ValueError(f"{path / name}: found no tensor 'latent' of four axes, expected one")
    latents = np.moveaxis(tensor.read().astype(np.float32), 0 if channels_first else 1, -1)
    if not np.isfinite(latents).all():
        raise ValueError(f"{path / name}: found values that are not finite")
    return np.ascontiguousarray(latents)


def _text(files: Mapping[str, bytes], name: str, path: Path) -> str:
    try:
        return files[name].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path / name}: found no UTF-8 ({error})") from error


def _sample(files: Mapping[str, bytes], path: Path) -> dict[str, Any]:
    try:
        return parse_object(files[_SAMPLE])
    except ValueError as error:
        raise ValueError(f"{path / _SAMPLE}: {error}") from error


def _picture(files: Mapping[str, bytes], path: Path) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(files[_PICTURE]), formats=("PNG",)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path / _PICTURE}: damaged picture ({error})") from error
