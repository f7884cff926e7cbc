"""Traces of some steps of a run."""

import pytest

from helpers.tiny_task import Batches, Regression, settings
from mirage_jax import training
from mirage_jax.training.profiling import Profile


def test_the_trace_of_some_steps_is_written(tmp_path):
    training.fit(Regression(), Batches, workdir=tmp_path, **settings(6, profile_steps=(3, 4)))
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1


def test_a_profile_covers_its_steps_and_ends_with_the_run(monkeypatch, tmp_path):
    events, said = [], []
    monkeypatch.setattr("jax.profiler.start_trace", lambda folder: events.append("start"))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: events.append("stop"))
    # A run that goes on from step 3 records what is left.
    with Profile(tmp_path, (2, 5), said.append) as profile:
        for step in (4, 5, 6):
            profile.before(step)
            profile.after(step)
            events.append(step)
    assert events == ["start", 4, "stop", 5, 6] and len(said) == 1
    events.clear()
    with pytest.raises(KeyError), Profile(tmp_path, (2, 5), said.append) as profile:
        profile.before(2)
        raise KeyError
    assert events == ["start", "stop"]
    with Profile(tmp_path, (0, 0), said.append) as profile:
        profile.before(1)
    assert events == ["start", "stop"]
    with pytest.raises(ValueError, match=r"profile_steps: found \(5, 2\), expected 1 <= first"):
        Profile(tmp_path, (5, 2), said.append)
