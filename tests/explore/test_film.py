import numpy as np

from mirage_jax.explore.film import Film
from mirage_jax.explore.ledger import KEPT, Ledger


def chunk(first, count=4):
    return [f"frame {first + n}".encode() for n in range(count)]


def test_a_film_follows_what_is_undone_and_done_again():
    film = Film(0, chunk(0, 1))
    film.append(chunk(1))
    film.append(chunk(5))
    film.go_to(5)
    assert film.pictures == chunk(0, 5)
    film.go_to(9)
    assert film.pictures == chunk(0, 9)
    film.go_to(1)
    film.append(chunk(100))
    film.go_to(9)  # what was undone is gone once one walks on
    assert film.pictures == chunk(0, 1) + chunk(100)
    assert film.end == 5


def test_a_film_that_went_back_before_its_first_frame_goes_on_from_there():
    film = Film(8, chunk(8, 1))
    film.go_to(5)
    assert (film.first, film.end, film.pictures) == (5, 5, [])
    film.append(chunk(5))
    assert (film.first, film.end) == (5, 9)


def test_a_copy_goes_on_by_itself():
    film = Film(0, chunk(0, 5))
    other = film.copy()
    other.append(chunk(5))
    film.go_to(1)
    assert film.pictures == chunk(0, 1)
    assert other.pictures == chunk(0, 9)


def test_the_oldest_frames_go_when_there_is_no_room():
    film = Film(0, [], max_bytes=100)
    for _ in range(100):
        film.append([bytes(10)] * 4)
        assert sum(map(len, film.pictures)) <= 100
    assert (film.first, film.end, film.dropped) == (390, 400, 390)


def test_a_ledger_gives_percentiles_of_the_newest_chunks():
    ledger = Ledger()
    for number in range(10_000):
        ledger.add({"read": float(number)})
    newest = np.arange(10_000 - KEPT, 10_000)
    (found,) = ledger.summary().values()
    assert found == {
        "median": float(np.median(newest)),
        "p95": round(float(np.percentile(newest, 95)), 3),
        "count": KEPT,
    }
