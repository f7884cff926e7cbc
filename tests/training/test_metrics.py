"""Means, the lines of a file, and the line on the screen."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from mirage_jax.training.metrics import Mean, MetricsWriter, ProgressLine, read_metrics


def test_unfinished_means_survive_json():
    broken, whole = Mean(), Mean()
    values = np.random.default_rng(0).normal(size=10)
    for value in values[:4]:
        broken.add({"a": value})
    restored = Mean()
    restored.restore(json.loads(json.dumps(broken.state())))
    for value in values[4:]:
        restored.add({"a": value})
    for value in values:
        whole.add({"a": value})
    assert restored.take() == whole.take()


def test_the_time_left_is_that_of_the_steps_left():
    console = Console(record=True, file=io.StringIO(), width=200)
    line = ProgressLine("worlds", 100, start=30, console=console)
    line.update(31, loss=4.0, seconds=500.0)  # the first step of a process is not typical
    for step in range(32, 41):
        line.update(step, loss=4.0, seconds=2.5)
    line.report(40)
    assert console.export_text() == "worlds  40/100  40%  loss 4  2500 ms/step  ETA 0:02:30\n"


def test_a_truncated_line_is_dropped_and_damage_elsewhere_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 2.0}]
    path.write_text('{"step": 1}\nrubbish\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl:2: found 'rubbish"):
        read_metrics(path)


def test_what_came_after_a_roll_back_is_gone_from_the_file(tmp_path):
    writer = MetricsWriter(tmp_path)
    for step in (2, 4, 6):
        writer.scalars(step, {"loss": 1.0})
    writer.rewind(4)
    writer.scalars(5, {"loss": 2.0})
    writer.close()
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 5]
