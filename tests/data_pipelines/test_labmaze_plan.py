"""Floor plans of mazes."""

import numpy as np
import pytest

from data_pipelines.sources.labmaze_plan import CLEARANCE, make_plan


def test_plan_keeps_cameras_off_walls_and_props():
    pytest.importorskip("labmaze", reason="labmaze is not installed")
    plan = make_plan(3)
    rng = np.random.default_rng(0)
    points = rng.uniform(-2.0, 24.0, (4000, 2))
    free = points[plan.is_free(points)]
    assert len(free) > 100
    for row, column in np.argwhere(plan.wall).tolist():
        gap = np.abs(free - plan.centre(row, column)).max(1) - 1.0  # to the wall's square
        assert gap.min() > CLEARANCE - 1e-9
    for x, y, radius in plan.props:
        assert np.linalg.norm(free - [x, y], axis=1).min() > radius + CLEARANCE
