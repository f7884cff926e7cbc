"""Windows that come back: which frames they are of, and that they show a place seen before."""

import itertools

import numpy as np
import pytest

from data_pipelines.loading import AtRate, batches
from data_pipelines.return_windows import ReturnWindow

LENGTH = 65
LENS = np.float32([32, 32, 32, 32])


def turning(degrees):
    """A clip of a camera that turns on the spot; the picture says which frame it is."""
    angle = np.radians(np.asarray(degrees, float))
    poses = np.tile(np.eye(4), (len(angle), 1, 1))
    poses[:, 0, 0] = poses[:, 2, 2] = np.cos(angle)
    poses[:, 0, 2], poses[:, 2, 0] = np.sin(angle), -np.sin(angle)
    number = np.arange(len(angle), dtype=np.uint8)[:, None, None, None]
    return {
        "video": np.broadcast_to(number, (len(angle), 64, 64, 3)),
        "cam2world": poses,
        "intrinsics": np.tile(LENS, (len(angle), 1)),
        "depth": None,
        "name": "a clip",
        "fps": 10.0,
    }


OUT_AND_BACK = turning(np.concatenate([np.linspace(0, 150, 33), np.linspace(150, 0, 32)]))
WINDOW = ReturnWindow(33, 9, preceding=5, returns=1.0, later=0.0)


def frames_of(element):
    return element["video"][:, 0, 0, 0].astype(int)


@pytest.mark.parametrize("seed", range(8))
def test_a_window_is_a_history_what_precedes_and_a_chunk(seed):
    window = ReturnWindow(33, 9, preceding=5, later=0.5)
    cut = window(OUT_AND_BACK, np.random.default_rng(seed))
    frames = frames_of(cut)
    assert len(frames) == 33 and cut["name"] == "a clip" and cut["depth"] is None
    np.testing.assert_array_equal(cut["cam2world"], OUT_AND_BACK["cam2world"][frames])
    start = frames[24]
    assert start % 4 == 0
    # Eight frames before the chunk hold the five that precede it, on the grid of keyframes.
    np.testing.assert_array_equal(frames[16:], np.arange(start - 8, start + 9))
    keys, groups = frames[:16:4], frames[:16].reshape(4, 4)
    assert (keys % 4 == 0).all() and (np.diff(keys) > 0).all()
    np.testing.assert_array_equal(groups, keys[:, None] + np.arange(4))
    apart = (groups < start - 8) | (groups > start + 8)
    assert apart.all()


def test_windows_come_back_as_often_as_told():
    def returns(window, element=OUT_AND_BACK):
        drawn = [window.choose(element, np.random.default_rng(n)) for n in range(60)]
        return np.mean([one.returns for one in drawn]), drawn

    share, drawn = returns(WINDOW)
    assert share == 1.0
    for choice in drawn:
        # Against the angles themselves: a later frame of the chunk looks where a frame of the
        # history did, 16 frames or more apart, and between them the camera looked elsewhere.
        angle = np.degrees(np.arctan2(*OUT_AND_BACK["cam2world"][:, [0, 2], [2, 2]].T))
        keys, shown = choice.frames[:16:4], choice.frames[28::4]
        pairs = [(i, j) for i in shown for j in keys if i - j >= 16]
        near = [(i, j) for i, j in pairs if abs(angle[i] - angle[j]) < 60]
        assert any(np.abs(angle[j:i] - angle[i]).max() > 40 for i, j in near)
    some, _ = returns(ReturnWindow(33, 9, preceding=5, returns=0.0, later=0.0))
    assert some < 0.9
    # A clip that only leaves has no window that returns, and still gives windows.
    share, drawn = returns(WINDOW, turning(np.linspace(0, 170, LENGTH)))
    assert share == 0.0 and len({choice.frames[-1] for choice in drawn}) > 3


def test_history_after_the_chunk_is_taken_where_allowed():
    later = ReturnWindow(33, 9, preceding=5, returns=1.0, later=1.0)
    after = [
        (frames[:16] > frames[-1]).any()
        for n in range(40)
        if (frames := later.choose(OUT_AND_BACK, np.random.default_rng(n)).frames).any()
    ]
    assert np.mean(after) > 0.3
    before = [WINDOW.choose(OUT_AND_BACK, np.random.default_rng(n)).frames for n in range(40)]
    assert all((frames[:16] < frames[16]).all() for frames in before)


def test_a_clip_as_long_as_a_window_is_taken_whole():
    element = {
        key: value[:33] if isinstance(value, np.ndarray) else value
        for key, value in OUT_AND_BACK.items()
    }
    for seed in range(5):
        cut = ReturnWindow(33, 9, preceding=5)(element, np.random.default_rng(seed))
        np.testing.assert_array_equal(frames_of(cut), np.arange(33))


class Turns:
    """Clips that turn to and fro."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        element = turning(np.roll(np.linspace(0, 150, LENGTH), 7 * index))
        return {key: element[key] for key in ("video", "cam2world", "intrinsics")}


def test_windows_are_the_same_for_any_hosts_and_stops():
    def take(count, **options):
        with batches(Turns(), WINDOW, batch_size=2, seed=3, **options) as loader:
            return [batch["video"][..., 0, 0, 0] for batch in itertools.islice(loader, count)]

    stream = take(6)
    assert len({tuple(window) for batch in stream for window in batch}) > 5
    np.testing.assert_array_equal(take(3, start_batch=3), stream[3:])
    hosts = [take(6, shard=(host, 2)) for host in range(2)]
    np.testing.assert_array_equal(np.concatenate(hosts, axis=1), stream)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((32, 9), r"frames: found 32, expected 1 \+ 4 n"),
        ((33, 8), r"chunk_frames: found 8, expected 1 \+ 4 n"),
        ((17, 9, 5), "frames: found 17, expected at least 21: a chunk of 9, 5 before it, and"),
    ],
)
def test_windows_without_room_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ReturnWindow(*options)


def test_short_clips_are_named():
    element = {**OUT_AND_BACK, "cam2world": OUT_AND_BACK["cam2world"][:20]}
    with pytest.raises(ValueError, match="clip 'a clip': found 20 frames, expected at least 33"):
        WINDOW(element, np.random.default_rng(0))


def test_frame_rates_are_brought_together():
    rng = np.random.default_rng(0)
    cut = AtRate(5.0)(OUT_AND_BACK, rng)
    np.testing.assert_array_equal(frames_of(cut), np.arange(0, LENGTH, 2))
    assert cut["fps"] == 5.0 and len(cut["cam2world"]) == 33
    # By their own times, where a clip has them: the nearest to each tick.
    times = np.sort(np.arange(LENGTH) / 10 + rng.uniform(-0.04, 0.04, LENGTH))
    cut = AtRate(4.0)({**OUT_AND_BACK, "times": times}, rng)
    ticks = times[0] + np.arange(len(cut["times"])) / 4
    nearest = [int(np.abs(times - tick).argmin()) for tick in ticks]
    np.testing.assert_array_equal(frames_of(cut), nearest)
    with pytest.raises(ValueError, match="clip 'a clip': found 10 frames per second, expected at"):
        AtRate(12.0)(OUT_AND_BACK, rng)
