"""The smallest world model there is, untrained, and clips to feed it, for tests of what ties parts.

Weights are drawn by numpy from the modules' shapes: initialising a module would compile it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from einops import reduce
from flax import linen as nn

from mirage_jax import trajectories
from mirage_jax.chunks import latents_of_frames
from mirage_jax.evaluation.protocol import HeldOut
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.nn.geometry_head import GeometryHead
from mirage_jax.nn.video_vae import LatentStats, VideoVAE
from mirage_jax.world import WorldModel
from mirage_jax.world.conditioners import RAY_CHANNELS, Folded, make
from mirage_jax.world.latent_clip import LatentClip
from mirage_jax.world.latent_encoder import LatentEncoder
from mirage_jax.world.options import SamplerOptions

SIZE = (16, 24)
GRID = (2, 3)
CHANNELS = 4
CHUNK = 5
"""Frames of a chunk: two latents."""
STRIDE = 8
READOUT = Folded(CHANNELS, STRIDE, reads=2, fine=1)
INTRINSICS = np.array([14.0, 13.0, 12.5, 7.5], np.float32)


def _scaled(path, shape, draw):
    """A parameter of unit gain from normal values `draw(shape)`; nothing is left at zero."""
    if "gamma" in (getattr(entry, "key", "") for entry in path):
        return jnp.ones(shape)
    deviation = 1 / np.sqrt(np.prod(shape[:-1])) if len(shape) > 1 else 0.1
    return jnp.asarray(deviation * draw(shape), jnp.float32)


def random_params(module, seed, *inputs, **named):
    """Parameters of unit gain."""
    made = jax.eval_shape(lambda: nn.unbox(module.init(jax.random.key(0), *inputs, **named)))
    shapes = made["params"]
    normal = np.random.default_rng(seed).normal
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: _scaled(path, leaf.shape, lambda shape: normal(size=shape)), shapes
    )


def drawn_params(module, key, *inputs):
    """The same from a key, with the names of their axes: for programs that are split over devices.

    From one draw for all of them, which compiles in a fraction of the time of one for each.
    """
    boxed = jax.eval_shape(lambda: module.init(key, *inputs))["params"]
    paths, structure = jax.tree_util.tree_flatten_with_path(boxed)
    ends = np.cumsum([leaf.size for _, leaf in paths])
    parts = jnp.split(jax.random.normal(key, (ends[-1],)), ends[:-1])
    return structure.unflatten(
        _scaled(path, leaf.shape, part.reshape)
        for (path, leaf), part in zip(paths, parts, strict=True)
    )


def stand_in(module_class):
    """A base for stubs that pass for a module where signatures are checked."""

    class StandIn:
        __class__ = property(lambda self: module_class)

    return StandIn


class MeanColours(stand_in(VideoVAE)):
    """Latents are the mean colours of cells over the frames they cover; decoding repeats them."""

    spatial_stride, temporal_stride, latent_channels = 8, 4, 3

    def apply(self, variables, x, method):
        if method == "decode":
            frames = jnp.concatenate([x[:, :1], jnp.repeat(x[:, 1:], 4, axis=1)], axis=1)
            return frames.repeat(8, axis=2).repeat(8, axis=3)
        cells = reduce(x, "b t (h p) (w q) c -> b t h w c", "mean", p=8, q=8)
        later = reduce(cells[:, 1:], "b (t s) h w c -> b t h w c", "mean", s=4)
        return jnp.concatenate([cells[:, :1], later], axis=1), None


def vae():
    return VideoVAE(
        base_width=4,
        decoder_width=4,
        latent_channels=CHANNELS,
        width_mults=(1, 1, 1),
        blocks=1,
        attention=False,
    )


def encoder(seed=0):
    return random_encoder(vae(), seed)


def random_encoder(module, seed=0):
    """An untrained autoencoder with statistics of latents that matter."""
    rng, channels = np.random.default_rng(seed), module.latent_channels
    stats = LatentStats(
        mean=rng.normal(size=channels).astype(np.float32),
        std=rng.uniform(0.5, 2, channels).astype(np.float32),
    )
    return LatentEncoder(
        random_params(module, seed, jnp.zeros((1, CHUNK, *SIZE, 3))), stats, module
    )


def denoiser(memory_channels, **changes):
    fields = {
        "width": 12,
        "depth": 2,
        "heads": 2,
        "mlp_width": 16,
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "patch": (1, 1, 1),
        "freq_width": 8,
        "memory_channels": memory_channels,
        "branch_layers": (0,) if memory_channels else (),
        "ray_channels": RAY_CHANNELS,
    }
    return Denoiser(**fields | changes)


def conditioner(kind):
    """One of each kind for these sizes."""
    return READOUT if kind == "folded" else make(kind, token_channels=CHANNELS, stride=STRIDE)


def world_model(seed=0, told=READOUT, **options):
    """A model that writes every cell to memory: nothing moves, nothing is sky."""
    head = GeometryHead(width=8, layers=1)
    latents = jnp.zeros((1, latents_of_frames(CHUNK), *GRID, CHANNELS))
    head_params = random_params(head, seed, latents, jnp.zeros(latents.shape[:2], bool))
    head_params["maps"]["bias"] = jnp.array([0.0, -1.0, -20.0, -20.0])
    network = denoiser(told.channels)
    return WorldModel(
        encoder=encoder(seed),
        head_params=head_params,
        denoiser_params=random_params(network, seed, latents, jnp.zeros(latents.shape[:2])),
        head=head,
        denoiser=network,
        conditioner=told,
        size=SIZE,
        chunk_frames=CHUNK,
        **{"sampler": SamplerOptions(steps=2), **options},
    )


def latent_clips(count, poses, *, seed=0, chunks=2, depth=None, preceding=0):
    """Cached clips of random latents over given poses [F, 4, 4], numpy leaves [count, ...]."""
    rng = np.random.default_rng(seed)
    frames = len(poses)
    per_chunk = latents_of_frames((frames - 1) // chunks + 1)
    keyframes = latents_of_frames(frames)

    def normal(*shape):
        return rng.normal(size=(count, *shape)).astype(np.float32)

    if depth is None:
        depth = rng.uniform(2, 4, (count, keyframes, *GRID)).astype(np.float32)
    return LatentClip(
        chunks=normal(chunks, per_chunk, *GRID, CHANNELS),
        tokens=normal(keyframes, *GRID, CHANNELS),
        depth=np.broadcast_to(np.float32(depth), (count, keyframes, *GRID)).copy(),
        static=np.ones((count, keyframes, *GRID), np.float32),
        intrinsics=np.tile(INTRINSICS, (count, 1)),
        cam2world=np.tile(poses.astype(np.float32), (count, 1, 1, 1)),
        rgb_chunks=normal(3, per_chunk, *GRID, CHANNELS),
        rgb_hits=rng.uniform(size=(count, 3, per_chunk, *GRID, 4)).astype(np.float32),
        preceding=normal(preceding, *GRID, CHANNELS),
    )


def held_out(count, frames):
    """Random videos along a path that leaves and comes back, cached as random latents."""
    video = np.random.default_rng(0).integers(0, 256, (count, frames, *SIZE, 3), np.uint8)
    poses = trajectories.make("look_and_walk", frames, angle=50, distance=0.5).astype(np.float32)
    names = [f"clip {number}" for number in range(count)]
    return HeldOut(video, np.stack([poses] * count), names, latent_clips(count, poses))


@jax.tree_util.register_static
class Plain(stand_in(LatentEncoder)):
    """Decodes to the first three channels, each cell two pixels high and wide."""

    def decode(self, latents):
        colours = latents[..., :3].repeat(2, axis=2).repeat(2, axis=3)
        later = colours[:, 1:].repeat(4, axis=1)
        return jnp.concatenate([colours[:, :1], later], axis=1)


class Darkens(stand_in(VideoVAE)):
    """Latents are the colours of cells at every fourth frame; decoded, they are half as bright."""

    spatial_stride = 8

    def apply(self, variables, x, method):
        if method == "encode":
            return reduce(x[:, ::4], "b t (h p) (w q) c -> b t h w c", "mean", p=8, q=8), None
        frames = jnp.concatenate([x[:, :1], jnp.repeat(x[:, 1:], 4, axis=1)], axis=1)
        return 0.5 * frames.repeat(8, axis=2).repeat(8, axis=3)
