"""The recorded worlds as a TFDS dataset, `mirage_worlds`, without TensorFlow.

    prepare("runs/quickstart/worlds/freedoom", "~/tensorflow_datasets")
    tfds.data_source("mirage_worlds/freedoom", data_dir="~/tensorflow_datasets", split="train")

Each source of worlds is a builder config. A folder holds one recording of each; preparing another
there is refused.

TFDS needs TensorFlow for its default file format, its Video feature and `as_dataset`.  The builder
therefore writes ArrayRecord files of plain tensors, to be read with `tfds.data_source`; arrays are
zlib-packed, because TFDS leaves the records uncompressed.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines import clip as clip_format
from data_pipelines import sources
from data_pipelines.card import CARD, read_card
from data_pipelines.clip import ARRAY_FIELDS, META_FIELDS
from data_pipelines.recording import read_records

_RECORDING = "recording.json"


class MirageWorlds(tfds.core.GeneratorBasedBuilder):
    """Short clips of third-party worlds with exact depth, cameras and mover ids."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = tuple(tfds.core.BuilderConfig(name=name) for name in sources.SOURCES)
    MANUAL_DOWNLOAD_INSTRUCTIONS = "manual_dir is a folder written by data_pipelines.recording."
    # Nothing is downloaded, so no checksum file lies beside this module; TFDS 4.9.10 would import
    # importlib_resources, which it does not declare, to look for one.
    code_path = None

    def _info(self) -> tfds.core.DatasetInfo:
        shapes: dict[str, tuple[tuple[int | None, ...], Any]] = {
            "video": ((None, None, None, 3), np.uint8),
            "depth": ((None, None, None), np.float32),
            "intrinsics": ((None, 4), np.float32),
            "cam2world": ((None, 4, 4), np.float64),
            "mover_ids": ((None, None, None), np.int32),
        }
        features: dict[str, Any] = {
            field: tfds.features.Tensor(shape=shape, dtype=dtype, encoding="zlib")
            for field, (shape, dtype) in shapes.items()
        }
        for field in ("world", "source", "trajectory", "name"):
            features[field] = tfds.features.Text()
        features["seed"] = tfds.features.Scalar(np.int64)
        features["gamma"] = tfds.features.Scalar(np.float64)
        features["fps"] = tfds.features.Scalar(np.float64)
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
                yield key, clip_format.decode(data, ARRAY_FIELDS + META_FIELDS)
                key += 1


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
    made_from.write_text(json.dumps(splits, indent=1) + "\n", encoding="utf-8")
    return builder


def _check_same(made_from: Path, splits: dict[str, Any], recording: str | os.PathLike[str]) -> None:
    found = json.loads(made_from.read_text(encoding="utf-8")) if made_from.exists() else None
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
