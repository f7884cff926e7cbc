"""What makes a trained model quick: a student of one to four steps, and a tiny decoder.

    mirage train    --config=experiments/distill.py --workdir=runs/quickstart --stage=distill
    mirage train    --config=experiments/distill.py --workdir=runs/quickstart --stage=match
    mirage train    --config=experiments/distill.py --workdir=runs/quickstart --stage=tiny_decoder
    mirage generate --workdir=runs/quickstart --denoiser=student --decoder=tiny
    mirage bench steps --config=experiments/distill.py --workdir=runs/quickstart

Causal consistency distillation of the quickstart's denoiser; the student is stored beside it, as
model/denoiser_student. `match` goes on with it, by distribution matching on what follows a chunk of
its own, and stores it in its place. `experiments/distill.py:wan22_5b` is the same for the memory
branch of Wan2.2-TI2V-5B with the numbers of Causal Forcing (learning rate 2e-6, betas 0 and .999,
batch 8, 3,000 steps, 48 levels shifted by 5): the branch becomes the student, the backbone stays
frozen. What a student of the quickstart is like stands in docs/distillation.md; the other has not
been trained. `--config.tiny=true` runs all stages on a CPU.
"""

from pathlib import Path

from ml_collections import ConfigDict

from mirage_jax.cli.helpers.common import load_config

TEACHERS = ("quickstart", "worlds_128", "wan22_5b")


def get_config(teacher: str = "quickstart") -> ConfigDict:
    if teacher not in TEACHERS:
        raise ValueError(f"teacher: found {teacher!r}, expected one of {', '.join(TEACHERS)}")
    large = teacher == "wan22_5b"
    file = "wan22_5b_memory" if large else teacher
    c = load_config(str(Path(__file__).with_name(f"{file}.py")))
    c.name = f"distill_{teacher}"

    training = c.distill_training = ConfigDict()
    training.teacher = ""  # export of the trained denoiser; "" = the work directory's own
    training.levels = 48  # noise levels that neighbours are drawn from
    training.shift = c.denoiser_training.shift  # of these levels, and of the student's sampling
    training.cfg_scale = 1.0  # guidance by the text that the student learns; 1 = none
    training.sampling_steps = 2  # in which the student is sampled; 1 to 4
    training.steps = 3000 if large else 1000
    training.batch_size = 8 if large else 16
    training.learning_rate = 2e-6 if large else 2e-4
    training.warmup = 0 if large else 20
    training.schedule = "constant"
    training.weight_decay = 0.01
    training.betas = (0.0, 0.999)
    training.ema_decay = 0.99  # of the average that the student is trained towards

    match = c.match_training = ConfigDict()  # goes on with the student, on rollouts of its own
    match.teacher = ""  # as above
    match.student = ""  # export to go on with; "" = the work directory's, "teacher" = that
    match.shift = training.shift  # of the student's sampling
    match.cfg_scale = 1.0  # guidance of the teacher by the text, which the student learns; 1 = none
    match.sampling_steps = 2  # in which the student is sampled, and trained; 1 to 4
    match.critic_steps = 5  # of the critic for one of the student
    match.rollouts = 1.0  # share of later chunks that see what the student itself generated before
    match.steps = 1500  # 300 of the student: longer ones lose motion
    match.batch_size = 8 if large else 16
    match.learning_rate = 2e-6 if large else 5e-5
    match.warmup = 0 if large else 20
    match.schedule = "constant"
    match.weight_decay = 0.01
    match.betas = (0.0, 0.999)
    match.ema_decay = 0.99

    decoder = c.tiny_decoder = ConfigDict()  # TAEHV's for Wan 2.2, smaller ones for small latents
    decoder.widths = (256, 128, 64, 64) if large else (64, 48, 32, 32)
    decoder.time_upscale = (False, True, True)
    decoder.space_upscale = (True, True, large)
    decoder.patch = 2
    decoder.dtype = "bfloat16" if large else "float32"

    fit = c.tiny_decoder_training = ConfigDict()
    fit.pixels = 256 if large else c.vae_training.pixels  # training windows
    fit.steps = 20_000 if large else 600
    fit.batch_size = 8
    fit.learning_rate = 3e-4 if large else 2e-3
    fit.warmup = 50
    fit.weight_decay = 0.0
    fit.ema_decay = 0.99
    fit.schedule = "cosine"
    fit.betas = (0.9, 0.99)

    for section in (training, match, fit):
        section.init_from = ""
        section.accumulate = 1
        section.optimizer = "adamw"
        section.clip_norm = 1.0

    tiny = dict(c.tiny_overrides)
    tiny |= {
        "distill_training.steps": 4,
        "distill_training.batch_size": 4,
        "distill_training.warmup": 0,
        "distill_training.levels": 8,
        "match_training.steps": 4,
        "match_training.batch_size": 4,
        "match_training.warmup": 0,
        "match_training.critic_steps": 2,
        "tiny_decoder.widths": (8, 8, 8, 8),
        "tiny_decoder.space_upscale": (True, True, False),
        "tiny_decoder.dtype": "float32",
        "tiny_decoder_training.pixels": 32,
        "tiny_decoder_training.steps": 4,
        "tiny_decoder_training.batch_size": 4,
        "tiny_decoder_training.warmup": 0,
    }
    c.tiny_overrides = tuple(tiny.items())
    return c
