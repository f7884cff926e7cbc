"""What the loader does at once: mixtures, rates, windows that come back, damage, processes."""

import itertools
import shutil

import numpy as np
import pytest

from data_pipelines.loading import AtRate, ClipSource, batches
from data_pipelines.mixture import Mixture
from data_pipelines.recording import record
from data_pipelines.return_windows import ReturnWindow
from data_pipelines.sources.procedural import ProceduralSource
from data_pipelines.tolerance import LoaderError
from mirage_jax.training.clip_encoding import OPTIONAL_FIELDS, REQUIRED_FIELDS, EncoderInputs
from mirage_jax.training.sources import Joined

FIELDS = ("cam2world", "intrinsics", "video", "name", "fps", "depth")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Clips of 10 and of 20 frames a second; a record of the first set is damaged on the disk.

    "sound" is the first set before.
    """
    root = tmp_path_factory.mktemp("sets")
    for name, fps in (("ten", 10.0), ("twenty", 20.0)):
        source = ProceduralSource(size=8, frames=41, fps=fps, train_worlds=2, ball=False)
        record(source, root / name, "train", 6, workers=0, progress=False, shard_clips=3)
    shutil.copytree(root / "ten", root / "sound")
    shard = sorted((root / "ten").glob("train-*"))[1]
    data = bytearray(shard.read_bytes())
    data[3000:3064] = bytes(64)  # in the middle of its first record
    shard.write_bytes(bytes(data))
    return root, shard.name


def joined(root, fields=FIELDS):
    return Joined([ClipSource(root / name, "train", fields) for name in ("ten", "twenty")])


def both_fields(root, names=("ten", "twenty")):
    return Joined(
        [
            ClipSource(root / name, "train", REQUIRED_FIELDS, optional=OPTIONAL_FIELDS)
            for name in names
        ]
    )


def take(root, workers, count=8):
    source = both_fields(root)
    inputs = EncoderInputs(200.0, windows=(AtRate(10.0), ReturnWindow(17, 9, later=0.5)))
    with batches(
        source,
        inputs,
        batch_size=3,
        seed=1,
        workers=workers,
        skip_share=0.1,
        say=lambda _: None,
        mixture=Mixture(source.lengths, (1.0, 2.0)),
    ) as stream:
        return list(itertools.islice(stream, count)), stream.skipped


def test_the_order_is_the_same_for_any_processes_over_damage_rates_and_windows(folders):
    root, shard = folders
    whole, skipped = take(root, 0)
    [(number, reason)] = skipped.items()
    assert 3 <= number < 6 and shard in reason
    for workers in (1, 2):
        again, told = take(root, workers)
        assert set(told) == {number}
        for one, other in zip(whole, again, strict=True):
            assert one.keys() == other.keys()
            for name in one:
                np.testing.assert_array_equal(one[name], other[name])
    assert all(batch["depth"].shape == (3, 5, 8, 8) for batch in whole)


def test_windows_of_clips_with_depth_are_cut_alike_in_every_part(folders):
    source = ClipSource(folders[0] / "twenty", "train", FIELDS)
    window = ReturnWindow(17, 9, returns=1.0)
    for index in range(len(source)):
        element, rng = source[index], np.random.default_rng(index)
        frames = window.choose(element, np.random.default_rng(index)).frames
        cut = window(element, rng)
        for name in ("video", "depth", "cam2world", "intrinsics"):
            np.testing.assert_array_equal(cut[name], element[name][frames])
    # Depth says what is seen: behind a wall at arm's length there is nothing to come back to.
    near = {**element, "depth": np.full_like(element["depth"], 0.05)}
    seen = [
        window.choose(e, np.random.default_rng(s)).frames.tolist()
        for e in (element, near)
        for s in range(6)
    ]
    assert seen[:6] != seen[6:]


def test_two_rates_of_a_mixture_come_to_one(folders):
    def both(element, rng):
        return AtRate(10.0)(element, rng) | {"before": np.float64(element["fps"])}

    source = joined(folders[0])
    for index in (0, 6):
        made = both(source[index], np.random.default_rng(0))
        assert made["fps"] == 10.0
        assert len(made["video"]) == (41 if made["before"] == 10.0 else 21)
    slow = source[0]["cam2world"]
    fast = AtRate(10.0)(source[6], np.random.default_rng(0))["cam2world"]
    np.testing.assert_array_equal(fast, source[6]["cam2world"][::2])
    assert len(slow) == 41


def test_clips_that_are_too_slow_or_short_are_skipped_and_counted_or_named(folders):
    root, _ = folders
    # At 20 frames a second the set of 10 is too slow: half of all, and each is named.
    transform = EncoderInputs(200.0, windows=(AtRate(20.0),))
    sound = both_fields(root, ("sound", "twenty"))
    named = r"sound: clip \d '.*found 10 frames per second, expected at least 20"
    with (
        batches(sound, transform, batch_size=12, seed=1) as stream,
        pytest.raises(ValueError, match=named),
    ):
        next(stream)
    source = both_fields(root)
    options = {"batch_size": 3, "seed": 1, "say": lambda _: None, "skip_share": 0.6}
    with batches(source, transform, **options) as stream:
        batch = [next(stream) for _ in range(6)][-1]
        assert batch["video"].shape[1] == 41
        assert set(stream.skipped) <= set(range(6)) and len(stream.skipped) >= 5
    short = EncoderInputs(200.0, windows=(ReturnWindow(57, 9),))
    with (
        batches(source, short, **options) as stream,
        pytest.raises(ValueError, match=r"found 41 frames, expected at least 57"),
    ):
        next(stream)


class Broken(ClipSource):
    """A decoder that fails as nobody foresaw."""

    def __getitem__(self, index):
        if index == 2:
            raise KeyError("codec")
        return super().__getitem__(index)


def fails(element, rng):
    if element["name"].endswith("0001"):
        raise ZeroDivisionError("no way")
    return {"x": np.zeros(1)}


@pytest.mark.parametrize("workers", [0, 1])
def test_any_error_of_reading_or_cutting_names_the_clip(folders, workers):
    broken = Broken(folders[0] / "twenty", "train", FIELDS)
    with (
        batches(broken, None, batch_size=6, seed=0, workers=workers) as stream,
        pytest.raises(LoaderError, match=r"clip 2 of ClipSource\(.*twenty.*KeyError: 'codec'"),
    ):
        next(stream)
    if workers:
        return
    source = ClipSource(folders[0] / "twenty", "train", FIELDS)
    with (
        batches(source, fails, batch_size=6, seed=0) as stream,
        pytest.raises(LoaderError, match=r"clip 'procedural.*0001': ZeroDivisionError: no way"),
    ):
        next(stream)
