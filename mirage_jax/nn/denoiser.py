"""The denoiser: a diffusion transformer over latent video, in the layout of Wan 2.2 TI2V.

Tokens are ordered [reference | target | preceding]: retrieved frames, the frames to be generated,
and the last frames of the previous chunk. Each latent frame has its own timestep, 0 for clean
frames. The memory's read-out enters through the control branch of `memory_branch`, through a
cheaper projection added to the patch embedding, or both; camera rays through an adapter of the same
kind. Every added part starts at zero, so that a new one leaves a trained denoiser as it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float

from mirage_jax.nn.attention import Linear, named_param
from mirage_jax.nn.block import DiTBlock, modulate, modulation_init, over_layers
from mirage_jax.nn.memory_branch import MemoryBranch
from mirage_jax.nn.memory_prior import MemoryPrior
from mirage_jax.nn.rope import axis_dims, video_rotations
from mirage_jax.nn.rows import aligned
from mirage_jax.nn.timesteps import TIMESTEPS, timestep_embedding

Patch = tuple[int, int, int]


def patchify(x: Float[Array, "b t h w c"], patch: Patch) -> Float[Array, "b f gh gw p"]:
    """Folds (time, height, width) patches into channels, ordered (pt, ph, pw, c).

    Raises:
      ValueError: if the patch does not divide the frames, rows or columns.
    """
    if any(n % p for n, p in zip(x.shape[1:4], patch, strict=True)):
        raise ValueError(f"latents: found (T, h, w) = {x.shape[1:4]}, not divided by patch {patch}")
    pt, ph, pw = patch
    return rearrange(x, "b (f pt) (gh ph) (gw pw) c -> b f gh gw (pt ph pw c)", pt=pt, ph=ph, pw=pw)


def unpatchify(x: Float[Array, "b f gh gw p"], patch: Patch) -> Float[Array, "b t h w c"]:
    """Inverse of `patchify`."""
    pt, ph, pw = patch
    return rearrange(x, "b f gh gw (pt ph pw c) -> b (f pt) (gh ph) (gw pw) c", pt=pt, ph=ph, pw=pw)


def velocity_preconditioning(
    sigma: Float[Array, "*#b"], data_std: Float[Array, "*#b c"]
) -> tuple[Float[Array, "*#b c"], Float[Array, "*#b c"]]:
    """Coefficients of v = skip x + out F, for which a network F has targets of unit variance.

    For latents of variance s^2 and x = (1 - sigma) x0 + sigma noise, `skip` is the regression of
    noise - x0 on x, (sigma - (1 - sigma) s^2) / (sigma^2 + (1 - sigma)^2 s^2), and `out`, what is
    left, is s / sqrt(sigma^2 + (1 - sigma)^2 s^2). At sigma 1 the network then predicts -x0 / s and
    need not carry the noise through its residual stream, which in a small one is most of its width
    (Karras et al., arXiv 2206.00364, section 5, for this interpolant).
    """
    sigma, variance = sigma[..., None], jnp.square(data_std)
    total = jnp.square(sigma) + jnp.square(1.0 - sigma) * variance
    return (sigma - (1.0 - sigma) * variance) / total, data_std / jnp.sqrt(total)


class _Layer(nn.Module):
    """One block and the hint that follows it, in the form `over_layers` wants."""

    block: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: Array, hint_index: Array, shared: tuple[Any, ...]) -> tuple[Array, None]:
        *block_inputs, hints = shared
        x = DiTBlock(**self.block, name="block")(x, *block_inputs)
        if hints is not None:
            hint = hints[jnp.maximum(hint_index, 0)]
            x = x + jnp.where(hint_index >= 0, hint, 0.0)
        return x, None


class Denoiser(nn.Module):
    """Predicts the velocity noise - x0 of noisy latents.

    Attributes:
      width: channels of a token.
      depth: transformer blocks.
      heads: attention heads; width / heads must split into even parts, see `rope.axis_dims`.
      mlp_width: hidden channels of the MLP.
      in_channels: channels of a latent.
      out_channels: channels of the prediction.
      patch: latent frames, rows and columns per token.
      text_width: channels of the text encoder's tokens; 0 leaves out text and its cross-attention.
      freq_width: channels of the sinusoidal timestep embedding.
      memory_channels: channels of the memory context of one cell; 0 for no memory.
      memory_hint: adds a zero-initialised projection of the context to the patch embedding.
      branch_layers: blocks that get a hint from the control branch; () for no branch.
      ray_channels: channels of the camera rays of one cell; 0 for no ray adapter.
      zero_head: whether the output projection starts at zero.
      data_std: standard deviation of every latent channel; the network then predicts what
        `velocity_preconditioning` leaves open. () for networks that predict the velocity itself.
      memory_prior: whether the mean and deviation of `MemoryPrior`, given the memory context, stand
        in for those of the latents at large; the network then predicts the residual.
      remat: "none", "elementwise", "dots", "attention", "full" or "offload", see `block.REMAT`.
      scan: whether layers run in a loop (compiles once) or unrolled; parameters are the same.
      attention_backend: see `attention.attention`.
      dtype: of matrix products; the residual stream and the timestep embedding stay float32.
    """

    width: int
    depth: int
    heads: int
    mlp_width: int
    in_channels: int
    out_channels: int
    patch: Patch = (1, 2, 2)
    text_width: int = 0
    freq_width: int = 256
    memory_channels: int = 0
    memory_hint: bool = True
    branch_layers: tuple[int, ...] = ()
    ray_channels: int = 0
    zero_head: bool = True
    data_std: tuple[float, ...] = ()
    memory_prior: bool = False
    remat: str = "none"
    scan: bool = True
    attention_backend: str = "auto"
    dtype: Any = jnp.float32

    def check(self) -> None:
        """Raises ValueError, naming the field, if fields do not fit each other."""
        if self.width % self.heads:
            raise ValueError(f"heads: found {self.heads}, expected a divisor of width {self.width}")
        axis_dims(self.width // self.heads)
        layers = tuple(self.branch_layers)
        if layers != tuple(sorted(set(layers))) or any(not 0 <= i < self.depth for i in layers):
            raise ValueError(
                f"branch_layers: found {layers}, expected increasing numbers in 0..{self.depth - 1}"
            )
        if layers and not self.memory_channels:
            raise ValueError(f"memory_channels: found 0 with branch_layers {layers}, expected > 0")
        if self.memory_prior and not (self.memory_channels and self.data_std):
            raise ValueError(
                f"memory_prior: found {self.memory_channels} memory_channels and data_std "
                f"{self.data_std}, expected some of both"
            )

    @nn.compact
    def __call__(
        self,
        latents: Float[Array, "b t h w c"],
        timestep: Float[Array, "b t"] | Float[Array, "b t gh gw"],
        *,
        reference: Float[Array, "b r h w c"] | None = None,
        preceding: Float[Array, "b p h w c"] | None = None,
        frame_mask: Bool[Array, "b _"] | None = None,
        text: Float[Array, "b l e"] | None = None,
        memory: Float[Array, "b _ h w m"] | None = None,
        rays: Float[Array, "b _ h w k"] | None = None,
        branch_scale: float | Float[Array, ""] | Float[Array, " layers"] = 1.0,
        all_frames: bool = False,
    ) -> Float[Array, "b _ h w o"]:
        """Velocity of the target latents.

        Args:
          latents: noisy target latents. A frame known to be clean is given clean, with timestep 0.
          timestep: `TIMESTEPS` times the noise level of each target frame, or of each patch.
          reference: clean latents of retrieved frames; they get no memory and no rays.
          preceding: clean latents that come after the target in the token order.
          frame_mask: which of the reference and preceding latents, in this order, are present; None
            for all. No token attends to the others. A sample with n references has them last.
          text: text tokens, not masked; None stands for no text (a single zero token).
          memory: context of the target frames, or of target and preceding frames. None leaves out
            everything the memory would add, learned biases included.
          rays: camera rays of the same frames as `memory`.
          branch_scale: factor on the branch's hints, one or one for each of `branch_layers`.
          all_frames: return [reference | target | preceding], as the released model does.

        Raises:
          ValueError: if an input does not fit the module's fields, or T + P frames are expected and
            another number is found.
        """
        self.check()
        if self.patch[0] != 1 and (reference is not None or preceding is not None):
            raise ValueError(f"patch: found {self.patch}, expected 1 in time beside clean frames")
        batch, target = latents.shape[:2]
        references = 0 if reference is None else reference.shape[1]
        precedings = 0 if preceding is None else preceding.shape[1]

        frame_mask = self._all_frames_mask(frame_mask, references, precedings, target)
        mean, std = self._prior(memory, latents, precedings)
        sigma = timestep[..., None, None] / TIMESTEPS
        if self.data_std:
            if all_frames or timestep.ndim != 2:
                raise ValueError(
                    "data_std: expected one timestep per target frame and no other frames"
                )
            # A clean frame is given as it is.
            mean = jnp.where(sigma[..., None] > 0, mean, 0.0)
            latents = latents.astype(jnp.float32) - (1.0 - sigma[..., None]) * mean

        clips = [clip for clip in (reference, latents, preceding) if clip is not None]
        patches = patchify(jnp.concatenate(clips, axis=1), self.patch)
        grid = (patches.shape[2], patches.shape[3])

        def cells(y: Array) -> Array:
            return y.reshape(batch, y.shape[1], grid[0] * grid[1], y.shape[-1])

        def linear(inputs: int, name: str, **options: Any) -> Linear:
            axes = options.pop("axes", (None, "embed"))
            return Linear(inputs, self.width, axes, dtype=self.dtype, name=name, **options)

        volume = math.prod(self.patch)
        embedded = linear(volume * self.in_channels, "patch_embedding")(cells(patches))
        x = embedded.astype(jnp.float32)
        rotations = video_rotations(
            target // self.patch[0], precedings, references, grid, self.width // self.heads
        )

        time, modulation = self._time(timestep, references, precedings, grid)
        text_tokens = self._text(text, batch)

        def patches_of(name: str, field: Array | None, channels: int) -> Array | None:
            """Patches of a field of the target and preceding frames; None if there is none."""
            field = self._field(name, field, channels, latents, precedings)
            return None if field is None else cells(patchify(field, self.patch))

        context = patches_of("memory", memory, self.memory_channels)
        ray_patches = patches_of("rays", rays, self.ray_channels)
        hinted = context if self.memory_hint else None
        for name, field in (("memory_hint", hinted), ("ray_adapter", ray_patches)):
            if field is not None:
                adapter = linear(field.shape[-1], name, kernel_init=nn.initializers.zeros)
                axes = ("batch", None, "tokens", None)
                added = nn.with_logical_constraint(adapter(field).astype(jnp.float32), axes)
                x = x + jnp.pad(added, ((0, 0), (references, 0), (0, 0), (0, 0)))

        hints = None
        if self.branch_layers and context is not None:
            first = references * grid[0] * grid[1]
            hints = MemoryBranch(
                width=self.width,
                heads=self.heads,
                mlp_width=self.mlp_width,
                layers=len(self.branch_layers),
                context_channels=context.shape[-1],
                text=bool(self.text_width),
                attention_backend=self.attention_backend,
                remat=self.remat,
                scan=self.scan,
                dtype=self.dtype,
                name="branch",
            )(
                context,
                x[:, references:],
                modulation[:, references:],
                rotations[first:],
                text_tokens,
                None if frame_mask is None else frame_mask[:, references:],
            )
            hints = hints * self._hint_scale(branch_scale)
            hints = jnp.pad(hints, ((0, 0), (0, 0), (references, 0), (0, 0), (0, 0)))

        hint_of_layer = np.full(self.depth, -1, np.int32)
        hint_of_layer[list(self.branch_layers)] = np.arange(len(self.branch_layers))
        block = {
            "width": self.width,
            "heads": self.heads,
            "mlp_width": self.mlp_width,
            "text": bool(self.text_width),
            "attention_backend": self.attention_backend,
            "dtype": self.dtype,
        }
        stack = over_layers(_Layer, self.depth, remat=self.remat, scan=self.scan)
        shared = (modulation, rotations, text_tokens, frame_mask, hints)
        x, _ = stack(block, name="blocks")(x, jnp.asarray(hint_of_layer), shared)

        if not all_frames:
            wanted = slice(references, references + target // self.patch[0])
            x, time = x[:, wanted], time[:, wanted]
        out = self._head(x, time)
        out = unpatchify(out.reshape(batch, -1, *grid, out.shape[-1]), self.patch)
        if not self.data_std:
            return out
        skip, scale = velocity_preconditioning(sigma, std)
        return skip * latents + scale * out - mean

    def _hint_scale(self, scale: Any) -> Any:
        """Factors on the hints [layers, b, f, s, d]."""
        if not np.ndim(scale):
            return scale
        if np.shape(scale) != (len(self.branch_layers),):
            raise ValueError(
                f"branch_scale: found shape {np.shape(scale)}, expected one number or one for each "
                f"of branch_layers {self.branch_layers}"
            )
        return jnp.asarray(scale, jnp.float32)[:, None, None, None, None]

    def _all_frames_mask(
        self, frame_mask: Array | None, references: int, precedings: int, target: int
    ) -> Array | None:
        """Mask [b, f] of all frames, in token order, from one of the clean frames; None for all."""
        if frame_mask is None:
            return None
        if frame_mask.shape[1] != references + precedings:
            raise ValueError(
                f"frame_mask: found {frame_mask.shape[1]} frames, expected {references} reference "
                f"and {precedings} preceding ones"
            )
        targets = jnp.ones((len(frame_mask), target), bool)
        masks = frame_mask[:, :references], targets, frame_mask[:, references:]
        return jnp.concatenate(masks, axis=1)

    def _prior(self, memory: Array | None, latents: Array, precedings: int) -> tuple[Array, Array]:
        """Prior mean and standard deviation of the target latents."""
        if not self.memory_prior:
            return jnp.zeros((), jnp.float32), jnp.asarray(self.data_std, jnp.float32)
        prior = MemoryPrior(self.memory_channels, self.data_std, name="memory_prior")
        context = self._field("memory", memory, self.memory_channels, latents, precedings)
        return prior(None if context is None else context[:, : latents.shape[1]])

    def _time(
        self, timestep: Array, references: int, precedings: int, grid: tuple[int, int]
    ) -> tuple[Array, Array]:
        """Timestep vector [b, f, 1 or s, d] and modulation [b, f, 1 or s, 6, d] of every frame."""
        timestep = timestep[:, :: self.patch[0]]
        if timestep.ndim == 2:
            timestep = timestep[..., None]
        elif timestep.shape[2:] != grid:
            raise ValueError(
                f"timestep: found {timestep.shape[2:]} per frame, expected one per patch, {grid}"
            )
        else:
            timestep = timestep.reshape(*timestep.shape[:2], -1)
        clean = ((0, 0), (references, precedings), (0, 0))
        normal = nn.initializers.normal(0.02)
        first = Linear(self.freq_width, self.width, (None, "embed"), normal, name="time_in")
        time = nn.silu(first(timestep_embedding(jnp.pad(timestep, clean), self.freq_width)))
        time = Linear(self.width, self.width, ("embed", None), normal, name="time_out")(time)
        project = Linear(self.width, 6 * self.width, ("embed", None), name="time_projection")
        modulation = project(nn.silu(time)).reshape(*time.shape[:-1], 6, self.width)
        axes = ("batch", None, "tokens" if time.shape[2] > 1 else None, None, None)
        return time, nn.with_logical_constraint(modulation, axes)

    def _text(self, text: Array | None, batch: int) -> Array | None:
        """Embedded text tokens; None if the module has no text."""
        if not self.text_width:
            if text is not None:
                raise ValueError("text: found some, expected None as text_width is 0")
            return None
        if text is None:
            text = jnp.zeros((batch, 1, self.text_width), self.dtype)
        if text.shape[-1] != self.text_width:
            raise ValueError(f"text: found {text.shape[-1]} channels, expected {self.text_width}")
        normal = nn.initializers.normal(0.02)
        text = Linear(
            self.text_width, self.width, (None, "embed"), normal, self.dtype, name="text_in"
        )(text)
        return Linear(self.width, self.width, ("embed", None), normal, self.dtype, name="text_out")(
            nn.gelu(text, approximate=True)
        )

    def _field(
        self, name: str, field: Array | None, channels: int, latents: Array, precedings: int
    ) -> Array | None:
        """A per-cell input of target and preceding frames, checked; zeros where none was given."""
        if field is None:
            if not (channels and self.is_initializing()):
                return None
            field = jnp.zeros((*latents.shape[:-1], channels), latents.dtype)
        if field.shape[-1] != channels:
            raise ValueError(f"{name}: found {field.shape[-1]} channels, expected {channels}")
        target, frames = latents.shape[1], field.shape[1]
        if frames not in (target, target + precedings):
            raise ValueError(
                f"{name}: found {frames} frames, expected {target} target frames"
                f"{f' or with {precedings} preceding ones' if precedings else ''}"
            )
        missing = target + precedings - frames
        return jnp.pad(field, ((0, 0), (0, missing), (0, 0), (0, 0), (0, 0)))

    def _head(self, x: Array, time: Array) -> Array:
        init = modulation_init(self.width)
        table = named_param(self, "head_modulation", init, (2, self.width), (None, "embed"))
        shift, scale = (time + aligned(row, time) for row in table)
        x = modulate(x, shift, scale)
        init = nn.initializers.zeros if self.zero_head else nn.initializers.xavier_uniform()
        features = math.prod(self.patch) * self.out_channels
        head = Linear(self.width, features, ("embed", None), init, self.dtype, name="head")
        return head(x).astype(jnp.float32)
