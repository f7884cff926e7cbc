"""Caches and exports whose writer is killed at any moment: the old or the new, whole."""

import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest

from helpers import writes_until_killed as writer
from helpers.exhaustive import LONG
from mirage_jax.io.atomic import partial_path
from mirage_jax.training import latent_cache
from mirage_jax.training.latent_encoding import load_clips
from mirage_jax.weights import ARCHITECTURE, WEIGHTS, load_export

CASES = 20 if LONG else 2


@pytest.fixture(scope="module")
def batches():
    return [writer.clips(0), writer.clips(1)]


def kept(folder, batches):
    """Which content the cache and the export have; they must have one of them, whole."""
    depth = load_clips(folder / writer.CACHE).depth
    (cached,) = (i for i in (0, 1) if np.array_equal(depth, batches[i].depth))
    found, architecture = load_export(folder / writer.EXPORT)
    (exported,) = (i for i in (0, 1) if architecture == writer.architecture(i))
    expected = writer.params(exported)["dense"]["kernel"]
    np.testing.assert_array_equal(found["dense"]["kernel"], expected)
    return cached, exported


@pytest.mark.parametrize("case", range(CASES))
def test_what_a_killed_process_was_writing_is_there_whole(case, tmp_path, batches):
    given = os.environ.get("MIRAGE_TEST_KILL_SEED")
    seed = int(given) if given else random.SystemRandom().randrange(2**32)
    rng = random.Random(seed)
    process = subprocess.Popen(
        [sys.executable, writer.__file__, tmp_path], stdout=subprocess.PIPE, text=True
    )
    for _ in range(2):  # one of each
        assert process.stdout.readline() == "written\n"
    moment = rng.uniform(0, 0.3)
    time.sleep(moment)
    process.kill()
    process.communicate()
    told = f"killed {moment:.3f} s after both; repeat with MIRAGE_TEST_KILL_SEED={seed}"
    cached, _ = kept(tmp_path, batches)
    # The key may be missing, but vouches for nothing else.
    assert latent_cache.stale(tmp_path / writer.CACHE, writer.key(1 - cached)), told
    for which in (0, 1):
        writer.write(tmp_path, which, batches[which])
        assert kept(tmp_path, batches) == (which, which), told
    assert not list(tmp_path.rglob(".*")), told


@pytest.mark.parametrize("killed_before", [WEIGHTS, ARCHITECTURE])
def test_between_the_two_renames_of_an_export(tmp_path, batches, monkeypatch, killed_before):
    writer.write(tmp_path, 0, batches[0])
    folder, replace = tmp_path / writer.EXPORT, os.replace

    class Killed(BaseException):
        pass

    def rename(source, target):
        if os.fspath(target) == str(folder / killed_before):
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("mirage_jax.io.atomic.os.replace", rename)
        patch.setattr("mirage_jax.io.atomic._remove", lambda path: None)  # nor is anything tidied
        with pytest.raises(Killed):
            writer.weights.export(folder, writer.params(1), writer.architecture(1))
    assert partial_path(folder / killed_before).exists()
    assert kept(tmp_path, batches) == (0, 0)
    # The same run again, and the one that was killed: both put right what is there for people.
    for which in (0, 1):
        writer.weights.export(folder, writer.params(which), writer.architecture(which))
        text = (folder / ARCHITECTURE).read_text()
        assert text == writer.weights.architecture_text(writer.architecture(which)) + "\n"
        assert load_export(folder)[1] == writer.architecture(which)
    writer.weights.export(folder, writer.params(0), writer.architecture(0))
    assert sorted(p.name for p in folder.iterdir()) == [ARCHITECTURE, WEIGHTS]
