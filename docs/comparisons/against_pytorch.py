"""The denoiser and the video VAE beside plain PyTorch: same parameters, same run, taking turns.

    pip install torch
    python docs/comparisons/against_pytorch.py denoiser 10m 47m
    python docs/comparisons/against_pytorch.py vae wan22_small wan21_small

The PyTorch side is written the plain way (`linear`, `conv3d`, `scaled_dot_product_attention`,
autograd). Before anything is timed, the outputs of both sides have to agree. Nothing of mirage_jax
needs PyTorch; this file does.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
import torch
import torch.nn.functional as F

from mirage_jax.cli.helpers.allocator import restart_with_large_pages
from mirage_jax.cli.helpers.compilation import use_own_kernels
from mirage_jax.evaluation import network_costs
from mirage_jax.evaluation.stopwatch import median_times
from mirage_jax.nn.rope import video_rotations
from mirage_jax.nn.timesteps import timestep_embedding

Tensor = torch.Tensor


def tensors(params: Any) -> Any:
    """Parameters as torch keeps them: outputs first, then inputs, then the extent of a kernel."""

    def convert(path: Any, leaf: jax.Array) -> Tensor:
        tensor = torch.from_numpy(np.array(leaf))
        if path[-1].key == "kernel":
            layers = any(part.key == "blocks" for part in path)
            order = (0, 2, 1) if layers else (-1, -2, *range(tensor.ndim - 2))
            tensor = tensor.permute(order)
        return tensor.contiguous().requires_grad_()

    return jax.tree_util.tree_map_with_path(convert, params)


def linear(p: Any, x: Tensor) -> Tensor:
    return F.linear(x, p["kernel"], p["bias"])


# --- denoiser -------------------------------------------------------------------------------------


def root_mean_square_norm(x: Tensor, scale: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * scale


def attention(p: Any, x: Tensor, source: Tensor, rotations: Tensor | None, heads: int) -> Tensor:
    q = root_mean_square_norm(linear(p["q"], x), p["norm_q"])
    k = root_mean_square_norm(linear(p["k"], source), p["norm_k"])
    q, k, v = (a.unflatten(-1, (heads, -1)) for a in (q, k, linear(p["v"], source)))
    if rotations is not None:
        q, k = rotate(q, rotations), rotate(k, rotations)
    q, k, v = (a.transpose(1, 2) for a in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
    return linear(p["o"], out)


def rotate(x: Tensor, rotations: Tensor) -> Tensor:
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * rotations[:, None]
    return torch.view_as_real(turned).flatten(-2)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def denoise(params: Any, inputs: dict[str, Tensor], heads: int, depth: int) -> Tensor:
    """Velocity of the latents; frames keep an axis of their own, for one timestep each."""
    latents = inputs["latents"]
    b, t, h, w, c = latents.shape
    patches = latents.reshape(b, t, h // 2, 2, w // 2, 2, c).permute(0, 1, 2, 4, 3, 5, 6)
    x = linear(params["patch_embedding"], patches.reshape(b, t, -1, 4 * c))
    time = linear(params["time_out"], F.silu(linear(params["time_in"], inputs["time"])))
    modulation = linear(params["time_projection"], F.silu(time)).unflatten(-1, (1, 6, -1))
    text = F.gelu(linear(params["text_in"], inputs["text"]), approximate="tanh")
    text = linear(params["text_out"], text)

    for layer in range(depth):
        p = jax.tree.map(lambda leaf: leaf[layer], params["blocks"]["block"])  # noqa: B023
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (modulation + p["modulation"]).unbind(
            -2
        )
        y = modulate(x, shift, scale).flatten(1, 2)
        y = attention(p["self_attn"], y, y, inputs["rotations"], heads)
        x = x + gate * y.unflatten(1, (t, -1))
        y = F.layer_norm(x, x.shape[-1:], p["cross_norm_scale"], p["cross_norm_bias"], 1e-6)
        y = attention(p["cross_attn"], y.flatten(1, 2), text, None, heads)
        x = x + y.unflatten(1, (t, -1))
        y = F.gelu(linear(p["mlp_in"], modulate(x, mlp_shift, mlp_scale)), approximate="tanh")
        x = x + mlp_gate * linear(p["mlp_out"], y)

    table = params["head_modulation"]
    x = modulate(x, (time + table[0])[:, :, None], (time + table[1])[:, :, None])
    out = linear(params["head"], x).reshape(b, t, h // 2, w // 2, 2, 2, c)
    return out.permute(0, 1, 2, 4, 3, 5, 6).reshape(b, t, h, w, c)


def denoiser(case: Any, params: Any, inputs: Any) -> dict[str, Callable[[], Any]]:
    """The passes of `network_costs.denoiser`, for cases without other frames and memory."""
    fields, (frames, rows, columns) = case.fields, case.latents
    if case.references or case.precedings or fields.get("memory_channels"):
        raise SystemExit("denoiser: PyTorch has the cases of target frames and text alone")
    parameters, heads = tensors(params), fields["heads"]
    rotations = video_rotations(
        frames, 0, 0, (rows // 2, columns // 2), fields["width"] // fields["heads"]
    )
    given = {
        "latents": torch.from_numpy(np.array(inputs["latents"])),
        "text": torch.from_numpy(np.array(inputs["text"])),
        "time": torch.from_numpy(np.array(timestep_embedding(inputs["timestep"], 256))),
        "rotations": torch.view_as_complex(torch.from_numpy(np.array(rotations))),
    }
    run = partial(denoise, parameters, given, heads, fields["depth"])
    return {
        "forward": without_gradients(run),
        "forward_backward": partial(gradients, parameters, lambda: run().pow(2).mean()),
    }


# --- video VAE ------------------------------------------------------------------------------------


def convolution(p: Any, x: Tensor, **options: Any) -> Tensor:
    """2-D with a 2-D kernel, every frame for itself; else 3-D. Channels come before the frames."""
    kernel = p["kernel"]
    if kernel.ndim == 5:
        return F.conv3d(x, kernel, p["bias"], **options)
    b, _, t = x.shape[:3]
    y = F.conv2d(x.transpose(1, 2).flatten(0, 1), kernel, p["bias"], **options)
    return y.unflatten(0, (b, t)).transpose(1, 2)


def causal(p: Any, x: Tensor) -> Tensor:
    t, h, w = p["kernel"].shape[2:]
    return convolution(p, F.pad(x, (w // 2, w // 2, h // 2, h // 2, t - 1, 0)))


def channel_norm(p: Any, x: Tensor) -> Tensor:
    return F.normalize(x, dim=1) * x.shape[1] ** 0.5 * p["gamma"][:, None, None, None]


def residual_block(p: Any, x: Tensor) -> Tensor:
    y = causal(p["conv1"], F.silu(channel_norm(p["norm1"], x)))
    y = causal(p["conv2"], F.silu(channel_norm(p["norm2"], y)))
    return y + (causal(p["shortcut"], x) if "shortcut" in p else x)


def middle(p: Any, x: Tensor) -> Tensor:
    x = residual_block(p["mid_res_0"], x)
    b, c, t, h, w = x.shape
    qkv = convolution(p["mid_attention"]["qkv"], channel_norm(p["mid_attention"]["norm"], x))
    q, k, v = qkv.permute(0, 2, 3, 4, 1).reshape(b * t, 1, h * w, 3 * c).chunk(3, dim=-1)
    y = F.scaled_dot_product_attention(q, k, v).reshape(b, t, h, w, c).permute(0, 4, 1, 2, 3)
    x = x + convolution(p["mid_attention"]["proj"], y)
    return residual_block(p["mid_res_1"], x)


def average_down(x: Tensor, features: int, time: int, space: int) -> Tensor:
    x = F.pad(x, (0, 0, 0, 0, -x.shape[2] % time, 0))
    b, c, t, h, w = x.shape
    x = x.reshape(b, c, t // time, time, h // space, space, w // space, space)
    x = x.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)
    return x.unflatten(1, (features, -1)).mean(2)


def duplicate_up(x: Tensor, features: int, time: int, space: int) -> Tensor:
    x = x.repeat_interleave(features * time * space**2 // x.shape[1], dim=1)
    x = x.unflatten(1, (features, time, space, space)).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)[:, :, time - 1 :]


def encode(fields: Any, params: Any, video: Tensor) -> Tensor:
    """Mean and log-variance, side by side, of a clip [b, 3, t, height, width]."""
    p, patch, width = params["encoder"], fields["patch"], fields["base_width"]
    x = video.unflatten(4, (-1, patch)).unflatten(3, (-1, patch)).permute(0, 1, 6, 4, 2, 3, 5)
    x = causal(p["conv_in"], x.flatten(1, 3))
    for i, mult in enumerate(fields["width_mults"]):
        shortcut, time, space = x, 1, 1
        for j in range(fields["blocks"]):
            x = residual_block(p[f"down_{i}_res_{j}"], x)
        if i < len(fields["temporal_downsample"]):
            resample, space = p[f"down_{i}_resample"], 2
            x = convolution(resample["conv"], F.pad(x, (0, 1, 0, 1)), stride=2)
            if fields["temporal_downsample"][i]:
                time = 2
                later = convolution(resample["time_conv"], x, stride=(2, 1, 1))
                x = torch.cat([x[:, :, :1], later], dim=2)
        if fields["level_shortcuts"]:
            x = x + average_down(shortcut, width * mult, time, space)
    x = causal(p["conv_out"], F.silu(channel_norm(p["norm_out"], middle(p, x))))
    return convolution(params["quant"], x)


def decode(fields: Any, params: Any, latents: Tensor) -> Tensor:
    """A clip [b, 3, t, height, width] of latents [b, c, t, h, w]."""
    p, patch, width = params["decoder"], fields["patch"], fields["decoder_width"]
    upsample = fields["temporal_downsample"][::-1]
    x = middle(p, causal(p["conv_in"], convolution(params["post_quant"], latents)))
    for i, mult in enumerate(fields["width_mults"][::-1]):
        shortcut = x
        for j in range(fields["blocks"] + 1):
            x = residual_block(p[f"up_{i}_res_{j}"], x)
        if i < len(upsample):
            resample = p[f"up_{i}_resample"]
            if upsample[i]:
                head, rest = x[:, :, :1], x[:, :, 1:]
                pairs = convolution(resample["time_conv"], F.pad(rest, (0, 0, 0, 0, 2, 0)))
                pairs = pairs.unflatten(1, (2, -1)).permute(0, 2, 3, 1, 4, 5).flatten(2, 3)
                x = torch.cat([head, pairs], dim=2)
            x = x.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
            x = convolution(resample["conv"], x, padding=1)
            if fields["level_shortcuts"]:
                x = x + duplicate_up(shortcut, width * mult, 1 + upsample[i], 2)
    x = causal(p["conv_out"], F.silu(channel_norm(p["norm_out"], x)))
    x = x.unflatten(1, (3, patch, patch)).permute(0, 1, 4, 5, 3, 6, 2)
    return x.flatten(5, 6).flatten(3, 4)


def vae(case: Any, params: Any, inputs: Any) -> dict[str, Callable[[], Any]]:
    """The passes of `network_costs.vae`, channels first."""
    parameters = tensors(params)
    video, latents = (
        torch.from_numpy(np.moveaxis(np.array(inputs[name]), -1, 1).copy())
        for name in ("video", "latents")
    )

    def loss() -> Tensor:
        mean = encode(case.fields, parameters, video).chunk(2, dim=1)[0]
        return (decode(case.fields, parameters, mean) - video).pow(2).mean()

    return {
        "encode": without_gradients(partial(encode, case.fields, parameters, video)),
        "decode": without_gradients(partial(decode, case.fields, parameters, latents)),
        "forward_backward": partial(gradients, parameters, loss),
    }


# --- both -----------------------------------------------------------------------------------------


def without_gradients(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.no_grad():
            return run()

    return call


def gradients(parameters: Any, loss: Callable[[], Tensor]) -> list[Tensor]:
    leaves = jax.tree.leaves(parameters)
    return list(torch.autograd.grad(loss(), leaves, allow_unused=True))


def difference(ours: Any, theirs: Any) -> float:
    """Of outputs, relative to the largest value; of gradients, of their norms."""
    if isinstance(theirs, list):
        squares = [float(leaf.pow(2).sum()) for leaf in theirs if leaf is not None]
        norm = sum(squares) ** 0.5
        return abs(float(optax.global_norm(ours)) - norm) / norm
    expected = np.concatenate(ours, axis=-1) if isinstance(ours, tuple) else np.asarray(ours)
    found = theirs.numpy()
    if found.shape != expected.shape:
        found = np.moveaxis(found, 1, -1)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def main() -> None:
    restart_with_large_pages()
    use_own_kernels()
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("subject", choices=list(SUBJECTS))
    parser.add_argument("sizes", nargs="+", help="named as for `mirage bench`")
    parser.add_argument("--passes", nargs="*", help="of forward, encode, decode, forward_backward")
    parser.add_argument("--repeats", type=int, default=5, help="runs per median")
    arguments = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    print(f"jax {jax.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("size          pass                 ours, ms   PyTorch, ms   PyTorch / ours   difference")
    make, passes = SUBJECTS[arguments.subject]
    for size in arguments.sizes:
        case = network_costs.CASES[arguments.subject][size]
        network = make(case)
        params, inputs = network_costs.draw(network.params), network_costs.draw(network.inputs)
        for name, call in passes(case, params, inputs).items():
            if arguments.passes and name not in arguments.passes:
                continue
            program = jax.jit(network.passes[name]).lower(params, inputs).compile()
            apart = difference(program(params, inputs), call())
            if apart > 1e-5:
                raise SystemExit(f"{size} {name}: the two sides differ by {apart:.1e}")
            ours, theirs = median_times([partial(program, params, inputs), call], arguments.repeats)
            print(
                f"{size:13} {name:18} {ours.ms:10.1f} {theirs.ms:13.1f}"
                f" {theirs.ms / ours.ms:16.2f} {apart:12.0e}"
            )


SUBJECTS = {"denoiser": (network_costs.denoiser, denoiser), "vae": (network_costs.vae, vae)}

if __name__ == "__main__":
    main()
