"""A memory for Wan2.2-TI2V-5B, stage 2: the branch and a low-rank adapter of the frozen model.

    mirage train   --config=experiments/wan22_5b_joint.py --source=walks --workdir=runs/wan_joint
    mirage compile --config=experiments/wan22_5b_joint.py --topology=v5p:4x4x8

Goes on from stage 1 (`wan22_5b_memory.py`, whose docstring says what is needed and what has been
run): `denoiser_training.pretrained` is its export. Variants as there; both train branch and adapter
together as the paper's stage 2 does (learning rate 1e-4, rank 64 and alpha 64 on the queries, keys,
values and outputs of self-attention), and `:paper` has its dropout of .05 on what the adapter sees.
The export has the adapter merged. `--config.tiny=true` as for stage 1, on a random model of its
own.
"""

from pathlib import Path

from ml_collections import ConfigDict

from mirage_jax.cli.helpers.common import load_config
from mirage_jax.nn.lora import SELF_ATTENTION


def get_config(variant: str = "ours") -> ConfigDict:
    c = load_config(f"{Path(__file__).with_name('wan22_5b_memory.py')}:{variant}")
    c.name = "wan22_5b_joint"
    c.lora = ConfigDict()
    c.lora.rank = 64
    c.lora.alpha = 64.0  # the update is alpha / rank A B
    c.lora.targets = SELF_ATTENTION
    c.lora.dropout = 0.05 if variant == "paper" else 0.0  # of the adapter's inputs, in training
    c.denoiser_training.trained = "branch_lora"
    c.denoiser_training.pretrained = "runs/wan/model/denoiser_latent"
    c.denoiser_training.learning_rate = 1e-4
    c.tiny_overrides = (*c.tiny_overrides, ("lora.rank", 4), ("lora.alpha", 4.0))
    return c
