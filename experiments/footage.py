"""A world that remembers, from footage of one's own: videos or pictures with their cameras.

    mirage record   --config=experiments/footage.py --source=walks --workdir=runs/walks
    mirage inspect  runs/walks/worlds/footage
    mirage train    --config=experiments/footage.py --source=walks --workdir=runs/walks
    mirage evaluate --config=experiments/footage.py --workdir=runs/walks
    mirage generate --workdir=runs/walks --image=photo.png --trajectory=look_away
    mirage generate --workdir=runs/walks --clip=scans/hall --trajectory=look_away

`walks` is a folder of any layout of docs/data.md, or one video with a camera file beside it. Clips
are 128x128 with 33 frames at 10 a second; another size is `--config.record.size` and `.width`, in
multiples of 16, a longer clip `--config.record.frames` (1 + 16 n). `train` records what `record`
has not. `--config.data.shapes` takes pictures of other shapes into the same work directory. Footage
without depth needs `--config.data.depth_weights`, Depth Anything V2 (metric).

Not measured at this size; the system is that of `worlds_128.py`. `--config.tiny=true` runs the same
on 32x32 pictures and 9-frame clips, with the encoder's linear path alone, and needs nine frames of
footage. From a video to a trained and a generated one it takes 47 seconds on two CPU cores, half of
them compiling:

    mirage train    --config=experiments/footage.py --config.tiny=true --source=walks \\
                    --workdir=runs/tiny
    mirage generate --config=experiments/footage.py --config.tiny=true --workdir=runs/tiny \\
                    --image=photo.png --trajectory=look_away
"""

from pathlib import Path

from ml_collections import ConfigDict

from mirage_jax.cli.helpers.common import load_config


def get_config(_: str = "") -> ConfigDict:
    c = load_config(str(Path(__file__).with_name("worlds_128.py")))
    c.name = "footage"
    c.worlds = ("footage",)
    c.data.fps = 10.0
    c.data.hop = 8
    c.data.encoding = "visually_lossless"
    c.record.frames = 33
    c.record.workers = 2
    c.chunk_frames = 17
    c.loader_workers = 2
    tiny = dict(c.tiny_overrides)
    del tiny["worlds"], tiny["record.train_clips.procedural"]
    tiny |= {
        "record.frames": 9,
        "chunk_frames": 5,
        "data.fps": 0.0,
        "data.hop": 1,
        "loader_workers": 0,
        "record.workers": 0,
        "host_devices": 1,  # programs for two devices compile a quarter longer
        # What compiles longest, left out: it is nearly all of the time.
        "vae.blocks": 1,
        "vae.attention": False,
        "vae_training.steps": 0,  # the linear path alone
        "denoiser.depth": 1,
        "memory.reads": 1,
        "memory.fine": 1,
    }
    c.tiny_overrides = tuple(tiny.items())
    return c
