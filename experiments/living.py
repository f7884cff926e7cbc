"""Mazes in which bodies walk: seen, hidden while up to a hundred frames pass, and due again.

mirage record   --config=experiments/living.py --workdir=runs/living
mirage train    --config=experiments/living.py --workdir=runs/living
mirage evaluate --config=experiments/living.py --workdir=runs/living --protocol=permanence

The system of the quickstart on other clips, with a memory that keeps bodies (docs/movers.md): three
walking bodies in each clip, look-alikes among them, their exact states stored; docs/permanence.md
tells what is scored, and what was reached.
"""

from pathlib import Path

from ml_collections import ConfigDict

from mirage_jax.cli.helpers.common import load_config


def get_config(_: str = "") -> ConfigDict:
    c = load_config(str(Path(__file__).with_name("quickstart.py")))
    c.name = "living"

    c.worlds = ("labmaze_bodies",)  # or procedural_bodies, miniworld_bodies, freedoom_bodies
    c.record.train_clips.labmaze_bodies = 480

    c.memory.movers = True
    c.memory.fuse_histories = True  # what a rollout will read

    tiny = dict(c.tiny_overrides)
    tiny["worlds"], tiny["record.bodies"] = ("procedural_bodies",), 2
    c.tiny_overrides = tuple(tiny.items())
    return c
