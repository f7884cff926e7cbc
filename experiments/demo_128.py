"""The weights that ship: 128x128 pictures, 17-frame chunks, trained on two CPU cores.

    mirage quickstart --config=experiments/demo_128.py --workdir=runs/demo_128

What it differs in from the quickstart, and what each difference brought, stands in docs/explore.md.
"""

from pathlib import Path

from ml_collections import ConfigDict

from mirage_jax.cli.helpers.common import load_config


def get_config(_: str = "") -> ConfigDict:
    c = load_config(str(Path(__file__).with_name("quickstart.py")))
    c.name = "demo_128"

    c.record.size = 128
    c.record.train_clips.freedoom = 1600
    c.record.train_clips.labmaze = 800
    return c
