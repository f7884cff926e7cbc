"""The recorded worlds read back through TFDS, without TensorFlow."""

import subprocess
import sys

import pytest

from data_pipelines.recording import record
from data_pipelines.sources.procedural import ProceduralSource
from data_pipelines.tfds_builder.mirage_worlds import prepare
from helpers.made_clips import bare, make_full_clip

# In a process of its own: another test's imports must not decide what is in sys.modules.
ROUND_TRIP = """
import sys
import numpy as np
import tensorflow_datasets as tfds
from data_pipelines.clip import ARRAY_FIELDS
from data_pipelines.loading import ClipSource
from data_pipelines.tfds_builder.mirage_worlds import prepare

recording, data_dir = sys.argv[1:]
prepare(recording, data_dir)
for split, count in (("train", 5), ("eval", 2)):
    dataset = tfds.data_source("mirage_worlds/procedural", data_dir=data_dir, split=split)
    source = ClipSource(recording, split)
    assert len(dataset) == len(source) == count
    for index in range(count):
        example, clip = dataset[index], source.clip(index)
        for field in ARRAY_FIELDS:
            np.testing.assert_array_equal(example[field], getattr(clip, field))
            assert example[field].dtype == getattr(clip, field).dtype
        for field in ("world", "source", "trajectory", "name"):
            assert example[field].decode() == getattr(clip, field)
        for field in ("seed", "gamma", "fps"):
            assert example[field] == getattr(clip, field)
        assert example["times"].shape == (0,) and example["body_velocity"].shape == (0, 0, 3)
        assert example["caption"] == example["provenance"] == b""
assert "tensorflow" not in sys.modules
"""


PARTS_OF_CLIPS = """
import json, sys
import numpy as np
import tensorflow_datasets as tfds
from data_pipelines.clip import PARTS
from data_pipelines.loading import ClipSource
from data_pipelines.tfds_builder.mirage_worlds import prepare

recording, data_dir = sys.argv[1:]
prepare(recording, data_dir)
bare, full = tfds.data_source("mirage_worlds/procedural", data_dir=data_dir, split="train")
clip = ClipSource(recording, "train").clip(1)
for name in PARTS:
    found = full[name.replace("bodies.", "body_")]
    np.testing.assert_array_equal(found, clip.part(name))
    assert found.dtype == clip.part(name).dtype
assert [name.decode() for name in full["body_looks"]] == ["red", "blue"]
assert (full["caption"], full["licence"]) == (b"a corridor", b"CC-BY-4.0")
assert json.loads(full["provenance"]) == clip.provenance
assert bare["video"].shape == (3, 4, 6, 3)
for name in ("depth", "mover_ids", "times", "body_body2world"):
    assert bare[name].shape[0] == 0, name
assert bare["seed"] == -1 and bare["caption"] == b"" and len(bare["body_kinds"]) == 0
assert "tensorflow" not in sys.modules
"""


class Made(ProceduralSource):
    """One clip without anything that may be absent, and one with everything."""

    def clips(self, world, count, seed):
        return iter([bare(make_full_clip()), make_full_clip()])


def test_what_a_clip_lacks_is_empty(tmp_path):
    source = Made(train_worlds=1)
    record(source, tmp_path / "clips", "train", 2, workers=0, progress=False)
    command = [
        sys.executable,
        "-c",
        PARTS_OF_CLIPS,
        str(tmp_path / "clips"),
        str(tmp_path / "tfds"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


TWO_WORLDS = """
import sys
from pathlib import Path
import tensorflow_datasets as tfds
from data_pipelines.loading import ClipSource
from data_pipelines.tfds_builder.mirage_worlds import prepare

first, second, data_dir = sys.argv[1:]
prepare(first, data_dir)
prepare(first, data_dir)  # the same: nothing to do
try:
    prepare(second, data_dir)
except ValueError as error:
    assert "holds another recording than" in str(error) and second in str(error), error
else:
    raise AssertionError("another recording of the same source was not refused")
name = tfds.data_source("mirage_worlds/procedural", data_dir=data_dir, split="train")[0]["name"]
assert name.decode() == ClipSource(first, "train").clip(0).name
# The same clips as those of another source go beside the first.
card = Path(second, "dataset.json")
card.write_text(card.read_text().replace('"source": "procedural"', '"source": "other"'))
builder = prepare(second, data_dir)
assert builder.info.splits["train"].num_examples == 2
for world, count in (("procedural", 1), ("other", 2)):
    found = tfds.data_source(f"mirage_worlds/{world}", data_dir=data_dir, split="train")
    assert len(found) == count
"""


def test_worlds_in_one_folder_are_kept_apart(tmp_path):
    source = ProceduralSource(size=8, frames=10, train_worlds=1, eval_worlds=1)
    for name, count in (("first", 1), ("second", 2)):
        record(source, tmp_path / name, "train", count, seed=count, workers=0, progress=False)
    folders = [str(tmp_path / name) for name in ("first", "second", "tfds")]
    command = [sys.executable, "-c", TWO_WORLDS, *folders]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_round_trip_through_tfds_without_tensorflow(tmp_path):
    source = ProceduralSource(size=8, frames=10, train_worlds=2, eval_worlds=1)
    for split, count in (("train", 5), ("eval", 2)):
        options = {"shard_clips": 2, "workers": 0, "progress": False}
        record(source, tmp_path / "clips", split, count, **options)
    command = [sys.executable, "-c", ROUND_TRIP, str(tmp_path / "clips"), str(tmp_path / "tfds")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_folder_without_recordings_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"dataset\.json: found no recorded splits"):
        prepare(tmp_path, tmp_path / "tfds")
