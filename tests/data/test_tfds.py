"""The recorded worlds read back through TFDS, without TensorFlow."""

import subprocess
import sys

import pytest

from data_pipelines.recording import record
from data_pipelines.sources.procedural import ProceduralSource
from data_pipelines.tfds_builder.mirage_worlds import prepare

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
    dataset = tfds.data_source("mirage_worlds", data_dir=data_dir, split=split)
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
assert "tensorflow" not in sys.modules
"""


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
