"""From recorded clips to what is trained on: read by the loader, encoded on the devices.

`EncoderInputs` makes of a recorded clip what the encoder takes, in a loader process; `ClipEncoder`
encodes batches of that. The latent cache is filled by them, and training without a cache has them
before every step, so that both see the same latents: those of a cache are rounded to float16, half
a step of which is 2^-11 of a value.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from data_pipelines.landmarks import MOST_LANDMARKS, Unscaled, landmarks, scale_of
from data_pipelines.loading import Transform
from mirage_jax.chunks import TEMPORAL_STRIDE
from mirage_jax.parallel import batch_sharding, processes, replicated
from mirage_jax.settings import Settings, setting
from mirage_jax.world.body_reads import BodyReads
from mirage_jax.world.conditioners import BodyReader, Rgb
from mirage_jax.world.latent_clip import LatentClip, encode_clip, fields_of, keyframe_depth
from mirage_jax.world.latent_encoder import LatentEncoder, to_model_range
from mirage_jax.world.model import WorldModel

DepthOf = Callable[[np.ndarray], np.ndarray]
"""z-depth in metres of the pixels of a uint8 picture [H, W, 3]."""

REQUIRED_FIELDS = ("video", "intrinsics", "cam2world", "name", "fps")
OPTIONAL_FIELDS = ("depth", "mover_ids", "times")
"""Of a recorded clip, for `EncoderInputs`. What nobody knows to move is remembered as static."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodingSettings(Settings):
    """What decides, beside the encoder and the clips, what is encoded."""

    chunk_frames: int = setting(dataclasses.MISSING, "Frames of a chunk, 1 + 4 n.", least=1)
    sky_depth: float = setting(
        dataclasses.MISSING, "Metres at which the sky is remembered.", above=0
    )
    rgb: bool = setting(False, "Whether to encode what the colour-cloud baseline needs, too.")
    preceding: int = setting(0, "Frames before the last chunk, 0 or 1 + 4 n.", least=0)
    last_only: bool = setting(False, "Whether the last chunk alone is encoded, as of windows.")
    depth_network: str = setting("", "Identifies what estimates the depth that clips lack.")
    bodies: BodyReads | None = setting(None, "How moving bodies are kept; None = they are not.")
    movers_up: int = setting(
        0, "Finer cells per cell and axis, of which it is kept what moves; 0 = none.", least=0
    )


def settings_of(
    model: WorldModel, *, rgb: bool = False, depth_network: str = ""
) -> EncodingSettings:
    """What is encoded of clips that a model is evaluated on; arguments as of `EncodingSettings`."""
    conditioner, bodies = model.conditioner, None
    if isinstance(conditioner, BodyReader) and model.movers is not None and conditioner.movers:
        fusion = model.memory.history_fusion(model.context_frames)
        bodies = BodyReads(conditioner, model.movers, fusion)
    return EncodingSettings(
        chunk_frames=model.chunk_frames,
        sky_depth=float(model.memory.sky_depth),
        rgb=rgb,
        preceding=model.context_frames.preceding,
        depth_network=depth_network,
        bodies=bodies,
        movers_up=0 if model.head is None else model.head.movers_up,
    )


@dataclasses.dataclass(frozen=True)
class EncoderInputs:
    """A transform of `loading.batches`: a recorded clip as `ClipEncoder` takes it.

    Elements are dicts of `REQUIRED_FIELDS` and `OPTIONAL_FIELDS`; `text` is passed on.

    Attributes:
      sky_depth: metres at which the sky is put.
      estimates: whether depth that clips lack is estimated later; else they are refused.
      windows: cut elements first, one after the other, see `loading.batches`.
    """

    sky_depth: float
    estimates: bool = False
    windows: tuple[Transform, ...] = ()

    def __call__(
        self, element: Mapping[str, Any], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """uint8 `video` [F, H, W, 3], `depth` and `moving` of its keyframes [K, H, W], `known`,
        whether the depth is, `intrinsics` [4] of the first frame, and poses and `seconds` relative
        to it; with `estimates` the `landmarks` of clips without depth, see `data_pipelines`.

        Raises:
          ValueError: naming the clip, for one without depth where nothing estimates it.
        """
        cut = dict(element)
        for window in self.windows:
            cut = window(cut, rng)
        video, depth, movers = cut["video"], cut["depth"], cut["mover_ids"]
        shape = video[::TEMPORAL_STRIDE].shape[:3]
        if depth is not None:
            maps = keyframe_depth(depth, self.sky_depth)
        elif self.estimates:
            maps = np.zeros(shape, np.float32)
        else:
            raise ValueError(
                f"clip {cut['name']!r} has no depth; expected footage with depth, or a network "
                "that estimates it (config.data.depth_weights)"
            )
        moving = np.zeros(shape, np.float32)
        if movers is not None:
            moving[movers[::TEMPORAL_STRIDE] > 0] = 1.0
        poses = np.linalg.inv(cut["cam2world"][:1]) @ cut["cam2world"]
        points = {}
        if self.estimates:
            points["landmarks"] = np.zeros((MOST_LANDMARKS, 4), np.float32)
            if depth is None:
                lens = cut["intrinsics"][0]
                points["landmarks"] = landmarks(video, lens, poses, TEMPORAL_STRIDE)
        text = {"text": cut["text"]} if "text" in cut else {}
        return {
            "video": video,
            "depth": maps,
            "moving": moving,
            "known": np.array(depth is not None),
            "seconds": _seconds(cut),
            "intrinsics": cut["intrinsics"][0],
            "cam2world": poses.astype(np.float32),
            **points,
            **text,
        }

    def check(self, element: Mapping[str, Any]) -> None:
        """Raises the ValueError of those windows that cannot be cut from an element at all."""
        timed = {name: element.get(name) for name in ("cam2world", "times", "fps", "name")}
        for window in self.windows:
            check = getattr(window, "check", None)
            if check is not None:
                timed = check(timed)


def _seconds(clip: Mapping[str, Any]) -> np.ndarray:
    """When each frame of a clip was taken, since its first."""
    times = clip.get("times")
    if times is None:
        times = np.arange(len(clip["video"])) / clip["fps"]
    return (times - times[0]).astype(np.float32)


class ClipEncoder:
    """Batches of `EncoderInputs` to fields of `LatentClip`, on the devices of a mesh.

    Args:
      encoder: of pictures.
      settings: of what is encoded.
      mesh: whose devices share the clips of a batch, each process giving its share, and keep the
        latents; None encodes on one device.
      depth_of: estimates the depth of keyframes of clips that have none, in metres. It is brought
        to the unit of a clip's poses by its landmarks.
      say: called with a line of text at the 1st, 2nd, 4th, 8th ... clip whose landmarks do not tell
        its unit, whose depth is left in metres.

    Attributes:
      estimated: clips whose depth was estimated.
      unscaled: how many of them have it left in metres, by why.
    """

    def __init__(
        self,
        encoder: LatentEncoder,
        settings: EncodingSettings,
        *,
        mesh: Mesh | None = None,
        depth_of: DepthOf | None = None,
        say: Callable[[str], None] = lambda _: None,
    ):
        self._encoder, self._settings, self._depth_of = encoder, settings, depth_of
        self._say = say
        self.estimated = 0
        self.unscaled: collections.Counter[Unscaled] = collections.Counter()
        self._sharding = None if mesh is None else batch_sharding(mesh)
        if mesh is not None:
            self._encoder = processes.put(encoder, replicated(mesh))

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Array]:
        """Latents on their way, and the batch's `text` if there is one."""
        inputs = {name: batch[name] for name in _INPUTS}
        if not batch["known"].all():
            inputs["depth"] = self._filled(batch)
        if self._sharding is not None:
            inputs = processes.put_share(inputs, self._sharding)
        made = _encode_batch(self._encoder, **inputs, settings=self._settings)
        text = {"text": batch["text"]} if "text" in batch else {}
        return {**fields_of(made), **text}

    def _filled(self, batch: Mapping[str, Any]) -> np.ndarray:
        """Depth of the keyframes, estimated where it is not known."""
        assert self._depth_of is not None, "EncoderInputs refuses such clips"
        depth = np.array(batch["depth"])
        for row in np.flatnonzero(~batch["known"]):
            pictures = batch["video"][row][::TEMPORAL_STRIDE]
            metres = np.stack([self._depth_of(picture) for picture in pictures])
            scale = scale_of(metres, batch["landmarks"][row])
            self.estimated += 1
            if isinstance(scale, float):
                depth[row] = np.float32(scale) * metres
                continue
            depth[row] = metres
            self.unscaled[scale] += 1
            total = self.unscaled.total()
            if total & (total - 1) == 0:
                self._say(self.scale_report())
        return depth

    def scale_report(self) -> str:
        """What became of the clips whose depth was estimated, in words."""
        few, discordant = self.unscaled[Unscaled.TOO_FEW], self.unscaled[Unscaled.DISCORDANT]
        return (
            f"depth of {self.estimated} clips was estimated; {few + discordant} of them have it in "
            f"metres, as the unit of their poses is not told: {few} show too few points from two "
            f"places, {discordant} show points that do not agree on it"
        )


_INPUTS = ("video", "depth", "moving", "intrinsics", "cam2world", "seconds")


@functools.partial(jax.jit, static_argnames="settings")
def _encode_batch(
    encoder: LatentEncoder, *, video: Any, depth: Any, moving: Any, intrinsics: Any, cam2world: Any,
    seconds: Any, settings: EncodingSettings,
) -> LatentClip:  # fmt: skip
    vae = encoder.vae
    baseline = Rgb(vae.latent_channels, vae.spatial_stride) if settings.rgb else None
    bodies = settings.bodies

    def one(seconds: Array, *clip: Any) -> LatentClip:
        return encode_clip(
            *clip,
            encoder=encoder,
            chunk_frames=settings.chunk_frames,
            rgb=baseline,
            preceding=settings.preceding,
            last_only=settings.last_only,
            bodies=bodies,
            times=None if bodies is None else seconds * bodies.options.fps,
            movers_up=settings.movers_up,
        )

    return jax.vmap(one)(seconds, to_model_range(video), depth, moving, intrinsics, cam2world)


class EncodedClips:
    """Random access to recorded clips, each encoded when it is asked for; as `LatentSource`.

    Args:
      source: recorded clips, elements as `inputs` takes them.
      inputs: what is made of them; its randomness is that of the index.
      encode: on one device.
      keep_bytes: of host memory for clips that are encoded; those beyond are encoded every time.
    """

    def __init__(
        self, source: Any, inputs: EncoderInputs, encode: ClipEncoder, *, keep_bytes: int = 0
    ):
        self._source, self._inputs, self._encode = source, inputs, encode
        self._kept: dict[int, dict[str, np.ndarray]] = {}
        self._free = keep_bytes

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if index in self._kept:
            return dict(self._kept[index])
        made = self._inputs(self._source[index], np.random.default_rng(index))
        encoded = jax.device_get(self._encode({name: v[None] for name, v in made.items()}))
        found = {name: np.asarray(leaf[0]) for name, leaf in encoded.items()}
        size = sum(leaf.nbytes for leaf in found.values())
        if size <= self._free:
            self._kept[index] = found
            self._free -= size
        return dict(found)
