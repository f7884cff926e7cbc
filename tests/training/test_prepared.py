"""Batches prepared by a thread are those that were drawn, in order, and one ahead at most."""

import threading
import time

import pytest

from mirage_jax.training.prepared import Prefetched, Prepared, placed


class Counted:
    """0, 1, 2, ...; `drawn` how many were, `thread` by whom."""

    def __init__(self, fails_at=None, seconds=0.0):
        self.drawn, self.thread, self.closed = 0, None, 0
        self.fails_at, self.seconds = fails_at, seconds

    def __iter__(self):
        return self

    def __next__(self):
        time.sleep(self.seconds)
        if self.drawn == self.fails_at:
            raise OSError("clip 3 is gone")
        self.drawn += 1
        self.thread = threading.current_thread()
        return self.drawn - 1

    def close(self):
        self.closed += 1


def wait_until(holds, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.002)
    assert holds()


def test_all_come_in_order_prepared_and_one_waits():
    source = Counted()
    batches = Prefetched(source, lambda number: number * 10)
    for number in range(5):
        wait_until(lambda expected=number + 1: source.drawn == expected)
        time.sleep(0.02)
        assert source.drawn == number + 1  # the one that waits, and none beyond it
        assert next(batches) == 10 * number
    batches.close()
    assert source.closed == 1 and source.thread is not threading.current_thread()
    wait_until(lambda: not source.thread.is_alive())
    assert next(batches, "ended") == "ended"


def test_the_next_is_drawn_while_the_last_is_used():
    source = Counted()
    batches = Prefetched(source)
    next(batches)
    wait_until(lambda: source.drawn == 2)  # without asking
    batches.close()


@pytest.mark.parametrize("prepared", [False, True])
def test_an_error_comes_where_its_batch_would_have(prepared):
    def fail(number):
        if number == 3:
            raise OSError("clip 3 is gone")
        return number

    batches = Prefetched(Counted(), fail) if prepared else Prefetched(Counted(fails_at=3))
    assert [next(batches) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="clip 3"):
        next(batches)
    assert next(batches, "ended") == "ended"


def test_batches_that_end_end():
    assert list(Prefetched(iter("abc"), str.upper)) == ["A", "B", "C"]


@pytest.mark.parametrize("kind", [Prefetched, Prepared])
def test_closing_closes_a_generator(kind):
    closed = []

    def endless():
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    batches = kind(endless())
    assert next(batches) == 1
    batches.close()
    assert closed == [True]


def test_a_draw_that_hangs_does_not_keep_closing_from_returning(monkeypatch):
    monkeypatch.setattr("mirage_jax.training.prepared._LONGEST_WAIT", 0.05)
    let_go = threading.Event()

    def hangs():
        let_go.wait(20)
        yield 1

    batches = Prefetched(hangs())
    batches.close()
    assert not let_go.is_set()
    let_go.set()


@pytest.mark.parametrize("computes", [False, True])
def test_batches_that_run_programs_are_drawn_by_the_loop_itself(computes):
    source = Counted()
    examples = ("wide", "tall")
    batches = placed(Prepared(source, examples=examples, computes=computes), lambda number: -number)
    assert next(batches) == 0 and next(batches) == -1 and batches.examples == examples
    assert (source.thread is threading.current_thread()) == computes
    if computes:
        assert source.drawn == 2
    batches.close()
    assert source.closed == 1
