"""A memory for Wan2.2-TI2V-5B, stage 1: the branch is trained, the pretrained model frozen.

    mirage convert --source=Wan2.2-TI2V-5B --model=wan22_ti2v_5b --to=exports/wan
    mirage convert --source=Wan2.2-TI2V-5B/vae --to=runs/wan/model/encoder
    mirage train --config=experiments/wan22_5b_memory.py --source=walks --workdir=runs/wan
    mirage compile --config=experiments/wan22_5b_memory.py --topology=v5p:4x4x8   # no TPU needed

33 frames of 704x1280. Two variants of the recipe, `wan22_5b_memory.py:ours` (the default) and
`:paper` (arXiv 2606.09828, stage 1: AdamW with betas 0 and .999, weight decay 1e-3, learning rate
1e-5, cosine, batch 64, text left out of every fifth sample; one read-out per latent with a mask,
beside which ours has confidence and depth; no noise augmentation). Ours reads the memory at every
frame on a finer grid, augments the history with noise, and adds the read-out to the tokens as well.
Both train with the camera-ray adapter, one noise level per sample and, as they are sampled, beside
up to 4 reference frames and the 9 preceding frames (`denoiser_training.references` and
`.preceding`; 0 leaves them out, for half the tokens).

`walks` is footage of any layout of docs/data.md at 16 frames a second or more: it is recorded first
(`mirage record` with the same arguments), 65 frames of 704x1280 a clip, stored encoded. Depth that
it lacks is estimated by `--config.data.depth_weights`. Latents are encoded once (`mirage encode`
with the same arguments, on several hosts), or before each step: `--config.loading.latents=video`,
with `--config.record.frames=257 --config.loading.window=65` in windows that come back. `--dry_run`
says what all of it needs. Of the worlds that can be recorded here two have pictures of this shape,
rooms and mazes (docs/data.md).

Compiled for TPU slices, see docs/scaling.md; it has not been trained at this size. The tiny variant
records and trains on a random backbone, the second command in 42 seconds on two idle CPU cores, and
takes `--source` as well:

    mirage record --config=experiments/wan22_5b_memory.py --config.tiny=true --workdir=runs/tiny
    mirage train  --config=experiments/wan22_5b_memory.py --config.tiny=true --workdir=runs/tiny
"""

from pathlib import Path

from ml_collections import ConfigDict

from mirage_jax.cli.helpers.common import load_config
from mirage_jax.convert.presets import WAN22_TI2V_5B, WAN22_VAE

VARIANTS = ("ours", "paper")


def get_config(variant: str = "ours") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"variant: found {variant!r}, expected one of {', '.join(VARIANTS)}")
    c = load_config(str(Path(__file__).with_name("quickstart.py")))
    c.name = "wan22_5b_memory"
    c.host_devices = 1

    c.record.size = 704  # a latent has 44 x 80 cells
    c.record.width = 1280
    c.record.frames = 65  # 33 that leave, 32 that come back
    c.data.fps = 16.0
    c.data.encoding = "visually_lossless"
    c.loader_workers = 2
    c.chunk_frames = 33  # 9 latents
    c.mesh.data = 1
    c.mesh.fsdp = -1  # parameters are split over all devices

    c.vae.update(WAN22_VAE)
    c.vae.dtype = "bfloat16"
    c.vae_training.pretrained = True  # <workdir>/model/encoder is there already

    model = ("width", "depth", "heads", "mlp_width", "text_width")
    c.denoiser.update({name: WAN22_TI2V_5B[name] for name in model})
    c.denoiser.branch_layers = tuple(range(0, 30, 4))
    c.denoiser.memory_hint = True  # the read-out is added to the tokens too
    c.denoiser.memory_prior = False
    c.denoiser.scan = True
    c.denoiser.remat = "full"
    c.denoiser.dtype = "bfloat16"  # of matrix products; the residual stream stays float32

    c.memory.capacity = 1_048_576
    c.memory.conditioner = "folded"  # surfels need a linear path, which Wan's autoencoder lacks

    c.text = ConfigDict()
    c.text.embeddings = ""  # file of embedded prompts (mirage_jax.io.text); "" trains without text
    c.text.captions = False  # True: clips with captions get those, see docs/loading.md
    c.text.prompts = ConfigDict(
        {
            "freedoom": "A first-person walk through the halls of an old video game.",
            "freedoom_generated": "A first-person walk through corridors of an old video game.",
            "labmaze": "A first-person walk through a maze of coloured walls.",
            "miniworld": "A walk through rooms of plain walls with things in them.",
            "openarena": "A first-person walk through an arena of stone and metal.",
            "procedural": "A camera moves through a room of coloured blocks.",
            "footage": "A camera moves through a place.",
        }
    )

    training = c.denoiser_training
    training.trained = "branch"  # or "all", or "branch_lora"
    training.pretrained = "exports/wan"  # export to start from; "random" to try the code
    training.steps = 20_000
    training.batch_size = 64
    training.learning_rate = 1e-5
    training.warmup = 500
    training.weight_decay = 1e-3
    training.betas = (0.9, 0.99)
    training.ema_decay = 0.0
    training.shift = 5.0
    training.drop_text = 0.1
    training.references = 4
    training.preceding = 9  # 3 latents
    training.precondition = False  # Wan predicts the velocity itself

    c.sampling.method = "unipc"
    c.sampling.steps = 20
    c.sampling.shift = 5.0
    c.sampling.reencode = True  # preceding frames as a clip of their own, as in training

    c.sample_every = 1000  # sheets and videos

    c.compile = ConfigDict()  # what `mirage compile` assumes
    c.compile.batch_per_shard = 1  # clips per device of the data and fsdp axes
    c.compile.text_tokens = 512

    if variant == "paper":
        training.betas = (0.0, 0.999)
        training.drop_text = 0.2
        training.drop_memory = 0.0
        training.depth_noise = training.pose_noise = training.token_noise = 0.0
        c.denoiser.memory_hint = False
        c.memory.conditioner = "visibility"
        c.sampling.steps = 40

    tiny = dict(c.tiny_overrides)
    tiny |= {
        "host_devices": 2,
        "record.width": 32,
        "record.frames": 33,
        "data.fps": 0.0,
        "data.hop": 1,
        "loader_workers": 0,
        "chunk_frames": 17,
        "vae.width_mults": (1, 1, 1),
        "vae.blocks": 1,
        "vae.temporal_downsample": (True, True),
        "vae.linear_path": True,
        "vae.attention": False,
        "vae.dtype": "float32",
        "vae_training.pretrained": False,
        "vae_training.steps": 0,  # the linear path alone
        "denoiser.text_width": 24,
        "denoiser.branch_layers": (0,),
        "denoiser_training.pretrained": "random",
        "compile.text_tokens": 3,
    }
    c.tiny_overrides = tuple(tiny.items())
    return c
