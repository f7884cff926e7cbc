"""`mirage bench denoiser` and `mirage bench vae`, without the measuring."""

import json
import sys

import jax.numpy as jnp
import pytest
from absl.testing import flagsaver

from mirage_jax.cli import bench
from mirage_jax.evaluation import network_costs


def outcome(subject, sizes, *, dtype, passes, repeats, notify):
    """Twice as fast as recorded in "10m", not run and nothing recorded in others."""
    notify(sizes[0])
    run = {
        "gflop": 30.0,
        "argument_bytes": 4_000_000,
        "temporary_bytes": 1_234_000_000,
        "ms": 200.0,
        "cpu_ms": 380.5,
        "of_matmul": 0.75,
        "recorded_ms": 400.0,
        "ratio": 2.0,
    }
    compiled = {**run, **dict.fromkeys(("ms", "cpu_ms", "of_matmul", "recorded_ms", "ratio"))}
    known = {name: name == "10m" for name in sizes}
    return {
        "subject": subject,
        "device": "abacus",
        "cores": 2,
        "jax": "1.2.3",
        "dtype": jnp.dtype(dtype).name,
        "repeats": repeats,
        "sizes": {
            name: {
                "matmul_gflops": 200.0 if known[name] else None,
                "passes": dict.fromkeys(passes, run if known[name] else compiled),
            }
            for name in sizes
        },
    }


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(network_costs, "measure", outcome)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mirage bench", *arguments])
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as leave:
            bench.cli()
        out, err = capsys.readouterr()
        return leave.value.code or 0, out, err

    return run


def test_numbers_are_printed_and_written(call, tmp_path):
    code, out, _ = call("denoiser", "--sizes=10m,5b", "--passes=forward", "--precision=bfloat16")
    assert code == 0
    found = json.loads((tmp_path / "bench_denoiser.json").read_text())
    assert found["dtype"] == "bfloat16" and set(found["sizes"]) == {"10m", "5b"}
    (fast,) = (line for line in out.splitlines() if "10m" in line)
    for text in ("200.0", "380.5", "30.0", "75%", "1,234", "400", "2.00"):
        assert text in fast
    (slow,) = (line for line in out.splitlines() if "5b" in line)
    assert "1,234" in slow and "2.00" not in slow
    # A recorded time is never shown as if it had been measured here.
    assert "not measured" in " ".join(out.split()) and "abacus" in out


def test_without_recorded_times_there_is_no_column_for_them(call, tmp_path):
    _, out, _ = call("vae", "--sizes=tiny", "--passes=encode", "--repeats=0", "--json=a.json")
    assert "recorded" not in out.lower() and "encode" in out
    assert json.loads((tmp_path / "a.json").read_text())["repeats"] == 0


def test_help_is_of_the_subject(call):
    code, out, _ = call("denoiser", "--help")
    assert code == 0 and "--sizes" in out and "--config" not in out


def test_unknown_subjects_and_sizes_are_one_line(call, monkeypatch):
    code, _, err = call("networks")
    assert code == 2
    assert "no subject 'networks', expected one of memory, explore, loader, " in err

    def refuse(*_, **__):
        raise ValueError("size: found 'huge', expected one of tiny")

    monkeypatch.setattr(network_costs, "measure", refuse)
    code, _, err = call("vae", "--sizes=huge")
    assert code == 2 and "size: found 'huge'" in err and "Traceback" not in err
