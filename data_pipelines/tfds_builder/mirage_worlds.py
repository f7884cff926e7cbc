"""The recorded worlds as a TFDS dataset, `mirage_worlds`, without TensorFlow.

    prepare("runs/quickstart/worlds/freedoom", "~/tensorflow_datasets")
    tfds.data_source("mirage_worlds/freedoom", data_dir="~/tensorflow_datasets", split="train")

Each source of worlds is a builder config. A folder holds one recording of each; preparing another
there is refused.

TFDS needs TensorFlow for its default file format, its Video feature and `as_dataset`.  The builder
therefore writes ArrayRecord files of plain tensors, to be read with `tfds.data_source`; arrays are
zlib-packed, because TFDS leaves the records uncompressed.

TFDS knows no absent values. What a clip lacks is an array without frames (a rendered clip has at
least one), an empty text, and -1 for the seed; `provenance` is JSON text.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines import clip_format, sources
from data_pipelines.card import CARD, read_card
from data_pipelines.clip import META_FIELDS, PARTS, Clip
from data_pipelines.recording import read_records
from mirage_jax.io.atomic import write_atomically
from mirage_jax.io.strict_json import read_object

_RECORDING = "recording.json"
_NUMBERS = {"seed": np.int64, "gamma": np.float64, "fps": np.float64}
_NAMES = ("kinds", "looks")  # of bodies


class MirageWorlds(tfds.core.GeneratorBasedBuilder):
    """Short clips of third-party worlds with exact depth, cameras and mover ids."""

    VERSION = tfds.core.Version("2.0.0")
    BUILDER_CONFIGS = tuple(tfds.core.BuilderConfig(name=name) for name in sources.SOURCES)
    MANUAL_DOWNLOAD_INSTRUCTIONS = "manual_dir is a folder written by data_pipelines.recording."
    # Nothing is downloaded, so no checksum file lies beside this module; TFDS 4.9.10 would import
    # importlib_resources, which it does not declare, to look for one.
    code_path = None

    def _info(self) -> tfds.core.DatasetInfo:
        features: dict[str, Any] = {
            _feature(name): tfds.features.Tensor(
                shape=tuple(int(axis) if axis.isdigit() else None for axis in part.axes.split()),
                dtype=part.dtype,
                encoding="zlib",
            )
            for name, part in PARTS.items()
        }
        for field in META_FIELDS:
            features[field] = tfds.features.Text()
        for field, dtype in _NUMBERS.items():
            features[field] = tfds.features.Scalar(dtype)
        for field in _NAMES:
            features[f"body_{field}"] = tfds.features.Sequence(tfds.features.Text())
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        recording = Path(dl_manager.manual_dir)
        return {
            split: self._generate_examples([recording / file for file in sorted(entry["shards"])])
            for split, entry in _splits(recording).items()
        }

    def _generate_examples(self, paths: list[Path]) -> Iterator[tuple[int, dict[str, Any]]]:
        key = 0
        for path in paths:
            for data in read_records(path):
                yield key, _example(clip_format.from_bytes(data))
                key += 1


def _feature(part: str) -> str:
    """Name of a part of a clip in TFDS, whose names have no dots."""
    return part.replace("bodies.", "body_")


def _example(clip: Clip) -> dict[str, Any]:
    example: dict[str, Any] = {}
    for name, part in PARTS.items():
        array = clip.part(name)
        if array is None:
            shape = [int(axis) if axis.isdigit() else 0 for axis in part.axes.split()]
            array = np.zeros(shape, part.dtype)
        example[_feature(name)] = array
    for field in META_FIELDS:
        value = getattr(clip, field)
        example[field] = (-1 if field == "seed" else "") if value is None else value
    if clip.provenance is not None:
        example["provenance"] = json.dumps(clip.provenance, sort_keys=True)
    for field in _NAMES:
        example[f"body_{field}"] = list(getattr(clip.bodies, field)) if clip.bodies else []
    return example


def prepare(
    recording: str | os.PathLike[str], data_dir: str | os.PathLike[str]
) -> tfds.core.DatasetBuilder:
    """Writes the recording in folder `recording` to `data_dir` as TFDS dataset
    `mirage_worlds/<source>`.

    Returns the builder; does nothing but that if the dataset is there already.

    Raises:
      ValueError: `recording` is not a finished recording, or `data_dir` holds another of the same
        source.
    """
    splits = _splits(recording)
    source = next(iter(splits.values()))["source"]
    config = MirageWorlds.builder_configs.get(source) or tfds.core.BuilderConfig(name=source)
    builder = MirageWorlds(data_dir=os.fspath(data_dir), config=config, file_format="array_record")
    made_from = Path(builder.data_dir) / _RECORDING
    if made_from.parent.exists():  # what TFDS goes by
        _check_same(made_from, splits, recording)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=os.fspath(recording))
    )
    write_atomically(made_from, json.dumps(splits, indent=1) + "\n")
    return builder


def _check_same(made_from: Path, splits: dict[str, Any], recording: str | os.PathLike[str]) -> None:
    found = read_object(made_from) if made_from.exists() else None
    if found != splits:
        raise ValueError(
            f"{made_from.parent}: holds another recording than {os.fspath(recording)}, expected "
            "none or the same: choose another data_dir, or remove it"
        )


def _splits(recording: str | os.PathLike[str]) -> dict[str, Any]:
    splits = read_card(recording)["splits"]
    if not splits:
        raise ValueError(f"{Path(recording) / CARD}: found no recorded splits, expected some")
    for split, entry in splits.items():
        if not entry.get("clips"):
            raise ValueError(f"{recording}: found split {split!r} unfinished, expected clips in it")
    return splits
