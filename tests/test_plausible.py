"""What is allowed and yet most likely a mistake is named, and taken from those who insist."""

import numpy as np
import pytest

from helpers import geometry_npz, tiny_world
from helpers.tiny_world import CHUNK, INTRINSICS, SIZE
from mirage_jax import memory, trajectories
from mirage_jax.geometry import Camera, lift, pluecker_rays, resize_camera
from mirage_jax.io.depth_maps import read_depth
from mirage_jax.io.geometry_npz import read_geometry
from mirage_jax.plausible import odd_depth, odd_intrinsics
from mirage_jax.world import rollout
from mirage_jax.world.posed_pictures import depth_of_pictures

METRES = np.random.default_rng(0).uniform(0.4, 9, SIZE)


@pytest.mark.parametrize(
    "depth",
    [
        METRES,
        METRES * 10,
        np.where(METRES > 4, np.inf, METRES),
        np.round(METRES * 8),  # whole metres, up to 72
        np.zeros(SIZE),
        np.full(SIZE, 480.25),  # from the air
    ],
)
def test_metres_are_taken(depth):
    assert odd_depth(depth.astype(np.float32)) == ""


@pytest.mark.parametrize("unknown", [0, np.inf])
def test_millimetres_are_seen(unknown):
    depth = np.where(METRES > 8, unknown, METRES * 1000)
    assert "look like millimetres" in odd_depth(depth)
    assert "whole numbers of median" in odd_depth(np.round(depth / 10))


@pytest.mark.parametrize("size", [(480, 640), (1080, 1920), (1920, 1080), (64, 64)])
def test_intrinsics_of_another_resolution_are_seen(size):
    rng = np.random.default_rng(1)
    height, width = size
    centres = rng.uniform(0.4, 0.6, (9, 2)) * [width, height]
    own = np.concatenate([np.full((9, 2), width * 0.8), centres], -1)
    assert odd_intrinsics(own, size) == ""
    camera = Camera(own, np.tile(np.eye(4), (9, 1, 1)), size)
    for other in ((height * 2, width * 2), (height // 2, width // 2), (2160, 3840)):
        scaled = resize_camera(camera, other).intrinsics
        assert odd_intrinsics(scaled, other) == ""
        assert "expected those of" in odd_intrinsics(scaled, size)
        if other != (2160, 3840):
            assert "expected those of" in odd_intrinsics(own, other)


def test_a_swapped_principal_point_is_seen():
    assert "swapped" in odd_intrinsics(np.array([500.0, 500, 240, 320]), (480, 640))


@pytest.fixture(scope="module")
def model():
    return tiny_world.world_model()


def test_a_world_is_not_started_from_what_looks_wrong(model):
    picture = np.zeros((*SIZE, 3), np.uint8)
    camera = Camera(INTRINSICS, np.eye(4, dtype=np.float32), SIZE)
    twice = camera.replace(intrinsics=INTRINSICS * 2)
    with pytest.raises(ValueError, match=r"^depth: found uint16, expected floating point metres"):
        depth_of_pictures((METRES * 1000).astype(np.uint16), picture)
    millimetres = (METRES * 1000).astype(np.float32)
    with pytest.raises(ValueError, match=r"^depth: found .* look like millimetres.*insist"):
        model.start(picture, camera, depth=millimetres)
    with pytest.raises(ValueError, match=r"^camera: intrinsics: found cx, cy = 25, 15.*insist"):
        model.start(picture, twice)
    with pytest.raises(ValueError, match=r"size: found \(24, 16\), expected \(16, 24\): height, t"):
        model.start(picture, camera.replace(size=SIZE[::-1]))
    world = model.start(picture, twice, depth=millimetres, insist=True)
    np.testing.assert_array_equal(world.intrinsics, INTRINSICS * 2)
    path = trajectories.make("hold", CHUNK)
    lens = np.tile(INTRINSICS * 2, (CHUNK, 1))
    rollout(model, world, path, intrinsics=lens)
    plain = world.replace(intrinsics=INTRINSICS)
    with pytest.raises(ValueError, match=r"^intrinsics: found cx, cy"):
        rollout(model, plain, path, intrinsics=lens)
    rollout(model, plain, path, intrinsics=lens, insist=True)


def test_a_size_given_as_width_and_height_is_refused():
    camera = Camera(INTRINSICS[None], np.eye(4)[None], SIZE[::-1])
    depth = METRES[None].astype(np.float32)
    for use in (
        lambda: lift(depth, camera),
        lambda: pluecker_rays(camera, (2, 3)),
        lambda: memory.write(memory.create(6, 1), np.ones((1, 2, 3, 1), np.float32), depth, camera),
        lambda: memory.read(memory.create(6, 1), camera, (2, 3)),
    ):
        with pytest.raises(ValueError, match=r"size: found \(24, 16\) with .* height, then"):
            use()


def test_files_in_millimetres_or_of_another_resolution_are_refused_by_name(tmp_path):
    np.save(tmp_path / "d.npy", METRES * 1000)
    with pytest.raises(ValueError, match=r"d\.npy: found .* look like millimetres"):
        read_depth(tmp_path / "d.npy")
    np.testing.assert_allclose(read_depth(tmp_path / "d.npy", insist=True), METRES * 1000)
    path = tmp_path / "g.npz"
    arrays = geometry_npz.arrays()
    for name, array in (
        ("depths", arrays["depths"] * 1000),
        ("intrinsics", arrays["intrinsics"] * [[2], [2], [1]]),
    ):
        geometry_npz.save(path, **{name: array})
        with pytest.raises(ValueError, match=rf"g\.npz: {name}: found .*insist"):
            read_geometry(path)
        assert len(read_geometry(path, insist=True)) == len(array)


def test_far_positions_in_float32_are_refused_by_name(tmp_path):
    poses = np.float32(geometry_npz.arrays()["poses_c2w"] + 5.4e6 * np.eye(4)[:, [3, 0, 1, 2]].T)
    poses[:, :3, :3] = np.eye(3)
    poses[:, :3, 3] = 5.4e6
    poses[:, 3] = [0, 0, 0, 1]
    path = geometry_npz.save(tmp_path / "g.npz", poses_c2w=poses)
    with pytest.raises(ValueError, match=r"g\.npz: poses_c2w: found a position 5,400,000 m"):
        read_geometry(path)
    np.savez(tmp_path / "path.npz", cam2world=poses)
    with pytest.raises(ValueError, match=r"path\.npz: .*found a position 5,400,000 m"):
        trajectories.load(tmp_path / "path.npz")
