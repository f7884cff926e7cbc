"""Compiling fast leaves what the user has set."""

import os

import jax
import pytest

from mirage_jax.cli.compilation import compile_fast

FLAG = "--xla_cpu_use_fusion_emitters"


@pytest.mark.parametrize(
    ("version", "before", "after"),
    [
        ("0.10.2", "", f"{FLAG}=false"),
        ("0.10.2", "--xla_a=1", f"--xla_a=1 {FLAG}=false"),
        ("0.10.2", f"{FLAG}=true", f"{FLAG}=true"),
        ("0.12.0", "--xla_a=1", "--xla_a=1"),  # XLA does not know it there
    ],
)
def test_flags_that_are_set_stay(monkeypatch, version, before, after):
    monkeypatch.setattr(jax, "__version__", version)
    monkeypatch.setenv("XLA_FLAGS", before)
    compile_fast()
    assert jax.config.values["jax_disable_most_optimizations"]
    assert os.environ["XLA_FLAGS"] == after
