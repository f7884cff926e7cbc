"""Metrics for Weights & Biases, recorded only on request."""

import sys
import types

import numpy as np
import pytest

from helpers.tiny_task import Batches, Regression, settings
from mirage_jax import training
from mirage_jax.training.metrics import read_metrics
from mirage_jax.training.task import Samples
from mirage_jax.training.wandb_board import WandbBoard


class Service:
    """Stands for the package: remembers what it was given."""

    def __init__(self):
        self.runs = []

    def init(self, **options):
        run = types.SimpleNamespace(id=options["id"] or "abc", options=options, logged=[])
        run.define_metric = lambda *_, **__: None
        run.log = run.logged.append
        run.finish = lambda: run.logged.append("finished")
        self.runs.append(run)
        return run

    def Image(self, picture):
        return picture.shape


@pytest.fixture
def service(monkeypatch):
    service = Service()
    monkeypatch.setitem(sys.modules, "wandb", service)
    return service


def test_a_run_reports_to_its_board_and_goes_on_with_it(service, tmp_path):
    class Drawing(Regression):
        def samples(self, params, step):
            return Samples(np.zeros((4, 6, 3), np.uint8))

    for steps in (4, 6):
        training.fit(
            Drawing(),
            Batches,
            workdir=tmp_path,
            config={"width": 8},
            **settings(steps, log_every=2, sample_every=4, wandb="worlds"),
        )
    first, second = service.runs
    assert first.options["project"] == "worlds" and first.options["config"] == {"width": 8}
    assert (first.options["id"], second.options["id"]) == (None, "abc")
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [e for e in first.logged[:-1] if "loss" in e] == lines[:2]
    assert {"step": 4, "samples": (4, 6, 3)} in first.logged
    assert first.logged[-1] == second.logged[-1] == "finished"


def test_it_is_never_used_unasked_and_missed_by_name(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)  # what `import` makes of a missing package
    training.fit(Regression(), Batches, workdir=tmp_path, **settings(1))
    with pytest.raises(ValueError, match=r"wandb 'worlds': the package cannot be imp.*pip install"):
        WandbBoard(tmp_path, "worlds", "training")
