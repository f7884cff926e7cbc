"""Clips that cannot be read are skipped and counted; processes that die or hang are named."""

import itertools
import os
import signal
import time

import numpy as np
import pytest

from data_pipelines.loading import batches
from data_pipelines.mixture import Mixture
from data_pipelines.tolerance import LoaderError, skipped_by, told_file


class Numbers:
    """Elements that say which they are; some cannot be read."""

    def __init__(self, count=20, bad=()):
        self.count, self.bad = count, bad

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.bad:
            raise ValueError(f"clips: clip {index} 'walk-{index}': damaged")
        return {"x": np.int64(index)}

    def title(self, index):
        return f"clips: clip {index} 'walk-{index}'"


def drawn_by(element, rng):
    return {**element, "draw": rng.integers(1000)}


def take(source, count=10, **options):
    options = {"batch_size": 4, "seed": 5, "say": lambda text: None, **options}
    with batches(source, drawn_by, **options) as loader:
        return list(itertools.islice(loader, count)), loader.skipped


def test_the_next_that_can_be_read_takes_the_place_of_one_that_cannot():
    whole, skipped = take(Numbers())
    assert skipped == {}
    said = []
    found, skipped = take(Numbers(bad=(3, 4, 19)), skip_share=0.15, say=said.append)
    for one, other in zip(whole, found, strict=True):
        assert set(one) == set(other) == {"x", "draw"}
        instead = {3: 5, 4: 5, 19: 0}
        expected = [instead.get(int(x), int(x)) for x in one["x"]]
        np.testing.assert_array_equal(other["x"], expected)
        np.testing.assert_array_equal(other["draw"], one["draw"])
    assert sorted(skipped) == [3, 4, 19]
    assert all(f"clip {n} 'walk-{n}': damaged" in skipped[n] for n in skipped)
    assert sorted(said) == sorted(f"skipped: {reason}" for reason in skipped.values())


def test_what_cannot_be_read_for_a_moment_is_not_skipped():
    class Unsteady(Numbers):
        def __init__(self):
            super().__init__()
            self.failed = set()

        def __getitem__(self, index):
            if index % 3 == 0 and index not in self.failed:
                self.failed.add(index)
                raise ValueError(f"clip {index}: the disk did not answer")
            return super().__getitem__(index)

    whole, _ = take(Numbers())
    found, skipped = take(Unsteady(), skip_share=0.01)
    assert skipped == {}
    for one, other in zip(whole, found, strict=True):
        np.testing.assert_array_equal(other["x"], one["x"])


def test_hosts_skip_alike():
    source, options = Numbers(bad=(3,)), {"skip_share": 0.1}
    whole, _ = take(source, 5, **options)
    parts = [take(source, 5, shard=(host, 2), **options)[0] for host in range(2)]
    for index, batch in enumerate(whole):
        joined = np.concatenate([part[index]["x"] for part in parts])
        np.testing.assert_array_equal(joined, batch["x"])


def test_hosts_count_what_they_skip_together_and_go_on_counting(tmp_path):
    """Each of two hosts meets one of three damaged clips, or two; both stay below the share."""
    source, options = Numbers(bad=(3, 4, 19)), {"skip_share": 0.1, "batch_size": 2}
    seen = [take(source, 8, shard=(host, 2), **options)[1] for host in range(2)]
    assert 0 < len(seen[0]) < 3 and len(seen[0].keys() | seen[1].keys()) == 3
    take(source, 8, shard=(0, 2), told=tmp_path, **options)
    with pytest.raises(ValueError, match=r"found 3 of 20 clips .* at most 10.00%"):
        take(source, 8, shard=(1, 2), told=tmp_path, **options)
    assert sorted(skipped_by(told_file(tmp_path, 0, 2))) == [3, 4, 19]
    # A run that goes on counts what still cannot be read.
    still = max(seen[0])
    _, skipped = take(Numbers(bad=(still,)), 0, shard=(0, 2), told=tmp_path, **options)
    assert set(skipped) == {still}
    assert set(skipped_by(told_file(tmp_path, 0, 2))) == {still, *seen[1]}


def test_the_next_is_of_the_same_set_of_a_mixture():
    mixture = Mixture((12, 8), (1.0, 1.0), apart=True)
    found, skipped = take(Numbers(bad=(11, 19)), 10, mixture=mixture, skip_share=0.1)
    assert sorted(skipped) == [11, 19]
    assert all(len({x < 12 for x in batch["x"]}) == 1 for batch in found)


def test_more_than_the_share_end_the_stream():
    with pytest.raises(ValueError, match=r"found 3 of 20 clips .* at most 10.00%: clips: clip"):
        take(Numbers(bad=(3, 4, 19)), skip_share=0.1)
    with pytest.raises(ValueError, match="clip 3 'walk-3': damaged"):
        take(Numbers(bad=(3,)))
    with pytest.raises(ValueError, match="damaged"):
        take(Numbers(bad=range(20)), skip_share=0.9)


class Fatal(Numbers):
    """Reading one ends the process, as a decoder may, or takes for ever."""

    def __getitem__(self, index):
        if index == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_process_that_dies_is_named_by_its_clip():
    with pytest.raises(LoaderError, match=r"exit code -9.*It was at .*clip 7 'walk-7'"):
        take(Fatal(), workers=1)


class Slow(Numbers):
    def __getitem__(self, index):
        time.sleep(2.5 if index == 7 else 0)
        return super().__getitem__(index)


def test_a_clip_that_takes_for_ever_is_named():
    with pytest.raises(
        LoaderError, match=r"no batch in 0.8 s .*; still at clips: clip 7 'walk-7'$"
    ):
        take(Slow(), seconds=0.8)
