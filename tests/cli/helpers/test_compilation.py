"""How programs are compiled leaves what the user has set."""

import os

import jax
import pytest

from mirage_jax.cli.helpers import compilation

EMITTERS, PASSES = "--xla_cpu_use_fusion_emitters", "--xla_disable_hlo_passes"
UNCHECKED = f"{PASSES}=hlo-verifier"
FAST = f"{EMITTERS}=false {UNCHECKED}"
OWN = "--xla_cpu_experimental_ynn_fusion_type"
REDUCE = f"{OWN}=LIBRARY_FUSION_TYPE_REDUCE"


@pytest.mark.parametrize(
    ("choose", "version", "before", "after"),
    [
        ("compile_fast", "0.10.2", "", FAST),
        ("compile_fast", "0.10.2", "--xla_a=1", f"--xla_a=1 {FAST}"),
        ("compile_fast", "0.10.2", f"{EMITTERS}=true", f"{EMITTERS}=true {UNCHECKED}"),
        ("compile_fast", "0.10.2", f"{PASSES}=dce", f"{PASSES}=dce {EMITTERS}=false"),
        ("compile_fast", "0.12.0", "--xla_a=1", "--xla_a=1"),  # XLA does not know it there
        ("use_own_kernels", "0.10.2", "--xla_a=1", f"--xla_a=1 {REDUCE}"),
        ("use_own_kernels", "0.12.0", "", REDUCE),
        ("use_own_kernels", "0.12.0", f"{OWN}=LIBRARY_FUSION_TYPE_DOT", None),
        ("use_own_kernels", "0.13.0", "", ""),  # nobody has looked
    ],
)
def test_flags_that_are_set_stay(monkeypatch, choose, version, before, after):
    monkeypatch.setattr(compilation, "_JAX", version)
    monkeypatch.setenv("XLA_FLAGS", before)
    getattr(compilation, choose)()
    assert os.environ["XLA_FLAGS"] == (before if after is None else after)


def test_fast_compilation_skips_what_makes_programs_fast(monkeypatch):
    option = "jax_disable_most_optimizations"
    before = jax.config.values[option]
    monkeypatch.delenv(option.upper(), raising=False)
    try:
        jax.config.update(option, False)
        compilation.compile_fast()
        assert jax.config.values[option]
        assert os.environ[option.upper()] == "1"  # for processes begun later
    finally:
        jax.config.update(option, before)
