"""A memory for Wan2.2-TI2V-5B: the branch is trained at 704x1280x33, the pretrained model frozen.

    mirage compile --config=experiments/wan22_5b_memory.py --topology=v5p:4x4x8

compiles the training step and the sampling of a chunk for a TPU slice, with no TPU present;
docs/scaling.md says what is known so far. Training needs the converted backbone
(`--config.denoiser_training.backbone=FOLDER`), the Wan 2.2 encoder in <workdir>/model and latents
in <workdir>/latents; it has not been run. `--config.tiny=true` is for a CPU: with
`--topology=cpu:8` the training step compiles in about half a minute of processor time.
"""

from pathlib import Path

from ml_collections import ConfigDict

from mirage_jax.cli.common import load_config


def get_config(_: str = "") -> ConfigDict:
    c = load_config(str(Path(__file__).with_name("quickstart.py")))
    c.name = "wan22_5b_memory"
    c.host_devices = 1

    c.record.size = 704  # a latent has 44 x 80 cells
    c.record.width = 1280
    c.record.frames = 65  # 33 that leave, 32 that come back
    c.chunk_frames = 33  # 9 latents
    c.mesh.data = 1
    c.mesh.fsdp = -1  # parameters are split over all devices

    c.vae.base_width = 160  # the Wan 2.2 video autoencoder
    c.vae.decoder_width = 256
    c.vae.latent_channels = 48
    c.vae.width_mults = (1, 2, 4, 4)
    c.vae.blocks = 2
    c.vae.temporal_downsample = (False, True, True)
    c.vae.linear_path = False
    c.vae.attention = True
    c.vae.dtype = "bfloat16"

    c.denoiser.width = 3072
    c.denoiser.depth = 30
    c.denoiser.heads = 24
    c.denoiser.mlp_width = 14336
    c.denoiser.text_width = 4096
    c.denoiser.branch_layers = (0, 4, 8, 12, 16, 20, 24, 28)
    c.denoiser.remat = "full"
    c.denoiser.scan = True
    c.denoiser.memory_prior = False  # the pretrained model stays as it is
    c.denoiser.dtype = "bfloat16"  # of matrix products; parameters and residual stream stay float32

    c.memory.capacity = 1_048_576

    c.denoiser_training.trained = "branch"
    c.denoiser_training.backbone = ""  # folder of the converted model, or "random" to try the code
    c.denoiser_training.steps = 20_000
    c.denoiser_training.batch_size = 64
    c.denoiser_training.learning_rate = 1e-5
    c.denoiser_training.warmup = 500
    c.denoiser_training.weight_decay = 1e-3
    c.denoiser_training.ema_decay = 0.0
    c.denoiser_training.shift = 5.0
    c.denoiser_training.drop_text = 0.1
    c.denoiser_training.precondition = False  # Wan predicts the velocity itself

    c.sampling.method = "unipc"
    c.sampling.steps = 20
    c.sampling.shift = 5.0

    c.compile = ConfigDict()
    c.compile.batch_per_shard = 1  # clips per device of the data and fsdp axes
    c.compile.text_tokens = 512

    tiny = dict(c.tiny_overrides)
    c.tiny_overrides = tuple(
        (
            tiny
            | {
                "host_devices": 2,
                "record.width": 32,
                "record.frames": 33,
                "chunk_frames": 17,
                "vae.width_mults": (1, 1, 1),
                "vae.blocks": 1,
                "vae.temporal_downsample": (True, True),
                "vae.linear_path": True,
                "vae.attention": False,
                "vae.dtype": "float32",
                "denoiser.text_width": 24,
                "denoiser.branch_layers": (0,),
                "denoiser_training.backbone": "random",
                "denoiser_training.batch_size": 4,
                "compile.text_tokens": 3,
            }
        ).items()
    )
    return c
