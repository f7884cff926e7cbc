"""Each measure against a clip that has what it measures, and one that has not."""

import dataclasses

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from scipy.spatial.transform import Rotation

from data_pipelines import matches
from data_pipelines.clip import ARRAY_FIELDS
from data_pipelines.clip_measures import measure, smaller
from data_pipelines.filters import UNITS, Filters
from data_pipelines.sources.procedural import ProceduralSource
from data_pipelines.sources.warp_check import seen_through
from mirage_jax.io.framing import Framing

WIDER = np.float32([1.6, 1.6, 1, 1])
RNG = np.random.default_rng(0)


def recorded(world, frames=12):
    """The first frames of a walk: with a third of it, not too fast."""
    source = ProceduralSource(size=64, frames=3 * frames, fps=10.0, ball=False)
    clip = next(source.clips(f"procedural/train-{world:03d}", 1, seed=3))
    arrays = {name: clip.part(name)[:frames] for name in ARRAY_FIELDS}
    return dataclasses.replace(clip, **arrays, bodies=None)


@pytest.fixture(scope="module")
def clip():
    return recorded(2)


def changed(clip, **fields):
    return dataclasses.replace(clip, **fields)


def captioned(picture):
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    draw.text((4, 50), "words at the edge", fill="white", font=ImageFont.load_default(9))
    return np.asarray(image)


def axes_of_opengl(poses):
    return poses * np.array([1, -1, -1, 1])


def half(clip, other):
    middle = len(clip.video) // 2
    return np.concatenate([clip.video[:middle], other.video[middle:]])


SPOILT = {
    "black": lambda clip: changed(clip, video=np.append(clip.video[:-1], clip.video[:1] // 40, 0)),
    "blur": lambda clip: changed(clip, video=ndimage.gaussian_filter(clip.video, (0, 3, 3, 0))),
    "cut": lambda clip: changed(clip, video=half(clip, recorded(5))),
    "motion": lambda clip: changed(clip, video=np.tile(clip.video[:1], (clip.frames, 1, 1, 1))),
    "overlay": lambda clip: changed(clip, video=np.stack([captioned(p) for p in clip.video])),
    "warp_gain": lambda clip: changed(clip, cam2world=axes_of_opengl(clip.cam2world)),
    "seen_through": lambda clip: changed(clip, intrinsics=clip.intrinsics * WIDER),
    "epipolar": lambda clip: changed(clip, cam2world=np.linalg.inv(clip.cam2world)),
}  # fmt: skip


def test_a_good_clip_passes_and_everything_in_it_is_measured(clip):
    measures = measure(clip)
    assert Filters().failed(measures) == {}
    assert all(value is not None for value in vars(measures).values()), measures
    assert measures.epipolar < 0.5 and measures.warp_gain > 6 and measures.seen_through < 5


@pytest.mark.parametrize("name", SPOILT)
def test_a_clip_fails_by_what_is_wrong_with_it(clip, name):
    filters = Filters()
    measures = measure(SPOILT[name](clip))
    assert name in filters.failed(measures), measures
    reason, message = filters.why_rejected(measures)
    assert reason in filters.failed(measures) and f"{reason}: found" in message
    of_cameras = name in ("warp_gain", "seen_through", "epipolar")
    assert ("poses of the other direction" in filters.failed(measures)[name]) == of_cameras
    assert dataclasses.replace(filters, apply=False).why_rejected(measures) is None


def test_every_threshold_is_of_a_measure_that_a_test_spoils():
    thresholds = {field.name for field in dataclasses.fields(Filters)} - {"apply"}
    assert thresholds == set(UNITS) == {*SPOILT, "parallax"}
    with pytest.raises(ValueError, match=r"blur: found 2\.0, expected >= 0 and <= 1"):
        Filters(blur=2.0)


def test_a_turn_of_the_camera_is_no_parallax_and_a_walk_is(clip):
    """Pixels on the rim of a far picture, looked at by a camera that only turns."""
    scene = RNG.integers(0, 256, (64, 200, 3)).astype(np.uint8)
    scene = ndimage.gaussian_filter(scene, (1.2, 1.2, 0)) * 1.0
    scene = np.uint8(np.clip((scene - scene.mean()) * 3 + 128, 0, 255))
    fx, angles = 60.0, np.radians(2.0 * np.arange(9))
    poses = np.tile(np.eye(4), (9, 1, 1))
    poses[:, :3, :3] = Rotation.from_euler("y", angles[:, None]).as_matrix()
    # A cylinder around the camera: columns are angles.
    u, v = np.meshgrid(np.arange(64) + 0.5 - 32, np.arange(64) + 0.5 - 32)
    video = []
    for angle in angles:
        azimuth = np.arctan(u / fx) + angle
        height = v / np.hypot(u, fx) * fx
        place = [height + 31.5, azimuth * fx + 80]
        video.append(
            np.stack([ndimage.map_coordinates(scene[..., c], place, order=1) for c in range(3)], -1)
        )
    lens = np.tile(np.float32([fx, fx, 32, 32]), (9, 1))
    unknown = {"depth": None, "mover_ids": None}
    turning = changed(clip, video=np.stack(video), cam2world=poses, intrinsics=lens, **unknown)
    measures = measure(turning)
    assert measures.motion > 5 and measures.parallax < 0.5 and measures.epipolar < 0.5
    assert measures.warp_gain is measures.seen_through is None
    filters = Filters(parallax=1.0)
    assert filters.why_rejected(measures)[0] == "parallax"
    assert measure(clip).parallax > 1 and filters.why_rejected(measure(clip)) is None


def test_points_are_found_again_where_they_were_moved_to():
    picture = ndimage.gaussian_filter(RNG.uniform(0, 255, (120, 160)), 1.8)
    picture = np.clip((picture - picture.mean()) * 4 + 128, 0, 255)
    moved = ndimage.shift(picture, (2.5, -3.25), order=3, mode="nearest")
    rgb = [np.repeat(np.uint8(np.round(p))[..., None], 3, -1) for p in (picture, moved)]
    first, second = matches.match(*rgb)
    assert len(first) > 15
    error = second - first - [-3.25, 2.5]
    assert np.median(np.linalg.norm(error, axis=1)) < 0.2


def test_points_at_any_distance_ahead_lie_on_their_half_line_and_those_behind_do_not():
    count = 40
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[1, :3, :3] = Rotation.from_rotvec([0.1, -0.2, 0.05]).as_matrix()
    poses[1, :3, 3] = 0.3, -0.1, 0.2
    lenses = np.array([[50.0, 55, 30, 20], [60, 58, 31, 22]])

    def seen(points, pose, lens):
        camera = (points - pose[:3, 3]) @ pose[:3, :3]
        return camera[:, :2] / camera[:, 2:] * lens[:2] + lens[2:]

    points = np.stack([*RNG.uniform(-1, 1, (2, count)), RNG.uniform(2, 30, count)], -1)
    pixels = tuple(seen(points, poses[i], lenses[i]) for i in range(2))
    np.testing.assert_allclose(matches.epipolar_distance(pixels, lenses, poses), 0, atol=1e-9)
    backward = poses.copy()
    backward[1, :3, 3] *= -1
    assert np.median(matches.epipolar_distance(pixels, lenses, backward)) > 1
    scaled = poses.copy()
    scaled[:, :3, 3] *= 7  # of any scale
    np.testing.assert_allclose(matches.epipolar_distance(pixels, lenses, scaled), 0, atol=1e-9)
    behind = np.tile(np.eye(4), (2, 1, 1))
    behind[1, :3, :3] = Rotation.from_euler("y", 180, degrees=True).as_matrix()
    assert np.isinf(matches.epipolar_distance(pixels, lenses, behind)).all()


def test_what_is_hidden_is_not_seen_through(clip):
    """A near wall in the source hides everything; a far one denies everything."""
    near, far = clip.depth.copy(), clip.depth.copy()
    near[0], far[0] = 0.05, 1000.0
    pair = (0, 2)
    assert not seen_through(changed(clip, depth=near), *pair) > 0
    assert seen_through(changed(clip, depth=far), *pair) == 1
    assert seen_through(clip, *pair) < 0.05


def test_large_clips_are_measured_small_but_for_the_blur(clip):
    framing = Framing((64, 64), (256, 256))
    large = changed(
        clip,
        video=np.stack([framing.picture(p) for p in clip.video]),
        depth=np.stack([framing.nearest(d) for d in clip.depth]),
        mover_ids=None,
        intrinsics=framing.intrinsics(clip.intrinsics).astype(np.float32),
    )
    small = smaller(large, 64)
    np.testing.assert_allclose(small.intrinsics, clip.intrinsics, rtol=1e-5)
    assert small.size == (64, 64) and small.depth.shape == clip.depth.shape
    found, before = measure(large), measure(clip)
    assert found.blur > before.blur + 0.2  # enlarged pictures are blurred
    assert found.cut == pytest.approx(before.cut, abs=0.05)
    assert found.epipolar < 0.5 and found.warp_gain > 6
