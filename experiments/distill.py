"""A student that samples a chunk in one to four steps, of a denoiser that was trained before.

    mirage train    --config=experiments/distill.py --workdir=runs/quickstart --stage=distill
    mirage generate --config=experiments/distill.py --workdir=runs/quickstart --denoiser=student
    mirage bench steps --config=experiments/distill.py --workdir=runs/quickstart

Causal consistency distillation of the quickstart's denoiser; the student is stored beside it, as
model/denoiser_student. `experiments/distill.py:wan22_5b` is the same for the memory branch of
Wan2.2-TI2V-5B with the numbers of Causal Forcing (learning rate 2e-6, betas 0 and .999, batch 8,
3,000 steps, 48 levels shifted by 5): the branch becomes the student, the backbone stays frozen.
Measured: see docs/distillation.md. `--config.tiny=true` runs all stages on a CPU.
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
    training.init_from = ""
    training.accumulate = 1
    training.optimizer = "adamw"
    training.clip_norm = 1.0

    tiny = dict(c.tiny_overrides)
    tiny |= {
        "distill_training.steps": 4,
        "distill_training.batch_size": 4,
        "distill_training.levels": 8,
    }
    c.tiny_overrides = tuple(tiny.items())
    return c
