"""Students beside teachers: who is sampled how often, and scores of what it decodes to."""

import numpy as np

from helpers import tiny_world
from mirage_jax.evaluation import few_steps
from mirage_jax.evaluation.protocol import HeldOut
from mirage_jax.world import WorldModel
from mirage_jax.world.options import SamplerOptions


def test_both_take_the_same_steps_and_the_teacher_many_more():
    teacher = SamplerOptions(steps=2, shift=3.0, method="unipc")
    student = SamplerOptions(steps=2, shift=3.0, method="consistency")
    found = few_steps.samplers(teacher, student, (4, 1), 20)
    assert {name: list(by_steps) for name, by_steps in found.items()} == {
        "teacher": [1, 4, 20],
        "student": [1, 4],
    }
    for name, options in (("teacher", teacher), ("student", student)):
        for steps, sampler in found[name].items():
            assert (sampler.steps, sampler.shift, sampler.method) == (steps, 3.0, options.method)
    assert list(few_steps.samplers(teacher, None, (1,), 20)) == ["teacher"]


def test_scores_are_means_over_the_revisited_frames(monkeypatch):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (3, 9, 32, 32, 3)).astype(np.uint8)

    class Model(tiny_world.stand_in(WorldModel)):
        def __init__(self, sampler=None):
            self.sampler = sampler

        def replace(self, sampler):
            return Model(sampler)

    class Clips(tiny_world.stand_in(HeldOut)):
        video, clips = truth, None

        def fitted(self, model):
            return model

    def videos(method, clips, size, seed):
        """The truth with an error of as many grey levels as the model takes steps."""
        steps = method(None, None)
        changed = truth.astype(int)
        changed[:, :-4] = 0  # what is not revisited does not count
        return (changed + np.where(changed > 127, -steps, steps)).astype(np.uint8)

    monkeypatch.setattr(few_steps, "in_batches", videos)
    monkeypatch.setattr(few_steps.jax, "jit", lambda function: lambda m, *_: m.sampler.steps)
    calls = []
    options = few_steps.samplers(SamplerOptions(), None, (1, 2), 8)
    found = few_steps.measure(
        {"teacher": Model()},
        options,
        {"maze": Clips()},
        seed=0,
        weights=None,
        advance=lambda: calls.append(1),
    )
    rows = found["maze"]["teacher"]
    assert list(rows) == [1, 2, 8] and len(calls) == 3 and "lpips" not in rows[1]
    for steps in rows:
        np.testing.assert_allclose(rows[steps]["psnr"], 20 * np.log10(255 / steps), rtol=1e-6)
    assert rows[1]["ssim"] > rows[2]["ssim"] > rows[8]["ssim"]
