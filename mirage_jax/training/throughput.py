"""How fast a run is and how full its devices are: tokens per second, utilisation, memory."""

from __future__ import annotations

import dataclasses
import resource

import jax

from mirage_jax.parallel.topology import GIB, peak_flops


@dataclasses.dataclass(frozen=True)
class Throughput:
    """The work of a step, to be divided by the time it takes.

    Attributes:
      device_kind: of the devices, `jax.Device.device_kind`.
      devices: how many take part.
      flops: of the matrix products of a step, over all devices; what rematerialisation repeats
        counts, so with it the utilisation is that of the hardware.
      tokens: that the network works on in a step, over all devices; 0 where the task has none.
    """

    device_kind: str
    devices: int
    flops: int
    tokens: int = 0

    def rates(self, seconds: float, waited: float) -> dict[str, float]:
        """Named rates of a step that took so long, waiting for data included.

        `tokens_per_second` where there are tokens, `mfu` (share of the bfloat16 peak) where the
        device is known, `data_share`, and `memory_gib`, the most a device of this process has held
        at once; without devices of their own memory, what the process has.
        """
        found = {"memory_gib": peak_memory() / GIB}
        if seconds <= 0:
            return found
        found["data_share"] = waited / seconds
        if self.tokens:
            found["tokens_per_second"] = self.tokens / seconds
        peak = peak_flops(self.device_kind)
        if peak:
            found["mfu"] = self.flops / seconds / (peak * self.devices)
        return found

    def line(self, seconds: float, waited: float) -> str:
        """The same for the end of a progress line."""
        rates = self.rates(seconds, waited)
        parts = []
        if "tokens_per_second" in rates:
            parts.append(f"{format_count(rates['tokens_per_second'])} tokens/s")
        if "mfu" in rates:
            parts.append(f"MFU {100 * rates['mfu']:.1f}%")
        parts.append(f"data {100 * rates.get('data_share', 0.0):.0f}%")
        parts.append(f"{rates['memory_gib']:.2f} GiB")
        return "  ".join(parts)


def peak_memory() -> int:
    """Most bytes in use so far: on this process's fullest device, else by the process (Linux)."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [found["peak_bytes_in_use"] for found in stats if "peak_bytes_in_use" in found]
    return max(peaks) if peaks else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def format_count(count: float | int) -> str:
    """Three digits and k, M, G, T or P: 12.3k."""
    for unit in ("", "k", "M", "G", "T"):
        if count < 999.5:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.3g}P"
