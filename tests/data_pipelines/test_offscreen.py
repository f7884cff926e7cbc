"""Rendering without a screen, where it does not work."""

import importlib.util

import pytest

from data_pipelines.sources import offscreen
from data_pipelines.sources.labmaze import LabmazeSource


# Not imported: it would bind to a window's OpenGL, in this process, for all tests that follow.
@pytest.mark.skipif(importlib.util.find_spec("mujoco") is None, reason="mujoco is not installed")
def test_a_broken_backend_is_reported_not_raised(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "no-such-backend")
    available, reason = LabmazeSource.available()
    assert not available and "no-such-backend" in reason


def test_a_renderer_that_cannot_start_gives_its_reasons(monkeypatch):
    monkeypatch.delitem(offscreen.sys.modules, "mujoco", raising=False)
    monkeypatch.setattr(offscreen, "gl_backend", lambda: (None, "egl: no driver"))
    with pytest.raises(RuntimeError, match=r"no offscreen OpenGL .*egl: no driver"):
        offscreen.import_mujoco()
