import json

import pytest

from mirage_jax.cli.helpers import timing
from mirage_jax.cli.helpers.timing import booked, timed
from mirage_jax.io.workdir import Workdir


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only when told."""

    class Clock:
        now = 1000.0

        def wait(self, seconds):
            self.now += seconds

    it = Clock()
    monkeypatch.setattr(timing.time, "monotonic", lambda: it.now)
    return it


def test_calls_that_did_something_add_up(tmp_path, clock):
    workdir, out = Workdir(tmp_path), tmp_path / "out"
    for number, wait in enumerate((2.0, 3.5)):
        with timed(workdir, "encoder", out):
            clock.wait(wait)
            out.mkdir(exist_ok=True)
            (out / f"{number}.npy").write_text("x")
    assert booked(workdir) == {"encoder": 5.5}
    with timed(workdir, "encoder", out, tmp_path / "absent"):
        clock.wait(1.0)
        (out / "card.json").write_text(json.dumps({}))
    assert booked(workdir) == {"encoder": 5.5}  # found everything done
    with timed(workdir, "encoder", out):
        clock.wait(0.5)
        (out / "1.npy").write_text("another")
    assert booked(workdir) == {"encoder": 6.0}


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_a_stage_that_is_broken_off_is_booked(error, tmp_path, clock):
    workdir = Workdir(tmp_path)
    with pytest.raises(error), timed(workdir, "encoder", tmp_path / "out"):
        clock.wait(2.0)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "checkpoint").write_text("x")
        raise error
    assert booked(workdir) == {"encoder": 2.0}


def test_a_stage_that_starts_over_replaces_its_time(tmp_path, clock):
    workdir = Workdir(tmp_path)
    for wait in (4.0, 3.0):
        with timed(workdir, "evaluate"):
            clock.wait(wait)
    assert booked(workdir) == {"evaluate": 3.0}
