"""Mazes in which bodies walk: seen, hidden while up to a hundred frames pass, and due again.

mirage record   --config=experiments/living.py --workdir=runs/living
mirage train    --config=experiments/living.py --workdir=runs/living
mirage evaluate --config=experiments/living.py --workdir=runs/living --protocol=permanence

The system of the quickstart on other clips: three walking bodies in each, look-alikes among them,
their exact states stored; docs/permanence.md tells what is scored, and what baselines reach. The
weights of such a training have not been measured yet.
"""

from pathlib import Path

from ml_collections import ConfigDict

from mirage_jax.cli.helpers.common import load_config


def get_config(_: str = "") -> ConfigDict:
    c = load_config(str(Path(__file__).with_name("quickstart.py")))
    c.name = "living"

    c.worlds = ("labmaze",)  # bodies walk in "procedural" too
    c.record.bodies = 3
    c.record.train_clips.labmaze = 480
    c.record.train_clips.procedural = 480

    tiny = dict(c.tiny_overrides)
    tiny["record.bodies"] = 2
    c.tiny_overrides = tuple(tiny.items())
    return c
