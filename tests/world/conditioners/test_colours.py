"""The colour cloud as a conditioner: what is written of pictures, rendered along a chunk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.geometry import Camera
from mirage_jax.nn.latents import LatentStats
from mirage_jax.nn.video_vae import VideoVAE
from mirage_jax.world.conditioners import Frames, Rgb
from mirage_jax.world.conditioners.colours import cell_shares
from mirage_jax.world.latent_encoder import LatentEncoder

SIZE = (16, 24)
GRID = (2, 3)
INTRINSICS = np.array([24.0, 24.0, 12.0, 8.0], np.float32)
RGB = Rgb(token_channels=3, stride=8)


@jax.jit
def render(pictures, depth, static, chosen, history, target):
    """Writes the chosen pictures to a new cloud and renders it at the target poses."""
    depth = jnp.where(chosen[:, None, None], depth, 0.0)
    tokens, times = jnp.zeros((len(depth), *GRID, 3)), jnp.arange(float(len(depth)))
    frames = Frames(tokens, depth, history, times, static, pictures=pictures)
    cloud, _ = RGB.write(RGB.create(len(depth) * GRID[0] * GRID[1]), frames)
    return RGB.render(cloud, target)


def cameras(poses):
    poses = np.asarray(poses, np.float32)
    return Camera(np.tile(INTRINSICS, (len(poses), 1)), poses, SIZE)


def moved(*, x=0.0, z=0.0):
    pose = np.eye(4)
    pose[:3, 3] = x, 0, z
    return pose


def wall(count=1, seed=0, metres=2.0):
    """Pictures of every colour in [-1, 1], all at one depth, straight ahead."""
    pictures = np.random.default_rng(seed).integers(0, 256, (count, *SIZE, 3)) / 127.5 - 1
    depth = np.full((count, *SIZE), metres, np.float32)
    return jnp.asarray(pictures, jnp.float32), jnp.asarray(depth), jnp.ones((count, *SIZE))


def test_a_wall_seen_again_from_the_same_place_has_its_colours():
    pictures, depth, static = wall()
    here = cameras([np.eye(4)])
    video, visible = render(pictures, depth, static, jnp.array([True]), here, here)
    assert np.asarray(visible).all()
    np.testing.assert_allclose(video, pictures, atol=1e-6)


def test_a_sideways_step_moves_the_colours_by_whole_pixels():
    pictures, depth, static = wall()
    step = cameras([moved(x=0.25)])  # at 2 m with focal length 24: three pixels
    video, visible = render(pictures, depth, static, jnp.array([True]), cameras([np.eye(4)]), step)
    np.testing.assert_allclose(video[0, :, :21], pictures[0, :, 3:], atol=1e-6)
    assert np.asarray(visible[0, :, :21]).all()
    assert not np.asarray(visible[0, :, 22:]).any()  # one column is closed by the splat
    assert not np.asarray(video[0, :, 22:]).any()


def test_holes_that_open_on_approach_are_closed():
    pictures, depth, static = wall()
    closer = cameras([moved(z=1.0)])
    video, visible = render(
        pictures, depth, static, jnp.array([True]), cameras([np.eye(4)]), closer
    )
    assert np.asarray(visible).all()
    # Twice as close, every pixel shows the point of the pixel it comes from or one beside it.
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    source = np.asarray(pictures[0])
    fits = np.zeros(SIZE, bool)
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            from_row = np.clip(4 + rows // 2 + i, 0, 15)
            from_column = np.clip(6 + columns // 2 + j, 0, 23)
            fits |= np.isclose(video[0], source[from_row, from_column], atol=1e-6).all(-1)
    assert fits.all()


def test_only_chosen_static_pixels_of_known_depth_are_points():
    pictures, depth, static = wall(2)
    depth = depth.at[0, :4].set(0.0)
    static = static.at[0, :, :6].set(0.0)
    here = cameras([np.eye(4)] * 2)
    video, visible = render(
        pictures, depth, static, jnp.array([True, False]), here, cameras([np.eye(4)])
    )
    seen = np.asarray(visible[0])
    # The splat reaches one pixel beyond the points.
    assert seen[4:, 6:].all() and not seen[:3].any() and not seen[:, :5].any()
    np.testing.assert_allclose(video[0, 4:, 6:], pictures[0, 4:, 6:], atol=1e-6)
    assert not np.asarray(video[0])[seen == 0].any()


class MeanColours(LatentEncoder):
    """The mean colour of the cells of a latent's frames."""

    def encode(self, video):
        cells = video.reshape(*video.shape[:2], GRID[0], 8, GRID[1], 8, 3).mean((3, 5))
        return jnp.concatenate([cells[:, :1], cells[:, 1:].mean(1, keepdims=True)], axis=1)


def test_holes_are_filled_from_around_before_a_rendering_is_encoded():
    """Of one colour everywhere, a picture with holes has the code of the whole one."""
    rng = np.random.default_rng(0)
    visible = jnp.asarray(rng.random((2, 5, *SIZE)) < 0.3, jnp.float32)
    colour = jnp.array([0.8, -0.4, 0.1])
    encoder = MeanColours(None, LatentStats(np.zeros(3), np.ones(3)), VideoVAE())
    context = RGB.encode(visible[..., None] * colour, visible, encoder)
    np.testing.assert_allclose(context[..., :3], jnp.tile(colour, (2, 2, *GRID, 1)), atol=1e-5)
    np.testing.assert_allclose(context[0, ..., 3:], cell_shares(visible[0], GRID))


def test_cells_tell_the_share_of_their_pixels_that_has_points():
    visible = np.zeros((5, *SIZE), np.float32)
    visible[0, :8, :8] = 1
    visible[2, 8:, 8:12] = 1
    visible[4, 15, 23] = 1
    hits = cell_shares(jnp.asarray(visible), GRID)
    expected = np.zeros((2, *GRID, 4))
    expected[0, 0, 0] = 1  # the first latent has one frame, four times
    expected[1, 1, 1, 1] = 0.5
    expected[1, 1, 2, 3] = 1 / 64
    np.testing.assert_allclose(hits, expected)


@pytest.mark.parametrize("colour", [-1.0, 1.0])
def test_colours_at_the_ends_of_the_range_do_not_wrap(colour):
    pictures, depth, static = wall()
    pictures = jnp.full_like(pictures, colour)
    here = cameras([np.eye(4)])
    video, _ = render(pictures, depth, static, jnp.array([True]), here, here)
    np.testing.assert_allclose(video, colour, atol=1e-6)
