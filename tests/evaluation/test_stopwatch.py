"""Order and medians of timed calls, by clocks of our own."""

from mirage_jax.evaluation import stopwatch


def test_calls_take_turns_and_the_median_counts(monkeypatch):
    clock, seen = iter(range(1000)), []
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: 0.0)
    monkeypatch.setattr(stopwatch.time, "process_time", lambda: float(next(clock) ** 2))
    calls = [lambda: seen.append("a"), lambda: seen.append("b")]
    first, second = stopwatch.median_times(calls, 3)
    assert seen == ["a", "b"] * 4
    # Of 0..1, 4..5, 8..9 and 2..3, 6..7, 10..11 squared.
    assert (first.cpu_ms, second.cpu_ms) == (9000.0, 13000.0) and first.ms == 0
