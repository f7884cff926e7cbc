"""What flags ask of a model: other chunks it was trained on, or a refusal."""

import numpy as np
import pytest

from helpers import tiny_world
from mirage_jax.cli.helpers import common, flag_values
from mirage_jax.io.workdir import Workdir
from mirage_jax.weights import export
from mirage_jax.world.model import WorldModel


class Model(tiny_world.stand_in(WorldModel)):
    """What of a model flags are compared with."""

    size = (16, 24)

    def __init__(self, chunk_frames=17):
        self.chunk_frames = chunk_frames

    def replace(self, **changes):
        return Model(**changes)


def asked(workdir, **flags):
    flags = {"size": None, "chunk_frames": None, **flags}
    return flag_values.as_asked(Model(), workdir, denoiser="latent", **flags)


@pytest.fixture
def workdir(tmp_path):
    made = {"kind": "denoiser", "chunk_lengths": [5, 9, 17]}
    export(Workdir(tmp_path).model("denoiser_latent"), {"bias": np.zeros(1, np.float32)}, made)
    return Workdir(tmp_path)


def test_chunks_are_of_any_length_that_was_trained_on(workdir, tmp_path):
    assert asked(workdir).chunk_frames == 17
    assert asked(workdir, chunk_frames=5).chunk_frames == 5
    with pytest.raises(common.UserError, match="--chunk_frames: found 33, expected 17"):
        asked(workdir, chunk_frames=33)
    with pytest.raises(common.UserError, match="--chunk_frames: found 5, expected 17"):
        asked(Workdir(tmp_path / "other"), chunk_frames=5)


def test_another_size_is_refused(workdir):
    assert asked(workdir, size=(16, 24)).size == (16, 24)
    with pytest.raises(common.UserError, match=r"--video_size: found \(16, 16\), expected"):
        asked(workdir, size=(16, 16))
