"""The procedural rooms: repeatable, and their depth and colours agree with their geometry."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.clip import ARRAY_FIELDS, validate
from data_pipelines.sources.procedural import BALL_RADIUS, ProceduralSource, make_room, render

SOURCE = ProceduralSource(size=32, frames=12)
WORLD = SOURCE.worlds("train")[1]


@pytest.fixture(scope="module")
def clips():
    return list(SOURCE.clips(WORLD, 4, seed=3))


def points_and_rays(clip, frame):
    """World points of all pixels by the pinhole model, written out."""
    height, width = clip.size
    fx, fy, cx, cy = clip.intrinsics[frame].astype(float)
    depth = clip.depth[frame].astype(float)
    points = np.empty((height, width, 3))
    for row in range(height):
        for column in range(width):
            z = depth[row, column]
            x, y = (column + 0.5 - cx) / fx * z, (row + 0.5 - cy) / fy * z
            points[row, column] = (clip.cam2world[frame] @ [x, y, z, 1])[:3]
    return points, clip.cam2world[frame, :3, 3]


def distance_to_surfaces(room, points):
    """Distance to the nearest wall, box (0 inside none) by the box distance formula."""
    distances = [np.minimum(points, room.extent - points).min(-1)]
    for low, high in room.boxes:
        beyond = np.maximum(np.maximum(low - points, points - high), 0)
        inside = np.minimum(points - low, high - points).min(-1)
        distances.append(np.linalg.norm(beyond, axis=-1) + np.maximum(inside, 0))
    return np.min(distances, axis=0)


def test_clips_are_valid_and_repeatable(clips):
    again = list(SOURCE.clips(WORLD, 4, seed=3))
    for one, other in zip(clips, again, strict=True):
        validate(one)
        for field in dataclasses.fields(one):
            same = np.array_equal(getattr(one, field.name), getattr(other, field.name))
            assert same, field.name
    assert len({clip.name for clip in clips}) == len(clips)
    other = next(SOURCE.clips(WORLD, 1, seed=4))
    assert not np.array_equal(other.video, clips[0].video)
    other = next(SOURCE.clips(SOURCE.worlds("train")[2], 1, seed=3))
    assert not np.array_equal(other.cam2world, clips[0].cam2world)


def test_every_pixel_lies_on_a_surface_and_nothing_is_in_front(clips):
    room = make_room(WORLD)
    found_ball = False
    for clip in clips:
        for frame in (0, clip.frames // 2):
            points, eye = points_and_rays(clip, frame)
            still = clip.mover_ids[frame] == 0
            assert distance_to_surfaces(room, points[still]).max() < 1e-4
            # Walk along the rays: strictly between the eye and the point there is no box.
            for share in np.linspace(0.02, 0.98, 49):
                between = eye + share * (points - eye)
                assert (between > 0).all() and (between < room.extent).all()
                for low, high in room.boxes:
                    assert not ((between > low) & (between < high)).all(-1).any()
            found_ball |= bool((~still).any())
    assert found_ball


def test_the_ball_is_a_sphere_that_rolls():
    room = make_room(WORLD)
    centres = [room.ball_centre(phase) for phase in (0.1, 0.3)]
    assert np.linalg.norm(centres[0] - centres[1]) > 0.3
    # Look at the ball from 1.5 m away, level with its centre.
    for phase, centre in zip((0.1, 0.3), centres, strict=True):
        pose = np.eye(4)
        pose[:3, :3] = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # looks along +x
        pose[:3, 3] = centre - [1.5, 0, 0]
        intrinsics = np.array([60, 60, 32.5, 32.5], np.float32)
        _, depth, ids = render(room, pose, intrinsics, (65, 65), phase)
        if depth[32, 32] < 1:  # a box happens to be in between
            continue
        assert ids[32, 32] == 1
        assert depth[32, 32] == pytest.approx(1.5 - BALL_RADIUS, abs=1e-5)
        # The silhouette of a sphere: a disc of radius f r / sqrt(d^2 - r^2).
        radius = 60 * BALL_RADIUS / np.sqrt(1.5**2 - BALL_RADIUS**2)
        assert (ids == 1).sum() == pytest.approx(np.pi * radius**2, rel=0.05)
        without = render(room, pose, intrinsics, (65, 65), None)
        assert not without[2].any() and without[1][32, 32] > depth[32, 32]


def test_static_colours_agree_after_warping_by_depth_and_pose(clips):
    errors, baseline = [], []
    for clip in clips:
        for a, b in ((0, 2), (3, 5), (0, clip.frames - 2)):
            points, _ = points_and_rays(clip, a)
            camera = (points - clip.cam2world[b, :3, 3]) @ clip.cam2world[b, :3, :3]
            fx, fy, cx, cy = clip.intrinsics[b]
            z = np.where(camera[..., 2] > 0.1, camera[..., 2], np.nan)
            column = np.floor(fx * camera[..., 0] / z + cx)
            row = np.floor(fy * camera[..., 1] / z + cy)
            inside = (column >= 0) & (column < 32) & (row >= 0) & (row < 32)
            column, row = (np.where(inside, index, 0).astype(int) for index in (column, row))
            seen = inside & (np.abs(clip.depth[b][row, column] / z - 1) < 0.05)
            seen &= (clip.mover_ids[a] == 0) & (clip.mover_ids[b][row, column] == 0)
            there = clip.video[b].astype(float)
            errors.append((clip.video[a] - there[row, column])[seen])
            baseline.append((clip.video[a] - there)[seen])
    errors, baseline = (np.mean(np.concatenate(parts) ** 2) for parts in (errors, baseline))
    assert 10 * np.log10(baseline / errors) > 6


def test_paths_leave_and_return(clips):
    assert [clip.trajectory for clip in clips] == ["easy", "parallax"] * 2
    for clip in clips:
        ahead = clip.cam2world[:, :3, 2]
        away = np.rad2deg(np.arccos(np.clip(ahead @ ahead[0], -1, 1)))
        assert away[clip.frames // 2] > 74
        assert away[-1] < 60
        exact = np.allclose(clip.cam2world[-1], clip.cam2world[0], atol=1e-12)
        assert exact == (clip.trajectory == "easy")
        room = make_room(clip.world)
        assert room.is_free(clip.cam2world[:, :2, 3]).all()


def test_splits_share_no_world():
    train, held_out = set(SOURCE.worlds("train")), set(SOURCE.worlds("eval"))
    assert train and held_out and not train & held_out
    with pytest.raises(ValueError, match="'test'"):
        SOURCE.worlds("test")


def test_no_ball_when_not_wanted():
    source = dataclasses.replace(SOURCE, ball=False)
    for clip in source.clips(WORLD, 2, seed=3):
        assert not clip.mover_ids.any()
        assert all(getattr(clip, field).shape[0] == 12 for field in ARRAY_FIELDS)
