"""Rates worked out by hand, and the table of peaks."""

import types

import jax
import pytest

from mirage_jax.parallel.topology import peak_flops
from mirage_jax.training import throughput
from mirage_jax.training.throughput import Throughput


def test_rates_of_a_step(monkeypatch):
    fullest = types.SimpleNamespace(memory_stats=lambda: {"peak_bytes_in_use": 3 * 2**30})
    other = types.SimpleNamespace(memory_stats=lambda: {"peak_bytes_in_use": 2**30})
    monkeypatch.setattr(jax, "local_devices", lambda: [other, fullest])
    found = Throughput("NVIDIA H100 80GB HBM3", 8, flops=989 * 10**12 * 4, tokens=12_000)
    rates = found.rates(seconds=2.0, waited=0.5)
    assert rates == pytest.approx(
        {"memory_gib": 3.0, "data_share": 0.25, "tokens_per_second": 6000, "mfu": 0.25}
    )
    assert found.line(2.0, 0.5) == "6k tokens/s  MFU 25.0%  data 25%  3.00 GiB"


def test_what_is_not_known_is_left_out():
    rates = Throughput("cpu", 2, flops=10**9).rates(1.0, 0.0)
    assert set(rates) == {"memory_gib", "data_share"}
    # No device says so on a CPU: what the process has.
    assert 0.01 < rates["memory_gib"] < 100
    assert set(Throughput("cpu", 2, 10**9).rates(0.0, 0.0)) == {"memory_gib"}


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("TPU v5", 459e12),
        ("TPU v5 lite", 197e12),
        ("TPU v6 lite", 918e12),
        ("TPU7x", 1153.5e12),
        ("cpu", None),
        ("NVIDIA L400", None),
    ],
)
def test_peaks_by_the_name_of_the_device(kind, peak):
    assert peak_flops(kind) == peak


def test_counts_have_three_digits():
    shown = [throughput.format_count(n) for n in (0, 12.3, 999, 999.7, 12_345, 3.2e9, 5e15)]
    assert shown == ["0", "12.3", "999", "1k", "12.3k", "3.2G", "5P"]
