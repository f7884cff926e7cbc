"""The weights that come with the package: a small model to try without training one.

    model = mirage.load("demo")
    world = model.start(shipped.start_pictures()["maze"])

What they were trained on and what they can do stands in the folder's README.md.
"""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from mirage_jax.io.image_files import read_rgb
from mirage_jax.io.workdir import Workdir
from mirage_jax.weights import export, flatten, load_export, unflatten

NAME = "demo"
DEMO = Path(__file__).resolve().parents[1] / "data" / NAME
PARTS = ("encoder", "geometry", "denoiser_latent")


def folder_of(path: str | Path) -> Path:
    """`path`, or where the shipped weights are if it is "demo" and no such file or folder."""
    path = Path(path).expanduser()
    return DEMO if str(path) == NAME and not path.exists() else path


def start_pictures() -> dict[str, UInt8[np.ndarray, "height width 3"]]:
    """Pictures to start a world of the shipped weights from, by name; of its size."""
    pictures = sorted(DEMO.glob("start_*.png"))
    return {path.stem.removeprefix("start_"): read_rgb(path) for path in pictures}


def write(workdir: str | Path, folder: str | Path) -> None:
    """Writes the trained parts of a work directory with all tensors rounded to bfloat16.

    Args:
      workdir: of the run.
      folder: where to; parts that are there are replaced.

    Raises:
      FileNotFoundError, ValueError: as `weights.load_export`.
    """
    for part in PARTS:
        params, architecture = load_export(Workdir(Path(workdir)).model(part))
        rounded = {name: jnp.asarray(x, jnp.bfloat16) for name, x in flatten(params).items()}
        export(Workdir(Path(folder)).model(part), unflatten(rounded), architecture)
