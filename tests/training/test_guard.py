"""Steps that must not count: skipped without a trace, counted, and rolled back from."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from helpers.tiny_task import Batches, Regression, settings
from mirage_jax import training
from mirage_jax.training import checkpoints, guard, state
from mirage_jax.training.guard import Guard
from mirage_jax.training.metrics import read_metrics
from mirage_jax.training.task import Task


def poisoned(*bad, factor=np.nan):
    """Batches of which the numbers `bad`, from 1, are not finite or far too large."""

    class Poisoned(Batches):
        def __next__(self):
            batch = super().__next__()
            return {"x": batch["x"] * np.float32(factor if self.number in bad else 1)}

    return Poisoned


def fit(workdir, steps, batches, task=None, **changes):
    console = Console(record=True, file=io.StringIO(), width=250)
    seen = {}
    final = training.fit(
        task or Regression(),
        batches,
        workdir=workdir,
        on_step=lambda step, values: seen.update({step: values}),
        **settings(steps, **{"console": console, "save_every": 2, "log_every": 2, **changes}),
    )
    return final, seen, console.export_text()


def bits(tree):
    def raw(leaf):
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes()

    return [raw(leaf) for leaf in jax.tree.leaves(tree)]


def test_the_verdict_on_a_sequence_of_norms():
    limits = Guard(spike=3.0, window=3)
    norms = [1.0, 5.0, np.nan, 3.0, 9.1, np.inf, 8.9, 2.0]
    losses = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, np.nan, 1.0]
    # Three steps of any size, then at most 3 x their mean of 3; the loss counts as well.
    expected = [True, True, False, True, False, False, False, True]
    now, found = guard.begin(), []
    judge = jax.jit(lambda *arguments: guard.judge(limits, *arguments))
    for step, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
        ok, now = judge(now, jnp.int32(step), jnp.float32(loss), jnp.float32(norm))
        found.append(bool(ok))
    assert found == expected
    assert int(now.skipped) == 4
    # The mean of 1, 5, 3, then a third of the way to 2.
    assert float(now.norm) == pytest.approx(3 + (2 - 3) / 3)


def test_without_a_limit_only_what_is_no_number_is_skipped():
    for norm, expected in ((1e30, True), (np.inf, False), (np.nan, False)):
        ok, _ = guard.judge(Guard(), guard.begin(), jnp.int32(5), jnp.float32(0), jnp.float32(norm))
        assert bool(ok) is expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"spike": 0.5}, "spike: found 0.5, expected 0 or more than 1"),
        ({"window": 0}, "window: found 0"),
        ({"patience": 0}, "patience: found 0"),
        ({"rollbacks": -1}, "rollbacks: found -1"),
    ],
)
def test_limits_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Guard(**fields)


class Line(Task):
    def init(self, key):
        return {"kernel": jnp.ones((2, 2))}

    def loss(self, params, batch, key, *, train, frozen=None):
        return jnp.sum(params["kernel"] * batch), {}


def test_a_skipped_step_leaves_everything_and_counts():
    optimizer = optax.adam(lambda count: 0.1 / (1 + count))
    begin = state.unboxed(Line(), optimizer, seed=0, with_ema=True)
    schedule = lambda count: 0.1 / (1 + count)  # noqa: E731
    step = jax.jit(state.make_step(Line(), optimizer, ema_decay=0.9, schedule=schedule))
    good, bad = jnp.full((2, 2), 0.5), jnp.full((2, 2), jnp.inf)
    once, metrics = step(begin, good, None)
    assert metrics["skipped"] == 0
    after, metrics = step(once, bad, None)
    assert metrics["skipped"] == 1 and int(after.step) == 2
    for part in ("params", "opt_state", "ema"):
        assert bits(getattr(after, part)) == bits(getattr(once, part))
    assert int(after.guard.skipped) == 1
    # Goes on as if it had not been: optimizer and learning rate have seen one step.
    _, metrics = step(after, good, None)
    assert metrics["learning_rate"] == pytest.approx(0.05)
    assert step._cache_size() == 1


def test_a_few_bad_batches_are_skipped_and_counted(tmp_path):
    task = Regression()
    final, seen, text = fit(tmp_path, 8, poisoned(3, 4, 7), task)
    assert [step for step, values in seen.items() if values["skipped"]] == [3, 4, 7]
    assert int(final.guard.skipped) == 3 and task.traces == 1
    lines = {line["step"]: line for line in read_metrics(tmp_path / "metrics.jsonl")}
    assert [lines[step]["skipped"] for step in (2, 4, 6, 8)] == [0, 1, 0, 0.5]
    # Means are of the steps that counted.
    assert "loss" not in lines[4]
    assert lines[8]["loss"] == pytest.approx(seen[8]["loss"])
    assert text.count("skipped step") == 2 and "skipped step 3: loss nan" in text
    # Never a checkpoint among skipped steps.
    fit(tmp_path / "kept", 5, poisoned(3, 4), keep=9)
    assert checkpoints.saved_steps(tmp_path / "kept" / "checkpoints") == [2, 5]


BACK = {"guard": Guard(patience=3), "save_every": 2, "log_every": 2}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A run of ten steps that meets three bad batches."""
    folder = tmp_path_factory.mktemp("unbroken")
    final, _, text = fit(folder, 10, poisoned(5, 6, 7), **BACK)
    assert "rolling back to step 4, past the batches up to number 8" in text
    return folder, final


def test_many_in_a_row_roll_back_to_the_checkpoint_and_past_the_bad_batches(unbroken, tmp_path):
    folder, final = unbroken
    assert int(final.step) == 10 and int(final.guard.skipped) == 0
    assert checkpoints.read_meta(folder / "checkpoints" / "10")["batches"] == 14
    assert [line["step"] for line in read_metrics(folder / "metrics.jsonl")] == [2, 4, 6, 8, 10]
    # What it did is what a run does that never met them.
    other = lambda start: Batches(start if start < 4 else start + 4)  # noqa: E731
    fit(tmp_path, 4, other, **BACK)
    clean, _, _ = fit(tmp_path, 10, other, **BACK)
    assert bits(clean) == bits(final)


def lines_without_time(folder):
    return [
        {name: value for name, value in line.items() if not name.startswith("time/")}
        for line in read_metrics(folder / "metrics.jsonl")
    ]


@pytest.mark.parametrize(("last", "times"), [(8, 1), (6, 2)], ids=["before", "after"])
def test_a_run_that_dies_around_a_rollback_is_resumed_exactly(last, times, unbroken, tmp_path):
    """Step 8 is on its way when the run rolls back to 4, so step 6 is seen twice."""
    folder, expected = unbroken
    reached = []

    def die(step, _):
        reached.append(step)
        if reached.count(last) == times:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.fit(
            Regression(), poisoned(5, 6, 7), workdir=tmp_path, on_step=die, **settings(10, **BACK)
        )
    found, _, _ = fit(tmp_path, 10, poisoned(5, 6, 7), **BACK)
    assert bits(found) == bits(expected)
    assert lines_without_time(tmp_path) == lines_without_time(folder)


def test_it_gives_up_where_rolling_back_does_not_help(tmp_path):
    limits = Guard(patience=2, rollbacks=2)
    with pytest.raises(training.Diverged, match=r"2 times did not help; .* steps \[2, 4\] are"):
        fit(tmp_path, 20, poisoned(*range(5, 100)), guard=limits)
    with pytest.raises(training.Diverged, match=r"step 2: loss nan.*no checkpoint to roll back to"):
        fit(tmp_path / "first", 20, poisoned(1, 2), guard=limits)


def test_spikes_are_skipped_where_asked(tmp_path):
    spiked = poisoned(8, factor=300)
    _, seen, text = fit(tmp_path / "limit", 9, spiked, guard=Guard(spike=10.0, window=5))
    assert [step for step, values in seen.items() if values["skipped"]] == [8]
    assert "more than 10 times its average" in text
    _, seen, _ = fit(tmp_path / "none", 9, spiked)
    assert not any(values["skipped"] for values in seen.values())
