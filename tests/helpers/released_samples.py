"""Samples of the released Mirage code's LMDB shards, by the published layout."""

import io
import json
import pickle

import ml_dtypes
import numpy as np
from PIL import Image

from helpers.made_footage import torch_bytes

FRAMES = {"target": 3, "projected_target": 3, "preceding": 2, "projected_preceding": 2}
NAMES = {
    "target": "train_target_rgb.pt",
    "projected_target": "train_target_scene_proj_rgb.pt",
    "preceding": "train_preceding_rgb.pt",
    "projected_preceding": "train_preceding_scene_proj_rgb.pt",
}


def tensor(array):
    return torch_bytes({"latent": np.ascontiguousarray(array).astype(ml_dtypes.bfloat16)})


def latents(seed, frames):
    """[T, h, w, C] of numbers that bfloat16 has."""
    rng = np.random.default_rng(seed)
    return rng.integers(-8, 8, (frames, 2, 3, 4)).astype(np.float32) / 4


def files(seed=0, references=0):
    picture = io.BytesIO()
    Image.fromarray(np.full((8, 12, 3), seed, np.uint8)).save(picture, "PNG")
    found = {
        NAMES[name]: tensor(np.moveaxis(latents(seed + n, count), -1, 1))
        for n, (name, count) in enumerate(FRAMES.items())
    }
    if references:
        found["train_reference_rgb.pt"] = tensor(np.moveaxis(latents(seed, references), -1, 0))
    return found | {
        "train_target_rgb.txt": "a h\u00e4ll\n".encode(),
        "train_sample.json": json.dumps({"t0": 5, "output_size": [8, 12]}).encode(),
        "train_target_rgb_frame0.png": picture.getvalue(),
    }


def value(content):
    return pickle.dumps(content, protocol=pickle.HIGHEST_PROTOCOL)
