"""Footage that is batched without being recorded."""

import numpy as np
import pytest

from data_pipelines import loading, sources
from data_pipelines.sources.finite import FiniteClips
from helpers import made_footage
from helpers.made_footage import room


@pytest.fixture
def source(tmp_path):
    made_footage.colmap(tmp_path, room())
    return sources.make("footage", root=str(tmp_path), size=16, frames=4, eval_share=0.0)


def test_loader_processes_read_footage_as_this_one_does(source):
    clips = FiniteClips(source, "train", ("video", "cam2world", "name"))
    assert len(clips) == 3 and repr(clips) == (
        "FiniteClips(footage, 3 clips, fields=('video', 'cam2world', 'name'))"
    )
    found = {}
    for workers in (0, 1):
        with loading.batches(clips, batch_size=3, seed=0, workers=workers) as stream:
            found[workers] = next(stream)
    assert sorted(found[0]["name"].tolist()) == [f"room/{i:06d}" for i in (0, 4, 8)]
    for name, array in found[0].items():
        np.testing.assert_array_equal(array, found[1][name])
    first = found[0]["name"].tolist().index("room/000000")
    np.testing.assert_allclose(found[0]["cam2world"][first], room().cam2world[:4], atol=1e-6)


def test_fields_and_splits_that_are_not_there_are_refused(source):
    with pytest.raises(ValueError, match="unknown clip fields"):
        FiniteClips(source, "train", ("colour",))
    with pytest.raises(ValueError, match="no clips in split 'eval'"):
        FiniteClips(source, "eval")
    with pytest.raises(ValueError, match="depth: found none, expected it"):
        FiniteClips(source, "train", ("depth",))[0]
