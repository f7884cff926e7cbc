"""TAEHV's decoder as its authors wrote it down, in plain numpy: frame by frame, channels first.

No code of the package is used: convolutions are sums over shifted pictures, and memory is a
dictionary of the last frame that each layer saw.
"""

import numpy as np

STAGES = (
    {"blocks": (3, 4, 5), "grow": 7, "conv": 8},
    {"blocks": (9, 10, 11), "grow": 13, "conv": 14},
    {"blocks": (15, 16, 17), "grow": 19, "conv": 20},
)


def random_weights(rng, latent_channels, widths, patch):
    """Tensors under the released names, for (False, True, True) more frames per stage."""
    tensors = {}

    def conv(name, inputs, features, size=3, bias=True):
        scale = 1.0 / np.sqrt(inputs * size**2)
        shape = (features, inputs, size, size)
        tensors[f"decoder.{name}.weight"] = (scale * rng.normal(size=shape)).astype(np.float32)
        if bias:
            tensors[f"decoder.{name}.bias"] = rng.normal(size=features).astype(np.float32) * 0.1

    conv("1", latent_channels, widths[0])
    for stage, frames, width, following in zip(STAGES, (1, 2, 2), widths, widths[1:], strict=False):
        for block in stage["blocks"]:
            conv(f"{block}.conv.0", 2 * width, width)
            conv(f"{block}.conv.2", width, width)
            conv(f"{block}.conv.4", width, width)
        conv(f"{stage['grow']}.conv", width, frames * width, size=1, bias=False)
        conv(str(stage["conv"]), width, following, bias=False)
    conv("22", widths[3], 3 * patch**2)
    return tensors


def decode(tensors, latents):
    """Frames [T', 3, H, W] in [0, 1] of latents [T, C, h, w]; the first three are left out."""
    frames, memory = [], {}
    for latent in latents.astype(np.float64):
        x = np.maximum(_conv(tensors, "1", 3 * np.tanh(latent / 3)), 0)
        frames += _stage(tensors, x, 0, memory)
    return np.stack(frames[3:])


def _stage(tensors, x, number, memory):
    """All frames that follow from one at the entry of a stage."""
    if number == len(STAGES):
        x = _conv(tensors, "22", np.maximum(x, 0))
        patch = int(np.sqrt(len(x) // 3))
        height, width = x.shape[1:]
        picture = np.zeros((3, height * patch, width * patch))
        for channel in range(3):
            for row in range(patch):
                for column in range(patch):
                    index = channel * patch**2 + row * patch + column
                    picture[channel, row::patch, column::patch] = x[index]
        return [np.clip(picture, 0, 1)]
    stage = STAGES[number]
    for block in stage["blocks"]:
        past = memory.get(block, np.zeros_like(x))
        memory[block] = x
        y = np.concatenate([x, past])
        y = np.maximum(_conv(tensors, f"{block}.conv.0", y), 0)
        y = np.maximum(_conv(tensors, f"{block}.conv.2", y), 0)
        x = np.maximum(_conv(tensors, f"{block}.conv.4", y) + x, 0)
    large = np.zeros((len(x), 2 * x.shape[1], 2 * x.shape[2]))
    for row in (0, 1):
        for column in (0, 1):
            large[:, row::2, column::2] = x
    grown = _conv(tensors, f"{stage['grow']}.conv", large)
    out = []
    for part in np.split(grown, len(grown) // len(x)):
        out += _stage(tensors, _conv(tensors, str(stage["conv"]), part), number + 1, memory)
    return out


def _conv(tensors, name, x):
    """Convolution with zeros around the picture, so that its size stays."""
    weight = tensors[f"decoder.{name}.weight"].astype(np.float64)
    margin = weight.shape[2] // 2
    padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin)))
    height, width = x.shape[1:]
    out = np.zeros((len(weight), height, width))
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            seen = padded[:, row : row + height, column : column + width]
            out += np.einsum("oi,ihw->ohw", weight[:, :, row, column], seen)
    bias = tensors.get(f"decoder.{name}.bias")
    return out if bias is None else out + bias[:, None, None]
